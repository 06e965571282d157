// The names, searched: every word must be a part of the name, of its network or of an address.

import { h, keyed, searched, set, write } from "./dom.js";
import { ask, count, plural } from "./model.js";

/** Lines that are asked for at most; a list of many thousands is searched, not read. */
const SHOWN = 200;
/** Milliseconds after which the same search is asked again. */
const AGAIN = 5000;

export class Names {
  #section;
  #field;
  #said;
  #body = h("tbody");
  #asked = 0;
  #turn = 0;

  /** A table in `root`, searched by the field `field`; the whole is shown in `section` where names are served. */
  constructor(section, root, field, said) {
    [this.#section, this.#field, this.#said] = [section, field, said];
    const heads = ["Name", "Network", "Addresses", "Kind"].map((title) => h("th", { scope: "col" }, title));
    root.append(h("table", {}, h("caption", { class: "unseen" }, "Names"), h("thead", {}, h("tr", {}, ...heads)), this.#body));
    searched(field, () => this.search());
  }

  /** Asks again in its time. */
  draw() {
    if (Date.now() - this.#asked > AGAIN) this.search();
  }

  /** Goes to the field, if there is one. */
  focus() {
    if (!this.#section.hidden) this.#field.focus();
  }

  async search() {
    this.#asked = Date.now();
    const turn = (this.#turn += 1);
    const words = this.#field.value.trim();
    // One more than is shown says that there are more.
    const query = new URLSearchParams({ limit: SHOWN + 1, ...(words && { words }) });
    try {
      const [server, names] = await Promise.all([ask("/v1/dns"), ask(`/v1/names?${query}`)]);
      if (turn !== this.#turn) return; // A later search is under way.
      set(this.#section, { hidden: !server.enabled });
      const found = names.length > SHOWN ? `the first ${count(SHOWN)}` : plural(names.length, "name", "names");
      write(this.#said, `${found}, below ${server.domain}`);
      keyed(this.#body, names.slice(0, SHOWN), (it) => it.full, line, fill);
    } catch (error) {
      if (turn === this.#turn) write(this.#said, `Cannot search: ${error.message}`);
    }
  }
}

const line = () => h("tr", {}, h("th", { scope: "row", class: "mono" }), h("td"), h("td", { class: "mono" }), h("td"));

function fill(row, entry) {
  const [name, network, addresses, kind] = row.children;
  set(name, { title: entry.full });
  write(name, entry.name);
  write(network, entry.network);
  write(addresses, entry.addresses.join(", "));
  write(kind, entry.service ? "service" : "station");
}
