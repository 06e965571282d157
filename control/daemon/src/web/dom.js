// Elements are made here. Text is always text: nothing that a name holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are null or false are left out; `onclick` and the like are listeners. */
export const h = (tag, attributes = {}, ...children) =>
  furnish(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes = {}, ...children) =>
  furnish(document.createElementNS(SVG, tag), attributes, children);

/** Sets, changes and removes attributes. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

/** Sets a text; one that stays the same is not touched, so that selections live and nothing is read out twice. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
  return element;
}

/**
 * Makes the children of `parent` those of `items`, in their order. An item keeps its element as long as it keeps its
 * key; `make(item)` makes one, `update(element, item)` fills it. The focus stays where it is, though its element moves.
 */
export function keyed(parent, items, key, make, update) {
  const names = new Set(items.map(key));
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  for (const [name, element] of old) if (!names.has(name)) element.remove();
  const focus = document.activeElement;
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = old.get(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  if (focus !== document.activeElement && parent.contains(focus)) focus.focus({ preventScroll: true });
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Calls `search` a moment after the last key in `field`, and at once when its form is sent. */
export function searched(field, search) {
  let pause;
  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(search, 150);
  });
  field.form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(pause);
    search();
  });
}
