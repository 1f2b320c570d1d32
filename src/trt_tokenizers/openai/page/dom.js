// Elements are made here only, and texts are only ever text nodes.

/** An element. *properties* are attributes, or `on…` listeners; *children* are nodes or texts. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Tell a screen reader. */
export function say(text) {
  byId("status").textContent = text;
}
