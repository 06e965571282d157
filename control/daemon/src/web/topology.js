// The switch as a picture: a box whose lanes are the networks, and wires that leave it to the ports.
//
// Ports that carry the same networks share a wire, so the picture grows with what differs, not with every port: two
// hundred containers are beads on a few wires. A wire meets the lanes it carries in dots; lines that cross without a
// dot do not touch. All ports are one tab stop; arrow keys go from port to port.

import { keyed, set, svg, write } from "./dom.js";
import { addressesOf, bits, fairest, inOrder, plural, shorten } from "./model.js";

/** The most networks that are drawn as lanes; more would be a grey area. */
const LANES = 24;
/** How large ports are drawn, by how many there are. */
const SIZES = [
  { upTo: 24, width: 150, height: 42, font: 12.5, rates: true },
  { upTo: 90, width: 112, height: 25, font: 11.5 },
  { upTo: Infinity, width: 66, height: 18, font: 10, tight: true },
];
const HEAD = 24;

/** What stands behind a port, drawn within 10 by 10. */
const GLYPHS = {
  tap: "M5 1a4 4 0 1 0 .01 0Z",
  veth: "M4 2a3 3 0 1 0 .01 0ZM7 2a3 3 0 1 1-.01 0Z",
  packet: "M1 1h8v6h-2v2h-4v-2h-2Z",
  peer: "M5 0l5 5-5 5-5-5Z",
  vxlan: "M2.5 .7h5l2.5 4.3-2.5 4.3h-5l-2.5-4.3Z",
  collector: "M0 5l4-4h6v8h-6Z",
};
const OTHER = "M1 1h8v8h-8Z";
const DOWN = "M1 1l8 8M9 1l-8 8";

export class Topology {
  #root;
  #choose;
  #lanes = svg("g", { class: "lanes" });
  #wires = svg("g", { class: "wires" });
  #heads = svg("g");
  #ports = svg("g", { role: "listbox", "aria-label": "Ports; arrow keys go from one to the next, Enter chooses" });
  #box = svg("rect", { class: "box", rx: 5 });
  #name = svg("text", { class: "box-name", transform: "rotate(-90)", "text-anchor": "end", x: -10, y: 15 });
  #picture = svg("svg", {}, this.#box, this.#name, this.#lanes, this.#wires, this.#heads, this.#ports);
  #beads = [];
  #drawn = "";
  #width = 0;
  #last = null;

