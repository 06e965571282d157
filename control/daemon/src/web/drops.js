// Why frames died: each reason once, with what to do, how many, how fast, and where.

import { h, keyed, set, write } from "./dom.js";
import { count, frames, plural } from "./model.js";

/** Ports that are named for a reason; the others are counted. */
const NAMED = 12;
/** Milliseconds over which a rate is told: a reason that strikes now and then must not flicker. */
const WINDOW = 10_000;

export class Drops {
  #list = h("ul", { class: "drops" });
  #none = h("p", { class: "quiet" }, "No frame has died.");
  #choose;
  #past = [];

  /** A list in `root`; calls `choose` with the name of the port that is chosen. */
  constructor(root, choose) {
    this.#choose = choose;
    root.append(this.#none, this.#list);
  }

  draw({ ports, stats }) {
    const reasons = new Map();
    for (const drop of ports.flatMap((port) => port.drops)) {
      if (!reasons.has(drop.reason)) reasons.set(drop.reason, { reason: drop.reason, hint: drop.hint, frames: 0, places: [] });
      const reason = reasons.get(drop.reason);
      reason.frames += drop.frames;
      reason.places.push(drop);
    }
    for (const reason of reasons.values()) reason.rate = this.#rate(reason, stats.at_ms);
    this.#remember(reasons, stats.at_ms);
    const sorted = [...reasons.values()].sort((a, b) => b.rate - a.rate || b.frames - a.frames);
    keyed(this.#list, sorted, (it) => it.reason, makeReason, (element, it) => this.#fill(element, it));
    set(this.#none, { hidden: sorted.length > 0 });
  }

  /** Frames a second over the window. */
  #rate({ reason, frames }, at) {
    const oldest = this.#past[0];
    if (!oldest || at <= oldest.at) return 0;
    return Math.max(0, frames - (oldest.frames.get(reason) ?? 0)) / ((at - oldest.at) / 1000);
  }

  #remember(reasons, at) {
    if (at < this.#past.at(-1)?.at) this.#past = []; // The daemon was started anew.
    this.#past.push({ at, frames: new Map([...reasons.values()].map((it) => [it.reason, it.frames])) });
    while (this.#past[0].at < at - WINDOW) this.#past.shift();
  }

  #fill(element, { hint, frames: number, rate, places }) {
    const [head, explained, where] = element.children;
    const [, total, speed] = head.children;
    write(total, plural(number, "frame"));
    write(speed, rate > 0 ? `+${frames(rate)}` : "");
    set(element, { class: rate > 0 && "active" });
    write(explained, hint);
    places.sort((a, b) => b.frames - a.frames);
    const way = (drop) => `${drop.port} ${drop.direction}`;
    keyed(where, places.slice(0, NAMED), way, (drop) => this.#place(drop), (place, drop) => {
      write(place.lastElementChild, ` ${drop.direction === "rx" ? "in" : "out"} ${count(drop.frames)}`);
    });
    set(where, { "data-more": places.length > NAMED ? `and ${count(places.length - NAMED)} more` : null });
  }

  #place({ port }) {
    return h("li", {}, h("button", { class: "link mono", onclick: () => this.#choose(port) }, port), h("span"));
  }
}

function makeReason({ reason }) {
  const head = h("h3", {}, h("code", {}, reason), h("b"), h("span", { class: "rate" }));
  return h("li", {}, head, h("p", { class: "quiet" }), h("ul", { class: "where", "aria-label": `Ports with ${reason}` }));
}
