// Every port in a line, and the chosen one in full.

import { h, keyed, set, svg, write } from "./dom.js";
import { addressesOf, count, inOrder, percent, plural, short, span } from "./model.js";
import { spark } from "./plot.js";

const SPARK = { width: 72, height: 18 };

/** The columns: what the head says, what the lines are sorted by, and whether the largest comes first. */
const COLUMNS = [
  { id: "name", title: "Port", by: (line) => line.port.name },
  { id: "networks", title: "Networks", by: (line) => line.networks },
  { id: "address", title: "Addresses", by: (line) => line.addresses },
  { id: "device", title: "Behind it", by: (line) => `${line.port.kind} ${line.port.device}` },
  { id: "state", title: "State", by: (line) => line.port.state },
  { id: "rx", title: "In, bit/s", by: (line) => line.now.rx.bits, number: true },
  { id: "tx", title: "Out, bit/s", by: (line) => line.now.tx.bits, number: true },
  { id: "drops", title: "Drops", by: (line) => line.drops, number: true },
  { id: "spark", title: "5 min" },
];

export class Ports {
  #body = h("tbody");
  #count;
  #filter;
  #choose;
  #order = { column: COLUMNS[0], back: false };
  #heads = new Map();
  #last = null;

  /** A table in `root`, narrowed by the field `filter`; calls `choose` with the name of the port that is chosen. */
  constructor(root, filter, counter, choose) {
    [this.#filter, this.#count, this.#choose] = [filter, counter, choose];
    const head = h("tr", {}, ...COLUMNS.map((column) => this.#head(column)));
    root.append(h("table", {}, h("caption", { class: "unseen" }, "Ports and their rates"), h("thead", {}, head), this.#body));
    filter.addEventListener("input", () => this.#again());
  }

  draw(look, history, chosen) {
    this.#last = [look, history, chosen];
    const words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const lines = look.ports.map((port) => ({
      port,
      networks: look.carried.get(port.name).join(", "),
      now: history.now(port.name),
      drops: port.drops.reduce((sum, drop) => sum + drop.frames, 0),
      past: history.of(port.name),
      addresses: addressesOf(look, port.name),
      published: (look.places.get(port.name)?.published ?? []).join(" "),
      heard: heardOf(port, look),
      chosen: port.name === chosen,
    }));
    const text = ({ port, networks, addresses, published }) =>
      `${port.name} ${networks} ${addresses} ${published} ${port.kind} ${port.device} ${port.netns ?? ""} ${port.state}`;
    const shown = lines.filter((line) => words.every((word) => text(line).toLowerCase().includes(word)));
    shown.sort((a, b) => this.#compare(a, b));
    keyed(this.#body, shown, (line) => line.port.name, (line) => this.#line(line), fillLine);
    write(this.#count, shown.length === lines.length ? count(lines.length) : `${count(shown.length)} of ${count(lines.length)}`);
  }

  #again() {
    if (this.#last) this.draw(...this.#last);
  }

  #compare(a, b) {
    const { column, back } = this.#order;
    const [x, y] = [column.by(a), column.by(b)];
    const order = column.number ? x - y : inOrder(x, y);
    return (back ? -order : order) || inOrder(a.port.name, b.port.name);
  }

  #head(column) {
    if (!column.by) return h("th", { scope: "col", class: column.id }, column.title);
    const sort = () => {
      const again = this.#order.column === column;
      this.#order = { column, back: again ? !this.#order.back : !!column.number };
      this.#tellOrder();
      this.#again();
    };
    const cell = h("th", { scope: "col", class: column.id }, h("button", { onclick: sort }, column.title));
    this.#heads.set(column, cell);
    this.#tellOrder();
    return cell;
  }

  #tellOrder() {
    const { column, back } = this.#order;
    for (const [it, cell] of this.#heads) set(cell, { "aria-sort": it === column && (back ? "descending" : "ascending") });
  }

  #line({ port }) {
    const cell = (column, ...children) => h("td", { class: column.id }, ...children);
    const choose = h("button", { class: "link mono", onclick: () => this.#choose(port.name) }, port.name);
    const picture = svg("svg", { ...SPARK, "aria-hidden": "true" }, svg("path", { class: "line in" }));
    const middle = COLUMNS.slice(1, -1).map((column) => cell(column));
    return h("tr", {}, h("th", { scope: "row", class: "name" }, choose), ...middle, cell(COLUMNS.at(-1), picture));
  }
}

function fillLine(row, { port, networks, addresses, heard, now, drops, past, chosen }) {
  set(row, { class: [chosen && "chosen", port.state].filter(Boolean).join(" ") });
  set(row.firstElementChild.firstElementChild, { "aria-pressed": String(chosen) });
  const texts = [networks, addresses, `${port.kind} ${port.device}`, heard ? `${port.state}, ${heard}` : port.state, short(now.rx.bits), short(now.tx.bits), count(drops)];
  texts.forEach((text, index) => write(row.children[index + 1], text));
  spark(row.lastElementChild.firstElementChild.firstElementChild, past, SPARK.width, SPARK.height);
}

/** When a peer was last heard; of other ports nothing. */
function heardOf(port, look) {
  const peer = look.tunnel.peers.find((it) => it.name === port.name);
  if (!peer) return "";
  return peer.heard_ms == null ? "never heard" : `heard ${span(Math.floor(peer.heard_ms / 1000))} ago`;
}

/** The mirrors that get copies of what passes a port. */
function mirrorsOf(port, look) {
  const networks = look.carried.get(port.name) ?? [];
  const copies = ({ mirror }) => mirror?.ports?.includes(port.name) || mirror?.networks?.some((name) => networks.includes(name));
  return look.ports.filter(copies).map((it) => it.name);
}

/** What there is to know of one port, as pairs of a term and its description. */
export function facts(port, look) {
  const now = (way) => `${count(port[way].frames)} frames, ${count(port[way].bytes)} octets, ${plural(port[way].super_frames, "super-frame")}`;
  const peer = look.tunnel.peers.find((it) => it.name === port.name);
  const [place, copied] = [look.places.get(port.name), mirrorsOf(port, look)];
  const limits = Object.entries(port.limit ?? {}).map(([way, rate]) => `${way} ${rate}`);
  const apart = look.networks.filter((it) => it.options?.icc === "false" && look.carried.get(port.name).includes(it.name));
  return [
    ["State", port.state + (port.reason ? `: ${port.reason}` : "")],
    ["Behind it", `${port.kind} ${port.device}${port.netns ? ` in ${port.netns}` : ""}`],
    ["Networks", look.carried.get(port.name).map((name) => name + (port.trunk?.length && port.network === name ? " (untagged)" : "")).join(", ") || "none"],
    ...(port.mirror ? [["Copies of", [...(port.mirror.ports ?? []), ...(port.mirror.networks ?? [])].join(", ") + (port.mirror.direction ? `, ${port.mirror.direction}` : "")]] : []),
    ["MTU", peer ? `${count(peer.path_mtu)} on the way to it` : `${count(port.mtu)}${port.offload ? ", with offloads" : ""}`],
    ...(place ? [["Addresses", `${place.addresses.join(", ") || "none"} (${place.what})`]] : []),
    ...(place?.published.length ? [["Published", place.published.join(", ")]] : []),
    ...(peer ? [["Heard", heardOf(port, look).replace("heard ", "")]] : []),
    ...(limits.length ? [["Limits", limits.join(", ")]] : []),
    ...(port.guard ? [["Guard", port.guard.also ? `on, also ${port.guard.also.join(", ")}` : "on"]] : []),
    ...(apart.length ? [["Isolated", `from the other containers of ${apart.map((it) => it.name).join(", ")} (icc=false)`]] : port.isolated ? [["Isolated", "from the other isolated ports of its networks"]] : []),
    ...(copied.length ? [["Copied to", copied.join(", ")]] : []),
    ["Worker", `${port.worker}${look.loads[port.worker] == null ? "" : `, ${percent(look.loads[port.worker])} busy`}`],
    ["MACs", count(port.macs)],
    ["In", now("rx")],
    ["Out", now("tx")],
    ["Drops", port.drops.map((drop) => `${drop.reason} ${count(drop.frames)}`).join(", ") || "none"],
  ];
}
