// What a run gets wrong: the confusion matrix, and the images that it misreads.

import { element, oneTabStop, percent } from "./dom.js";
import { createMap } from "./maps.js";

const FIRST = 24; // mistakes shown at once, as many as in the run's mistakes.png

/** Shows the mistakes of one run.
 *
 *  image: from the number of an embedded image to its 784 grey levels.
 *  load: called with the number of the image of a mistake that was chosen, and its button. */
export function showMistakes(container, run, image, load) {
  const gallery = createGallery(run, image, load);
  const facts = run.facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  container.replaceChildren(
    element("dl", { class: "facts" }, ...facts),
    confusion(run, gallery.show),
    element("h3", {}, "The images"),
    ...gallery.parts,
  );
  gallery.show(null);
}

/** The matrix; a click on a number of mistakes shows these alone. */
function confusion({ confusion: matrix }, choose) {
  const wrong = matrix.map((row, label) => row.map((count, digit) => (label === digit ? 0 : count)));
  const largest = Math.max(1, ...wrong.flat());
  const cell = (count, label, digit) => {
    if (label === digit) return element("td", { class: "right" }, String(count));
    if (!count) return element("td", { class: "none" }, "·");
    const title = `${count} times a ${label} was read as ${digit}`;
    const click = () => choose([label, digit]);
    const button = element("button", { title, "aria-label": title, click }, String(count));
    button.style.setProperty("--share", Math.sqrt(count / largest));
    return element("td", {}, button);
  };
  const head = (scope, text) => element("th", { scope }, String(text));
  const rows = matrix.map((row, label) => {
    const share = (100 * row[label]) / Math.max(1, row.reduce((a, b) => a + b));
    return element(
      "tr",
      {},
      head("row", label),
      ...row.map((count, digit) => cell(count, label, digit)),
      element("td", { class: "share" }, share.toFixed(1)),
    );
  });
  const columns = matrix.map((_, digit) => head("col", digit));
  const caption = "Rows are the digits as they were meant, columns as they were read.";
  const table = element(
    "table",
    { class: "confusion" },
    element("caption", { class: "small" }, caption),
    element("thead", {}, element("tr", {}, element("td"), ...columns, head("col", "% right"))),
    element("tbody", {}, ...rows),
  );
  oneTabStop(table);
  return table;
}

function createGallery(run, image, load) {
  const text = element("p", { class: "small", "aria-live": "polite" });
  const grid = element("div", { class: "gallery", role: "group", "aria-label": "mistakes" });
  const more = element("button", { class: "plain" });
  const all = element("button", { class: "plain", click: () => show(null) }, "Show all mistakes");
  const buttonsChanged = oneTabStop(grid);

  const entry = ({ label, digit, probability, image: number }) => {
    const map = createMap(28, 28);
    map.show(image(number));
    const click = () => load(number, button);
    const button = element(
      "button",
      { click },
      element("span", { class: "shaded" }, map.canvas),
      element("span", {}, `${label} read as ${digit}`),
      element("span", { class: "small" }, percent(probability)),
    );
    return button;
  };

  /** Shows the worst mistakes, or those of a pair of label and digit. */
  function show(pair, count = FIRST) {
    const chosen = run.mistakes.filter(
      ({ label, digit }) => !pair || (label === pair[0] && digit === pair[1]),
    );
    const total = pair ? run.confusion[pair[0]][pair[1]] : run.mistaken;
    const which = pair ? `A ${pair[0]} read as ${pair[1]}` : "Test images read as another digit";
    const held = chosen.length < total ? `, of which the page holds the ${chosen.length} worst` : "";
    text.textContent = `${which}: ${total.toLocaleString("en")}${held}. The worst come first.`;
    grid.replaceChildren(...chosen.slice(0, count).map(entry));
    more.textContent = `Show ${chosen.length - count} more`;
    more.hidden = chosen.length <= count;
    more.onclick = () => {
      show(pair, chosen.length);
      grid.children[count].focus();
    };
    all.hidden = !pair;
    buttonsChanged();
  }

  return { parts: [text, grid, element("p", { class: "buttons" }, more, all)], show };
}
