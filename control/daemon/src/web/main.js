// Looks every second, tells each part of the page, and says so when there is nothing to see.

import { h, keyed, set, write } from "./dom.js";
import { Drops } from "./drops.js";
import { Events } from "./events.js";
import { Fdb } from "./fdb.js";
import { bits, count, frames, History, look, PERIOD, percent, plural, short, span, TOTAL } from "./model.js";
import { Names } from "./names.js";
import { Plot } from "./plot.js";
import { facts, Ports } from "./ports.js";
import { Topology } from "./topology.js";

const $ = (id) => document.getElementById(id);

const history = new History();
const parts = {
  topology: new Topology($("picture"), choose),
  ports: new Ports($("ports"), $("port-filter"), $("port-count"), choose),
  fdb: new Fdb($("fdb"), $("fdb-search"), $("fdb-count"), choose),
  drops: new Drops($("drops"), choose),
  names: new Names($("names-section"), $("names"), $("names-search"), $("names-count")),
  events: new Events($("events"), $("event-filter"), $("event-count"), choose),
};
const plots = [
  new Plot($("bits"), "bit/s", "bits", short),
  new Plot($("frames"), "frames/s", "frames", short),
];
let seen = null;
let frozen = false;
let failures = 0;

/** Looks, draws, and looks again; less often when an answer takes long or fails. */
async function watch() {
  const start = performance.now();
  if (!frozen) {
    try {
      const now = await look(seen?.events.at(-1)?.time_ms ?? seen?.since);
      history.add(now.stats);
      parts.events.add(now.events);
      if (!frozen) {
        tellChanges(seen, now);
        seen = { ...now, since: now.events.at(-1)?.time_ms ?? seen?.since, at: new Date() };
        failures = 0;
        draw();
      }
    } catch (error) {
      failures += 1;
      console.info(`no answer: ${error.message}`);
      if (failures > 1) tellFailure(error);
    }
  }
  const took = performance.now() - start;
  setTimeout(watch, Math.max(PERIOD - took, 3 * took, Math.min(failures, 5) * PERIOD, 50));
}

function draw() {
  const name = chosen();
  set($("banner"), { hidden: true });
  set(document.body, { class: frozen && "stale" });
  tellStatus(seen.status);
  tellChosen(seen.ports.find((port) => port.name === name), name);
  parts.topology.draw(seen, history, name);
  parts.ports.draw(seen, history, name);
  parts.drops.draw(seen);
  parts.events.draw();
  parts.fdb.draw(seen);
  parts.names.draw();
}

function tellStatus(status) {
  const now = history.now(TOTAL);
  document.title = `${status.name} · vswitchd`;
  write($("host"), status.name);
  const troubles = status.troubles ?? [];
  write($("state"), frozen ? "frozen" : troubles.length ? plural(troubles.length, "trouble") : "forwarding");
  set($("state"), { class: `pill${troubles.length ? " bad" : ""}`, title: troubles.length ? "What is wrong" : null });
  write($("fact-workers"), history.loads.map(percent).join(", ") || "–");
  write($("fact-ports"), `${count(status.ports_up)} of ${count(status.ports)} up`);
  write($("fact-networks"), count(status.networks));
  write($("fact-macs"), `${count(status.macs)} of ${count(status.mac_limit)}`);
  write($("fact-bits"), bits(now.rx.bits));
  write($("fact-frames"), frames(now.rx.frames));
  write($("fact-drops"), frames(now.drops));
  write($("fact-uptime"), span(status.uptime_s));
  const told = [...troubles.map(({ of, detail }) => ({ of, detail, bad: true })), ...(status.warnings ?? []).map((detail) => ({ detail }))];
  keyed($("warnings"), told, (it) => `${it.of ?? ""} ${it.detail}`, tellTrouble, () => {});
  set($("first-steps"), { hidden: seen.networks.length > 0 || seen.ports.length > 0 });
  write($("version"), `vswitchd ${status.version}, process ${status.pid}`);
}

