// Elements, and the few habits that they share.

/** Makes an element. Strings among the children become text, never markup.
 *
 *  attributes: a function becomes a listener of the event of that name. */
export function element(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** Makes an element of an SVG picture; the arguments are those of `element`. */
export function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return furnish(made, attributes, children);
}

function furnish(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Makes the buttons in a container one stop of the tab key; arrow keys move among them.
 *
 *  Returns a function to call when the buttons have changed. */
export function oneTabStop(container) {
  const buttons = () => [...container.querySelectorAll("button")];
  const settle = (current = buttons()[0]) => {
    for (const button of buttons()) button.tabIndex = button === current ? 0 : -1;
  };
  container.addEventListener("focusin", (event) => settle(event.target));
  container.addEventListener("keydown", (event) => {
    const all = buttons();
    const at = all.indexOf(event.target);
    const next = {
      ArrowRight: at + 1,
      ArrowDown: at + 1,
      ArrowLeft: at - 1,
      ArrowUp: at - 1,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(next, 0), all.length - 1)].focus();
  });
  settle();
  return settle;
}

/** A probability as the project's figures print it. */
export function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

/** What the placements are called in the project's figures. */
export const LABELS = {
  none: "no block",
  before_fc1: "block before fc1",
  after_fc1: "block after fc1",
};
