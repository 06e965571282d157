// What the daemon says, what follows from it, and how it is written.

/** Milliseconds between two looks. */
export const PERIOD = 1000;
/** Milliseconds of the past that are kept. */
export const PAST = 300_000;
/** The series of all ports together; no port has this name. */
export const TOTAL = "";

/** What the daemon answers at `path`; throws a sentence if there is no answer that helps. */
export async function ask(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(15_000) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** What happened since a moment, in milliseconds, or as far as it is known: a line for each event. */
async function askEvents(since) {
  const path = since ? `/v1/events?since_ms=${since}` : "/v1/events";
  const response = await fetch(path, { signal: AbortSignal.timeout(15_000) });
  const lines = (await response.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
  if (!response.ok) throw new Error(lines[0]?.error ?? `it answered ${response.status}`);
  return lines;
}

/** Everything that is drawn, but the MAC table; of the events those since a moment. */
export async function look(since) {
  const paths = ["/v1/status", "/v1/networks", "/v1/ports", "/v1/tunnel", "/v1/stats"];
  const [events, status, all, ports, tunnel, stats] = await Promise.all([askEvents(since), ...paths.map(ask)]);
  const networks = all.filter((it) => it.driver !== "host" && it.driver !== "null"); // These two are not in the switch.
  return { events, status, networks, ports, tunnel, stats, carried: carried(networks, ports), places: places(networks) };
}

/** What is at each port: the network's endpoint, or its gateway; with the addresses, and the host's ports that lead there. */
function places(networks) {
  const made = new Map();
  for (const network of networks) {
    const gateways = (network.subnet ?? []).map((it) => it.gateway).filter(Boolean);
    const gateway = `gw.${network.name}`;
    if (network.driver !== "uplink" && network.ports.includes(gateway)) {
      made.set(gateway, { mac: null, addresses: gateways, published: [], what: `gateway of ${network.name}` });
    }
    for (const it of network.endpoints ?? []) {
      const published = [...new Set((it.published ?? []).map(way))];
      const addresses = it.addresses.map((net) => net.split("/")[0]);
      made.set(it.port, { mac: `${network.name} ${it.mac}`, addresses, published, what: `endpoint ${it.name} of ${network.name}` });
    }
  }
  return made;
}

/** A published port as it is asked for: `8080:80/tcp`, `192.0.2.1:53:53/udp`. */
function way({ protocol, way }) {
  const [{ at, to }] = Object.values(way);
  const host = at.replace(/^(0\.0\.0\.0|\[::\]):/, "");
  return `${host}:${to.split(":").at(-1)}/${protocol}`;
}

/** The addresses of a port, in one text. */
export const addressesOf = (look, port) => (look.places.get(port)?.addresses ?? []).join(", ");

/** The names of the networks that each port carries. */
function carried(networks, ports) {
  const made = new Map(ports.map((port) => [port.name, []]));
  for (const network of networks) for (const port of network.ports) made.get(port)?.push(network.name);
  return made;
}

/** The rates of each port over the last minutes, from counters that only grow. */
export class History {
  #before = null;
  #series = new Map();
  /** The share of its time that each worker was busy, by number. */
  loads = [];

  /** Samples of a port, or of all, the oldest first: `{ at, rx: { frames, bits }, tx: { frames, bits }, drops }` per second. */
  of(name) {
    return this.#series.get(name) ?? [];
  }

  /** The newest sample. */
  now(name) {
    return this.of(name).at(-1) ?? NOTHING;
  }

  /** Takes in the counters of `/v1/stats`. */
  add(stats) {
    const ports = new Map(stats.ports.map((port) => [port.port, port]));
    const busy = (stats.loads ?? []).map((load) => load.busy_ns.sum);
    const seconds = (stats.at_ms - this.#before?.at) / 1000;
    this.loads = seconds > 0 ? busy.map((now, index) => Math.max(0, now - (this.#before.busy[index] ?? now)) / (seconds * 1e9)) : [];
    if (seconds <= 0) this.#series.clear(); // The daemon was started anew.
    if (seconds > 0) {
      const total = sample(stats.at_ms);
      for (const [name, port] of ports) {
        const before = this.#before.ports.get(name);
        if (!before || shrank(port, before)) this.#series.delete(name);
        else this.#keep(name, rate(total, port, before, stats.at_ms, seconds));
      }
      this.#keep(TOTAL, total);
    }
    for (const name of this.#series.keys()) if (name !== TOTAL && !ports.has(name)) this.#series.delete(name);
    this.#before = { at: stats.at_ms, ports, busy };
  }

  #keep(name, sample) {
    if (!this.#series.has(name)) this.#series.set(name, []);
    const samples = this.#series.get(name);
    samples.push(sample);
    while (samples[0].at < sample.at - PAST) samples.shift();
  }
}

const sample = (at) => ({ at, rx: { frames: 0, bits: 0 }, tx: { frames: 0, bits: 0 }, drops: 0 });
const NOTHING = sample(0);

/** Whether a port of this name was made anew. */
const shrank = (port, before) => port.rx.frames < before.rx.frames || port.tx.frames < before.tx.frames;

function rate(total, port, before, at, seconds) {
  const made = sample(at);
  for (const way of ["rx", "tx"]) {
    made[way].frames = (port[way].frames - before[way].frames) / seconds;
    made[way].bits = (8 * (port[way].bytes - before[way].bytes)) / seconds;
    total[way].frames += made[way].frames;
    total[way].bits += made[way].bits;
  }
  made.drops = (port.drops - before.drops) / seconds;
  total.drops += made.drops;
  return made;
}

/** A number with three digits and a prefix: `1.23 M`. */
export function short(value) {
  const [scaled, prefix] = scale(value);
  const digits = scaled >= 99.5 || (!prefix && Number.isInteger(value)) ? 0 : scaled >= 9.95 ? 1 : 2;
  return `${scaled.toFixed(digits)}${prefix && "\u00a0"}${prefix}`;
}

/** The same for a round number: `1.5 M`, `20 k`. */
export function shortest(value) {
  const [scaled, prefix] = scale(value);
  return `${Number(scaled.toFixed(2))} ${prefix}`.trim();
}

function scale(value) {
  const step = [1, 1e3, 1e6, 1e9, 1e12].findLastIndex((unit) => value >= 0.9995 * unit);
  return [value / 1000 ** Math.max(step, 0), ["", "k", "M", "G", "T"][Math.max(step, 0)]];
}

export const bits = (value) => `${short(value)}${value < 999.5 ? "\u00a0" : ""}bit/s`;
export const frames = (value) => `${short(value)}/s`;
export const percent = (share) => `${Math.round(100 * share)} %`;
export const count = (value) => value.toLocaleString("en");
export const plural = (number, word, words = `${word}s`) => `${count(number)} ${number === 1 ? word : words}`;

/** A time span in its two largest units. */
export function span(seconds) {
  const [d, hours, min, s] = [86400, 3600, 60, 1].map((unit) => Math.floor(seconds / unit));
  if (d) return `${d} d ${hours % 24} h`;
  if (hours) return `${hours} h ${min % 60} min`;
  return min ? `${min} min ${s % 60} s` : `${s} s`;
}

/** A text of at most `room` letters; of what is left, `share` is the end. */
export function shorten(text, room, share = 0.5) {
  if (text.length <= room) return text;
  const tail = Math.max(1, Math.floor((room - 1) * share));
  return `${text.slice(0, Math.max(0, room - 1 - tail))}…${text.slice(-tail)}`;
}

/** The share of ends with which most of `names` can be told apart in `room` letters. */
export function fairest(names, room) {
  const distinct = (share) => new Set(names.map((name) => shorten(name, room, share))).size;
  return [0.5, 0.3, 0.7, 0.1, 0.9].reduce((best, share) => (distinct(share) > distinct(best) ? share : best));
}

/** The order of names as people count: `web-2` before `web-10`. */
export const inOrder = new Intl.Collator("en", { numeric: true }).compare;