/** A sentence about what is wrong, which leads to the port that it is about. */
function tellTrouble({ of, detail, bad }) {
  const isPort = seen.ports.some((port) => port.name === of);
  const name = isPort ? h("button", { class: "link mono", onclick: () => choose(of) }, of) : of && h("b", {}, of);
  return h("li", { class: bad && "bad" }, ...(name ? [name, `: ${detail}`] : [detail]));
}

/** The rates' scope: the chosen port, or all. */
function tellChosen(port, name) {
  write($("scope"), port ? port.name : "all ports");
  set($("chosen"), { hidden: !name });
  for (const plot of plots) plot.draw(history.of(port ? port.name : TOTAL));
  if (!name) return;
  write($("chosen-name"), name);
  const pairs = port ? facts(port, { ...seen, loads: history.loads }) : [["State", "there is no port of this name"]];
  const list = $("facts");
  if (list.children.length !== 2 * pairs.length) list.replaceChildren(...pairs.flatMap(() => [h("dt"), h("dd")]));
  pairs.flat().forEach((text, index) => write(list.children[index], text));
}

/** Says aloud and in writing what came, went, or changed its state. */
function tellChanges(before, now) {
  if (!before) return;
  const states = (look) => new Map(look.ports.map((port) => [port.name, port.state]));
  const [old, fresh] = [states(before), states(now)];
  const news = [
    ...[...fresh].filter(([name]) => !old.has(name)).map(([name]) => `${name} appeared`),
    ...[...old].filter(([name]) => !fresh.has(name)).map(([name]) => `${name} is gone`),
    ...[...fresh].filter(([name, state]) => old.has(name) && old.get(name) !== state).map(([name, state]) => `${name} is ${state}`),
  ];
  if (!news.length) return;
  const told = news.length > 3 ? `${news.slice(0, 3).join(", ")} and ${count(news.length - 3)} more` : news.join(", ");
  write($("news"), `${clock(new Date())} ${told}`);
}

const clock = (time) => time.toLocaleTimeString("en-GB");

function tellFailure(error) {
  const banner = $("banner");
  const since = seen ? ` What you see is from ${clock(seen.at)}.` : "";
  const why = error instanceof TypeError || error.name === "TimeoutError" ? "vswitchd does not answer" : `vswitchd says: ${error.message}`;
  if (banner.hidden) write(banner, `${why}. Trying again until it does.${since}`);
  set(banner, { hidden: false });
  set(document.body, { class: "stale" });
  write($("state"), "no answer");
}

/** The chosen port is in the address, so that it can be bookmarked and gone back from. */
function chosen() {
  return new URLSearchParams(location.hash.slice(1)).get("port");
}

function choose(name) {
  location.hash = name === null || name === chosen() ? "" : `port=${encodeURIComponent(name)}`;
}

function freeze() {
  frozen = !frozen;
  set($("freeze"), { "aria-pressed": String(frozen) });
  if (seen) draw();
}

const SHORTCUTS = {
  "/": () => $("fdb-search").focus(),
  p: () => $("port-filter").focus(),
  n: () => parts.names.focus(),
  t: () => parts.topology.focus(),
  r: () => $("rates-title").focus(),
  d: () => $("drops-title").focus(),
  e: () => $("event-filter").focus(),
  f: freeze,
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("help").open) return;
  const field = event.target.matches("input");
  if (event.key === "Escape") {
    if (field) event.target.blur();
    else choose(null);
  } else if (!field && SHORTCUTS[event.key]) {
    event.preventDefault();
    SHORTCUTS[event.key]();
  }
});
window.addEventListener("hashchange", () => seen && draw());
$("freeze").addEventListener("click", freeze);
$("state").addEventListener("click", () => {
  $("warnings").scrollIntoView({ block: "nearest" });
  $("warnings").focus();
});
$("show-help").addEventListener("click", SHORTCUTS["?"]);
$("close-help").addEventListener("click", () => $("help").close());
$("unchoose").addEventListener("click", () => choose(null));
$("its-macs").addEventListener("click", () => {
  parts.fdb.searchFor(chosen());
  $("fdb-search").focus();
});
watch();
