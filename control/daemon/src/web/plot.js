// A plot of what came in and what went out over the last minutes.

import { h, set, svg, write } from "./dom.js";
import { PAST, shortest, span } from "./model.js";

const LEFT = 46;
const BOTTOM = 16;
const TOP = 6;

/** The least of 1, 2, 5, 10, … that three steps of reach `peak`. */
function step(peak) {
  const power = 10 ** Math.floor(Math.log10(peak / 3));
  return power * [1, 2, 5, 10].find((factor) => 3 * factor * power >= peak * 0.999);
}

/** Milliseconds that are shown: what there is of the past, at least a minute. */
const reach = (samples) => Math.min(PAST, Math.max(60_000, (samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0)));

/** The time between two marks, for marks that are `room` milliseconds apart at least. */
const pace = (room) => [15, 30, 60, 120].find((seconds) => seconds * 1000 >= room) ?? 300;

export class Plot {
  #root;
  #picture = svg("svg", { role: "img", height: 132 });
  #grid = svg("g", { class: "grid" });
  #area = svg("path", { class: "area in" });
  #lines = { rx: svg("path", { class: "line in" }), tx: svg("path", { class: "line out" }) };
  #cursor = svg("path", { class: "cursor" });
  #readings = { rx: h("b"), tx: h("b"), peak: h("span", { class: "quiet" }) };
  #key;
  #title;
  #format;
  #samples = [];
  #pointed = null;

  /** A plot in `root` of the samples' `key`, written by `format`. */
  constructor(root, title, key, format) {
    [this.#root, this.#title, this.#key, this.#format] = [root, title, key, format];
    this.#picture.append(this.#grid, this.#area, this.#lines.tx, this.#lines.rx, this.#cursor);
    const { rx, tx, peak } = this.#readings;
    const reading = h("p", { class: "reading" }, h("span", { class: "in" }, "in ", rx), h("span", { class: "out" }, "out ", tx), peak);
    root.append(h("div", { class: "caption" }, h("h3", {}, title), reading), this.#picture);
    this.#picture.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.#picture.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.draw(this.#samples)).observe(root);
  }

  draw(samples) {
    this.#samples = samples;
    const width = this.#root.clientWidth;
    const height = this.#picture.height.baseVal.value;
    if (!width) return;
    set(this.#picture, { width, viewBox: `0 0 ${width} ${height}` });
    const peak = samples.reduce((peak, it) => Math.max(peak, it.rx[this.#key], it.tx[this.#key]), 0);
    const tick = step(Math.max(peak, 3));
    const end = samples.at(-1)?.at ?? 0;
    const past = reach(samples);
    const x = (at) => LEFT + (width - LEFT - 2) * (1 - (end - at) / past);
    const y = (value) => height - BOTTOM - (height - BOTTOM - TOP) * (value / (3 * tick));
    this.#drawGrid(width, height, tick, past, y);
    const trace = (way) => samples.map((it) => `${x(it.at).toFixed(1)} ${y(it[way][this.#key]).toFixed(1)}`).join("L");
    for (const way of ["rx", "tx"]) set(this.#lines[way], { d: samples.length ? `M${trace(way)}` : null });
    const floor = y(0);
    const area = samples.length ? `M${x(samples[0].at)} ${floor}L${trace("rx")}L${x(end)} ${floor}Z` : null;
    set(this.#area, { d: area });
    this.#read(peak, x, height);
  }

  #drawGrid(width, height, tick, past, y) {
    const made = [0, 1, 2, 3].flatMap((number) => [
      svg("path", { d: `M${LEFT} ${y(number * tick)}H${width}` }),
      svg("text", { x: LEFT - 6, y: y(number * tick) + 4, "text-anchor": "end" }, shortest(number * tick)),
    ]);
    const apart = pace((past * 64) / (width - LEFT));
    for (let ago = 0; ago * 1000 <= past; ago += apart) {
      const at = LEFT + (width - LEFT - 2) * (1 - (ago * 1000) / past);
      const anchor = ago === 0 ? "end" : at < LEFT + 20 ? "start" : "middle";
      made.push(svg("text", { x: at, y: height - 3, "text-anchor": anchor }, ago ? `−${span(ago).replace(" 0 s", "")}` : "now"));
    }
    this.#grid.replaceChildren(...made);
  }

  /** Writes the values under the pointer, or the newest. */
  #read(peak, x, height) {
    const pointed = this.#pointed === null ? null : nearest(this.#samples, (it) => Math.abs(x(it.at) - this.#pointed));
    const shown = pointed ?? this.#samples.at(-1);
    const [rx, tx] = ["rx", "tx"].map((way) => this.#format(shown?.[way][this.#key] ?? 0));
    write(this.#readings.rx, rx);
    write(this.#readings.tx, tx);
    const ago = pointed ? Math.round((this.#samples.at(-1).at - pointed.at) / 1000) : 0;
    write(this.#readings.peak, pointed ? `${ago} s ago` : `peak ${this.#format(peak)}`);
    set(this.#cursor, { d: pointed ? `M${x(pointed.at)} ${TOP}V${height - BOTTOM}` : null });
    set(this.#picture, { "aria-label": `${this.#title} over the last minutes: in ${rx}, out ${tx}, peak ${this.#format(peak)}` });
  }

  #point(x) {
    this.#pointed = x;
    this.draw(this.#samples);
  }
}

const nearest = (items, distance) =>
  items.reduce((best, item) => (best === null || distance(item) < distance(best) ? item : best), null);

/** The last minutes in the height of a line: both ways together. */
export function spark(path, samples, width, height) {
  const values = samples.map((it) => it.rx.bits + it.tx.bits);
  const peak = Math.max(1, ...values);
  const end = samples.at(-1)?.at ?? 0;
  const past = reach(samples);
  const dots = samples.map((it, index) => {
    const x = width * (1 - (end - it.at) / past);
    return `${x.toFixed(1)} ${(height - 1 - (height - 2) * (values[index] / peak)).toFixed(1)}`;
  });
  set(path, { d: dots.length > 1 ? `M${dots.join("L")}` : null });
}
