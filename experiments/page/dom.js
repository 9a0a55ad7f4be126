// Elements, and the few habits that they share.

export const find = (id) => document.getElementById(id);

/** Makes an element. Strings among the children become text, never markup.
 *
 *  attributes: a function becomes a listener of the event of that name; undefined is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Makes the buttons in a container one stop of the tab key; arrow keys move among them.
 *
 *  Returns a function to call when the buttons have changed. */
export function oneTabStop(container) {
  const buttons = () => [...container.querySelectorAll("button")];
  const letFocus = (one) => buttons().forEach((it) => (it.tabIndex = it === one ? 0 : -1));
  const letFocusFirst = () => letFocus(buttons()[0]);
  container.addEventListener("focusin", (event) => letFocus(event.target));
  container.addEventListener("keydown", (event) => {
    const all = buttons();
    const at = all.indexOf(event.target);
    const places = { Home: 0, End: all.length - 1, ArrowRight: at + 1, ArrowLeft: at - 1 };
    const next = { ...places, ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(next, 0), all.length - 1)].focus();
  });
  letFocusFirst();
  return letFocusFirst;
}

/** A probability as the project's figures print it. */
export const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

/** The digit with the largest probability. */
export const best = (probabilities) => probabilities.indexOf(Math.max(...probabilities));

/** A number to two places. */
export const short = (value) => value.toFixed(2).replace("-", "−");
