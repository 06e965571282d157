// The MAC table, searched: every word must fit the MAC address, an IP address of its station, the network or the port.

import { h, keyed, searched, write } from "./dom.js";
import { ask, count, plural, span } from "./model.js";

/** Lines that are shown at most; a table of a million is searched, not read. */
const SHOWN = 200;
/** Milliseconds after which the same search is asked again, if its answer was not long. */
const AGAIN = 3000;
const LONG = 5000;

export class Fdb {
  #field;
  #said;
  #body = h("tbody");
  #choose;
  #look = null;
  /** The IP addresses of known stations, by network and MAC address. */
  #stations = new Map();
  #found = 0;
  #asked = 0;
  #turn = 0;

  /** A table in `root`, searched by the field `field`; calls `choose` with the name of the port that is chosen. */
  constructor(root, field, said, choose) {
    [this.#field, this.#said, this.#choose] = [field, said, choose];
    const heads = ["MAC", "Address", "Network", "Port", "Age"].map((title) => h("th", { scope: "col", class: title === "Network" && "networks" }, title));
    root.append(h("table", {}, h("caption", { class: "unseen" }, "MAC table"), h("thead", {}, h("tr", {}, ...heads)), this.#body));
    searched(field, () => this.search());
  }

  /** Takes note of what there is, and asks again in its time. */
  draw(look) {
    const first = !this.#look;
    this.#look = look;
    this.#stations = new Map([...look.places.values()].filter((it) => it.mac).map((it) => [it.mac, it.addresses]));
    if (first || (Date.now() - this.#asked > AGAIN && this.#found <= LONG)) this.search();
  }

  /** Searches for `text`. */
  searchFor(text) {
    this.#field.value = text;
    this.search();
  }

  async search() {
    if (!this.#look) return;
    const words = this.#field.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.#asked = Date.now();
    const turn = (this.#turn += 1);
    try {
      const entries = await ask(`/v1/fdb${narrow(words, this.#look)}`);
      if (turn !== this.#turn) return; // A later search is under way.
      this.#found = entries.length;
      for (const entry of entries) entry.addresses = this.#stations.get(`${entry.network} ${entry.mac}`) ?? atGateway(entry, this.#look);
      this.#show(entries.filter((entry) => words.every((word) => fits(entry, word))));
    } catch (error) {
      if (turn === this.#turn) write(this.#said, `Cannot search: ${error.message}`);
    }
  }

  #show(entries) {
    const all = this.#look.status.macs;
    const what = this.#field.value.trim() ? `${count(entries.length)} of ${plural(all, "address", "addresses")}` : `${count(entries.length)} known`;
    write(this.#said, entries.length > SHOWN ? `${what}, the first ${SHOWN} shown` : what);
    keyed(this.#body, entries.slice(0, SHOWN), (it) => `${it.network} ${it.mac}`, () => this.#line(), fillLine);
  }

  #line() {
    const choose = h("button", { class: "link mono", onclick: () => this.#choose(choose.textContent) });
    return h("tr", {}, h("th", { scope: "row", class: "mono" }), h("td", { class: "mono address" }), h("td", { class: "networks" }), h("td", {}, choose), h("td", { class: "age" }));
  }
}

function fillLine(row, entry) {
  const [mac, addresses, network, port, age] = row.children;
  write(mac, entry.mac);
  write(addresses, entry.addresses.join(", "));
  write(network, entry.network);
  write(port.firstElementChild, entry.port);
  const heard = entry.age_ms == null ? "pinned" : span(Math.floor(entry.age_ms / 1000));
  write(age, entry.held ? `${heard}, held` : heard);
}

/** What the daemon can narrow by itself: a word that is a whole name, and a whole address. */
function narrow(words, { networks, ports }) {
  const query = new URLSearchParams();
  for (const word of words) {
    const network = networks.find((it) => it.name.toLowerCase() === word);
    const port = ports.find((it) => it.name.toLowerCase() === word);
    const digits = word.replaceAll(/[:.-]/g, "");
    const others = [...networks, ...ports].some((it) => it !== network && it !== port && it.name.toLowerCase().includes(word));
    if (/^[0-9a-f]{12}$/.test(digits) && !isAddress(word) && !network && !port && !others) query.set("mac", digits.match(/../g).join(":"));
    else if (network && !port && !others && !isHex(word)) query.set("network", network.name);
    else if (port && !network && !others && !isHex(word)) query.set("port", port.name);
  }
  return query.size ? `?${query}` : "";
}

/** The addresses of a gateway, whose MAC address only the table knows. */
const atGateway = (entry, look) => (entry.origin === "pinned" && entry.port === `gw.${entry.network}` ? look.places.get(entry.port)?.addresses : null) ?? [];

const isAddress = (word) => /^\d+(\.\d+){3}$/.test(word);
const isHex = (word) => /^[0-9a-f:.-]+$/.test(word);

/** Whether a word is a part of the address, however it is written, of the network or of the port. */
function fits(entry, word) {
  const digits = word.replaceAll(/[:.-]/g, "");
  if (entry.addresses.some((address) => (isAddress(word) ? address === word : address.includes(word)))) return true;
  if (isHex(word) && !isAddress(word) && digits && entry.mac.replaceAll(":", "").includes(digits)) return true;
  return entry.network.toLowerCase().includes(word) || entry.port.toLowerCase().includes(word);
}
