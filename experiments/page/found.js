// What was found: a run's curves, its confusion matrix, and its mistakes.

import { curve } from "./curves.js";
import { element, oneTabStop, percent } from "./dom.js";
import { createMap } from "./maps.js";

const FIRST = 24; // mistakes shown at once, as many as in the run's mistakes.png

/** Shows the findings of one run.
 *
 *  image: from the number of an embedded image to its 784 grey levels.
 *  load: called with the number of the image of a mistake that was chosen.
 *  Returns a function that shades the images anew. */
export function createFindings(container, run, image, load) {
  const gallery = createGallery(run, image, load);
  container.replaceChildren(
    facts(run),
    curves(run),
    element("h3", {}, "Confusion matrix"),
    confusion(run, gallery.choose),
    element("h3", {}, "Mistakes"),
    gallery.made,
  );
  gallery.choose(null);
  return gallery.shade;
}

function facts(run) {
  const total = run.confusion.flat().reduce((a, b) => a + b);
  const right = run.confusion.reduce((sum, row, n) => sum + row[n], 0);
  const rows = [
    [
      "test images read correctly",
      `${right.toLocaleString("en")} of ${total.toLocaleString("en")}`,
    ],
    ["parameters", run.parameters.toLocaleString("en")],
    ...(run.epoch === null ? [] : [["epochs", String(run.epoch)]]),
    ...run.settings.map(([name, value]) => [name.replaceAll("_", " "), String(value)]),
  ];
  const pairs = rows.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value)),
  );
  return element("dl", { class: "facts" }, ...pairs);
}

function curves(run) {
  const pictures = ["accuracy_percent", "loss"].map((what) => curve(what, run.history, run.report));
  const made = element("div", { "data-placement": run.placement });
  if (!run.history.length) {
    const text = "This network was opened from a bare file of weights, which has no curves.";
    made.append(element("p", { class: "small" }, text));
    if (!run.report.length) return made;
  }
  const entry = (kind, text) =>
    element("span", { class: "entry" }, element("span", { class: `key ${kind}` }), text);
  const legend = [entry("ours test", "this run, test"), entry("ours train", "train")];
  if (run.report.length) {
    legend.push(entry("report test", "the report, test"), entry("report train", "train"));
  }
  made.append(
    element("div", { class: "curves" }, ...pictures.filter(Boolean)),
    element("p", { class: "small legend" }, ...legend),
    numbers(run),
  );
  return made;
}

/** The curves as a table. */
function numbers(run) {
  const columns = ["train_loss", "train_accuracy_percent", "test_loss", "test_accuracy_percent"];
  const rows = [
    ...run.history.map((row) => ["this run", row]),
    ...run.report.map((row) => ["the report", row]),
  ];
  const cell = (value) => (Number.isFinite(value) ? value.toFixed(4) : "not finite");
  const head = ["", "epoch", ...columns.map((name) => name.replaceAll("_", " "))];
  return element(
    "details",
    {},
    element("summary", {}, "The curves as numbers"),
    element(
      "div",
      { class: "wide" },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...head.map((text) => element("th", {}, text)))),
        element(
          "tbody",
          {},
          ...rows.map(([who, row]) =>
            element(
              "tr",
              {},
              element("td", {}, who),
              element("td", {}, String(row.epoch)),
              ...columns.map((name) => element("td", {}, cell(row[name]))),
            ),
          ),
        ),
      ),
    ),
  );
}

/** The matrix; a click on a number of mistakes shows these alone. */
function confusion(run, choose) {
  const largest = Math.max(
    1,
    ...run.confusion.flatMap((row, label) => row.filter((_, digit) => digit !== label)),
  );
  const cell = (count, label, digit) => {
    if (label === digit) return element("td", { class: "right" }, String(count));
    if (!count) return element("td", { class: "none" }, "·");
    const name = `${count} times a ${label} was read as ${digit}`;
    const button = element(
      "button",
      { "aria-label": name, title: name, click: () => choose([label, digit]) },
      String(count),
    );
    button.style.setProperty("--share", Math.sqrt(count / largest));
    return element("td", {}, button);
  };
  const digits = run.confusion.map((_, digit) => element("th", { scope: "col" }, String(digit)));
  const rows = run.confusion.map((row, label) => {
    const share =
      (100 * row[label]) /
      Math.max(
        1,
        row.reduce((a, b) => a + b),
      );
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, String(label)),
      ...row.map((count, digit) => cell(count, label, digit)),
      element("td", { class: "share" }, share.toFixed(1)),
    );
  });
  const caption = "Rows are the digits as they were meant, columns as they were read.";
  const table = element(
    "table",
    { class: "confusion" },
    element("caption", { class: "small" }, caption),
    element(
      "thead",
      {},
      element("tr", {}, element("td", {}), ...digits, element("th", { scope: "col" }, "% right")),
    ),
    element("tbody", {}, ...rows),
  );
  oneTabStop(table);
  return element("div", { class: "wide" }, table);
}

function createGallery(run, image, load) {
  const text = element("p", { class: "small", "aria-live": "polite" });
  const grid = element("div", { class: "gallery", role: "group", "aria-label": "mistakes" });
  const more = element("button", { class: "plain" });
  const all = element("button", { class: "plain", click: () => choose(null) }, "Show all mistakes");
  const settle = oneTabStop(grid);
  let shades = null;
  let maps = [];

  function choose(pair, count = FIRST) {
    const chosen = run.mistakes.filter(
      ({ label, digit }) => !pair || (label === pair[0] && digit === pair[1]),
    );
    const total = pair ? run.confusion[pair[0]][pair[1]] : run.mistaken;
    const which = pair ? `A ${pair[0]} read as ${pair[1]}` : "Test images read as another digit";
    const kept =
      chosen.length < total ? `, of which the page holds the ${chosen.length} worst` : "";
    text.textContent = `${which}: ${total.toLocaleString("en")}${kept}. The worst come first.`;
    maps = chosen.slice(0, count).map((mistake) => ({ map: createMap(28, 28), ...mistake }));
    grid.replaceChildren(
      ...maps.map(({ map, label, digit, probability, image: number }) =>
        element(
          "button",
          { click: () => load(number) },
          map.canvas,
          element("span", {}, `${label} read as ${digit}`),
          element("span", { class: "small" }, percent(probability)),
        ),
      ),
    );
    more.textContent = `Show ${chosen.length - count} more`;
    more.hidden = chosen.length <= count;
    more.onclick = () => {
      choose(pair, chosen.length);
      grid.children[count].focus();
    };
    all.hidden = !pair;
    settle();
    if (shades) shade(shades);
  }

  function shade(next) {
    shades = next;
    for (const { map, image: number } of maps) map.show(image(number), 255, shades);
  }

  const buttons = element("p", {}, more, all);
  return { made: element("div", {}, text, grid, buttons), choose, shade };
}
