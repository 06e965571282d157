// What happened: the newest first, as `vswitchctl events` tells it.

import { h, keyed, set, write } from "./dom.js";
import { count } from "./model.js";

/** Events that are kept. */
const KEPT = 1000;
/** Events that are shown. */
const SHOWN = 100;
/** What a busy switch tells all the time: shown to who looks for it. */
const COMMON = new Set(["mac_learned", "mac_expired", "mac_evicted", "mac_released"]);
/** What is worth a second look. */
const BAD = new Set(["port_down", "loop", "mac_held", "mac_refused", "guard_dropped", "store_mended", "host_mended", "store_lost", "node_suspect", "node_down", "address_conflict", "fenced", "endpoint_unready", "lost"]);

export class Events {
  #list = h("ol", { class: "events" });
  #none = h("p", { class: "quiet" });
  #known = [];
  #filter;
  #count;
  #choose;

  /** A list in `root`, narrowed by the field `filter`; calls `choose` with the name of the port that is chosen. */
  constructor(root, filter, counter, choose) {
    [this.#filter, this.#count, this.#choose] = [filter, counter, choose];
    root.append(this.#none, this.#list);
    filter.addEventListener("input", () => this.draw());
  }

  /** Takes in what the daemon told, the oldest first; some of it may be known. */
  add(told) {
    const known = new Set(this.#known.map(key));
    const fresh = told.filter((it) => !known.has(key(it)));
    this.#known = [...fresh.reverse(), ...this.#known].slice(0, KEPT);
  }

  draw() {
    const words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (it) => `${it.event} ${it.text}`.toLowerCase();
    const fits = (it) => (words.length ? words.every((word) => text(it).includes(word)) : !COMMON.has(it.event));
    const found = this.#known.filter(fits);
    keyed(this.#list, found.slice(0, SHOWN), key, (it) => this.#line(it), () => {});
    write(this.#count, found.length > SHOWN ? `the newest ${count(SHOWN)} of ${count(found.length)}` : "");
    write(this.#none, words.length ? "Nothing of the kind happened." : "Nothing has happened yet.");
    set(this.#none, { hidden: found.length > 0 });
  }

  #line(it) {
    const at = new Date(it.time_ms);
    const time = h("time", { datetime: at.toISOString(), title: at.toLocaleString("en-GB") }, at.toLocaleTimeString("en-GB"));
    return h("li", { class: BAD.has(it.event) && "bad" }, time, " ", ...this.#words(it));
  }

  /** The sentence, in which the port's name leads to it. */
  #words({ port, text }) {
    const place = port && ` ${text} `.indexOf(` port ${port} `);
    if (!port || place < 0) return [text];
    const name = h("button", { class: "link mono", onclick: () => this.#choose(port) }, port);
    return [text.slice(0, place + 5), name, text.slice(place + 5 + port.length)];
  }
}

/** Numbers begin again with the daemon. */
const key = (it) => `${it.time_ms} ${it.seq} ${it.event}`;