  /** Draws into `root`; calls `choose` with the name of the port that is chosen. */
  constructor(root, choose) {
    [this.#root, this.#choose] = [root, choose];
    root.append(this.#picture);
    this.#ports.addEventListener("keydown", (event) => this.#key(event));
    this.#ports.addEventListener("click", (event) => {
      const bead = event.target.closest("[role=option]");
      if (bead) this.#choose(bead.dataset.key);
    });
    new ResizeObserver(() => this.#last && this.draw(...this.#last)).observe(root);
  }

  /** Lets the keyboard go on from here. */
  focus() {
    (this.#ports.querySelector("[tabindex='0']") ?? this.#root).focus();
  }

  draw(look, history, chosen) {
    this.#last = [look, history, chosen];
    const width = this.#root.clientWidth;
    if (!width) return;
    const groups = wires(look);
    write(this.#name, shorten(look.status.name, 24));
    const shape = JSON.stringify([width, look.networks, groups.map((it) => [it.key, it.ports.map((port) => port.name)])]);
    if (shape !== this.#drawn) this.#arrange(look.networks, groups, width);
    // Ports glide to new places when others come and go, not when the window changes.
    set(this.#picture, { class: width !== this.#width && "still" });
    this.#width = width;
    this.#drawn = shape;
    const ports = new Map(look.ports.map((port) => [port.name, port]));
    keyed(this.#ports, this.#beads, (bead) => bead.port.name, makeBead, (element, bead) => {
      bead.port = ports.get(bead.port.name);
      bead.addresses = addressesOf(look, bead.port.name);
      fillBead(element, bead, history.now(bead.port.name), bead.port.name === chosen);
    });
    this.#keepStop();
  }

  /** Finds a place for everything. */
  #arrange(networks, groups, width) {
    const size = SIZES.find((it) => groups.reduce((sum, group) => sum + group.ports.length, 0) <= it.upTo);
    const lanes = networks.length <= LANES ? networks : [];
    // Whole pixels, for sharp letters.
    const gap = Math.floor(Math.max(6, Math.min(14, (width * 0.25) / Math.max(1, lanes.length))));
    const box = { x: 1, right: 1 + 30 + gap * Math.max(1, lanes.length) };
    const lane = new Map(lanes.map((it, index) => [it.name, { x: box.x + 22 + gap * (index + 0.5), from: Infinity, to: 0 }]));
    const left = box.right + 30;
    const space = size.tight ? 4 : 8;
    const names = groups.flatMap((group) => group.ports.map((port) => port.name));
    const edge = size.tight ? 3 : 8;
    const letter = size.font * 0.61;
    const longest = 2 * edge + 12 + letter * Math.max(0, ...names.map((name) => name.length));
    const wish = Math.max(size.width, Math.min(longest, 1.4 * size.width));
    const columns = Math.max(1, Math.round((width - left + space) / (wish + space)));
    const fair = Math.floor(Math.min(1.25 * wish, (width - left - 1 + space) / columns - space));
    const room = Math.floor((fair - 2 * edge - 10) / letter);
    const bead = { ...size, edge, width: fair, room, share: fairest(names, room) };

    const [lines, heads] = [[], []];
    this.#beads = [];
    let y = 6;
    for (const group of groups) {
      const color = group.single ? colorOf(networks, group.networks[0]) : "plain";
      heads.push(head(group, left, y + 14, width - left, color));
      const first = y + HEAD + size.height / 2;
      const dots = group.networks.map((name) => lane.get(name)).filter(Boolean);
      for (const dot of dots) [dot.from, dot.to] = [Math.min(dot.from, first), Math.max(dot.to, first)];
      const start = Math.min(box.right, ...dots.map((dot) => dot.x));
      const rows = Math.ceil(group.ports.length / columns);
      const last = first + Math.max(0, rows - 1) * (size.height + space);
      const spine = left - 12;
      let path = `M${start} ${first}H${rows ? spine : box.right + 8}`;
      if (rows > 1) path += `V${last}`;
      for (let row = 0; row < rows; row += 1) {
        const inRow = Math.min(columns, group.ports.length - row * columns);
        path += `M${spine} ${first + row * (size.height + space)}H${left + (inRow - 1) * (bead.width + space) + 4}`;
      }
      lines.push(svg("path", { d: path, class: `wire ${color} ${group.kind}` }));
      for (const name of group.networks.filter((name) => lane.has(name))) {
        const untagged = !group.single && group.untagged === name;
        lines.push(svg("circle", { cx: lane.get(name).x, cy: first, r: 3.5, class: `dot ${colorOf(networks, name)}${untagged ? " untagged" : ""}` }));
      }
      lines.push(svg("rect", { x: box.right - 3, y: first - 4, width: 6, height: 8, class: "socket" }));
      group.ports.forEach((port, index) => {
        const [column, row] = [index % columns, Math.floor(index / columns)];
        const place = { x: left + column * (bead.width + space), y: y + HEAD + row * (size.height + space) };
        this.#beads.push({ ...bead, ...place, port, color, networks: group.networks });
      });
      y += HEAD + Math.max(rows * (size.height + space), 14) + 8;
    }
    const height = Math.max(y, 60);
    set(this.#picture, { width, height, viewBox: `0 0 ${width} ${height}` });
    set(this.#box, { x: box.x, y: 1, width: box.right - box.x, height: height - 2 });
    this.#lanes.replaceChildren(
      ...lanes.filter((it) => lane.get(it.name).to).map((it) => {
        const { x, from, to } = lane.get(it.name);
        return svg("path", { d: `M${x} ${from}V${to}`, class: `lane ${colorOf(networks, it.name)}` });
      }),
    );
    this.#wires.replaceChildren(...lines);
    this.#heads.replaceChildren(...heads);
  }

  /** Exactly one port is reached by Tab: the one that was last, or the first. */
  #keepStop() {
    const stops = this.#ports.querySelectorAll("[tabindex='0']");
    if (stops.length === 1) return;
    for (const stop of stops) set(stop, { tabindex: -1 });
    const first = this.#ports.firstElementChild;
    if (first) set(first, { tabindex: 0 });
  }

  #key(event) {
    const at = this.#beads.findIndex((bead) => bead.port.name === event.target.dataset.key);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") this.#choose(this.#beads[at].port.name);
    const to = this.#neighbour(at, event.key);
    if (to === null && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    if (to === null) return;
    set(event.target, { tabindex: -1 });
    set(this.#ports.children[to], { tabindex: 0 }).focus();
  }

  /** The port that an arrow key leads to. */
  #neighbour(at, key) {
    const beads = this.#beads;
    const end = beads.length - 1;
    const across = (down) => {
      const beyond = beads.map((bead, index) => ({ bead, index })).filter(({ bead }) => (bead.y - beads[at].y) * down > 0);
      const distance = ({ bead }) => Math.abs(bead.y - beads[at].y) * 1000 + Math.abs(bead.x - beads[at].x);
      return beyond.sort((a, b) => distance(a) - distance(b))[0]?.index ?? at;
    };
    switch (key) {
      case "ArrowRight": return Math.min(at + 1, end);
      case "ArrowLeft": return Math.max(at - 1, 0);
      case "ArrowDown": return across(1);
      case "ArrowUp": return across(-1);
      case "Home": return 0;
      case "End": return end;
      default: return null;
    }
  }
}

/** Ports by the networks they carry: each network with its access ports, then trunks, then the tunnel; then mirrors, which carry none. */
function wires({ networks, ports, carried }) {
  const groups = new Map(
    networks.map((it) => [`access ${it.name}`, { kind: "access", single: true, network: it, networks: [it.name], ports: [] }]),
  );
  for (const port of ports) {
    const tunnel = port.kind === "peer" || port.kind === "vxlan";
    const names = carried.get(port.name);
    const kind = tunnel ? "tunnel" : port.mirror ? "mirror" : port.trunk?.length || names.length !== 1 ? "trunk" : "access";
    const key = [kind, ...names, kind === "trunk" ? `/${port.network ?? ""}` : ""].join(" ").trim();
    const group = { kind, single: false, networks: names, untagged: tunnel ? null : port.network, ports: [] };
    if (!groups.has(key)) groups.set(key, group);
    groups.get(key).ports.push(port);
  }
  const order = ["access", "trunk", "tunnel", "mirror"];
  const endpointFirst = (a, b) => (b.kind === "vxlan") - (a.kind === "vxlan") || inOrder(a.name, b.name);
  for (const group of groups.values()) group.ports.sort(endpointFirst);
  const made = [...groups].map(([key, group]) => ({ key, ...group }));
  return made.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
}

/** Eight colours go round; the name stands beside each. */
function colorOf(networks, name) {
  return `net${networks.findIndex((it) => it.name === name) % 8}`;
}

function head(group, x, y, room, color) {
  const { network, networks, ports } = group;
  const [name, ...more] = network
    ? [network.name, ...(network.subnet ?? []).map(({ subnet, gateway }) => (gateway ? `${subnet} by ${gateway}` : subnet)), network.internal && "internal", network.vlan && `vlan ${network.vlan}`, network.vni && `vni ${network.vni}`, plural(ports.length, "port"), plural(network.macs, "MAC")]
    : [group.kind, networks.length ? networks.join(", ") : "no network", plural(ports.length, "port")];
  const rest = more.filter(Boolean).join(" · ");
  const mark = svg("rect", { x, y: y - 9, width: 9, height: 9, rx: 2, class: `mark ${color}` });
  const text = svg("text", { x: x + 15, y, class: "head" }, svg("tspan", { class: "name" }, shorten(name, 24)));
  const letters = Math.floor((room - 20) / 6.6) - Math.min(name.length, 24) - 2;
  if (letters > 4) text.append(svg("tspan", { dx: 8, class: "quiet" }, rest.length > letters ? `${rest.slice(0, letters - 1)}…` : rest));
  return svg("g", {}, svg("title", {}, `${name}: ${rest}`), mark, text);
}

function makeBead({ port }) {
  return svg(
    "g",
    { role: "option", tabindex: -1, class: "bead fresh" },
    svg("title"),
    svg("rect", { class: "body", rx: 4 }),
    svg("rect", { class: "load", height: 2, rx: 1 }),
    svg("path", { class: "glyph" }),
    svg("text", { class: "label" }, port.name),
    svg("text", { class: "rates" }),
  );
}

function fillBead(element, bead, now, chosen) {
  const { port, width, height, font, edge } = bead;
  const [title, body, load, glyph, label, rates] = element.children;
  const up = port.state === "up";
  const busy = now.rx.bits + now.tx.bits;
  element.style.transform = `translate(${bead.x}px, ${bead.y}px)`;
  set(element, {
    class: `bead ${bead.color}${up ? "" : " down"}`,
    "aria-selected": String(chosen),
    "aria-label": `${port.name}, ${port.kind}, ${port.state}, ${bead.networks.join(" and ") || "no network"}`,
  });
  write(title, `${port.name}: ${bead.addresses && `${bead.addresses}, `}${port.kind} ${port.device}, ${port.state}${port.reason ? `: ${port.reason}` : ""}`);
  set(body, { width, height });
  // From 1 kbit/s to 10 Gbit/s: seven powers of ten.
  const full = Math.max(0, Math.min(1, Math.log10(busy / 1000) / 7));
  set(load, { x: 4, y: height - (bead.tight ? 2.5 : 4), width: busy > 1000 ? (width - 8) * full : 0 });
  const middle = bead.rates ? 14 : height / 2;
  set(glyph, { d: up ? (GLYPHS[port.kind] ?? OTHER) : DOWN, transform: `translate(${edge} ${middle - 5})${bead.tight ? " scale(.85)" : ""}` });
  set(label, { x: 2 * edge + 8, y: middle + font * 0.36, "font-size": font });
  write(label, shorten(port.name, bead.room, bead.share));
  set(rates, { x: 8, y: height - 10 });
  const first = bead.addresses.split(", ")[0] || port.kind;
  const still = first.length + 14 > (width - 16) / 6 ? first : `${first} · ${bits(busy)}`;
  write(rates, bead.rates ? (up ? still : `${port.kind} · down`) : "");
}
