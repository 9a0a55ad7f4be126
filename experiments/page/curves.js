// A run's curves beside the report's, as an SVG picture.

import { drawn } from "./dom.js";

const [WIDTH, HEIGHT] = [420, 270];
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 410, 28, 232]; // of the frame
const CEILING = 100.1; // percent: the origin of the logarithm, or 100 % would lie at infinity
const ACCURACIES = [40, 60, 70, 80, 85, 90, 94, 96, 97, 98, 98.5, 99, 99.5, 99.8, 100];
const LOSSES = [-4, -3, -2, -1, 0, 1].flatMap((power) => [1, 2, 5].map((a) => a * 10 ** power));

/** Accuracy, spaced by the logarithm of the error as in the project's figures, or loss.
 *
 *  what: "accuracy_percent" or "loss"; history, report: rows with `epoch`, `train_...`, `test_...`. */
export function curve(what, history, report) {
  const accuracy = what === "accuracy_percent";
  const height = accuracy ? (y) => -Math.log10(CEILING - y) : Math.log10;
  const lines = [
    { name: "train", rows: report, key: `train_${what}`, kind: "report train" },
    { name: "test", rows: report, key: `test_${what}`, kind: "report test" },
    { name: "train", rows: history, key: `train_${what}`, kind: "ours train" },
    { name: "test", rows: history, key: `test_${what}`, kind: "ours test" },
  ].map((line) => ({ ...line, rows: line.rows.filter((row) => Number.isFinite(row[line.key])) }));
  const values = lines.flatMap(({ rows, key }) => rows.map((row) => row[key]));
  const epochs = lines.flatMap(({ rows }) => rows.map((row) => row.epoch));
  if (!values.length) return null;

  const [first, last] = [Math.min(...epochs), Math.max(...epochs)];
  const x = (epoch) => LEFT + ((epoch - first + 0.3) / (last - first + 0.6)) * (RIGHT - LEFT);
  const [low, high] = [height(Math.min(...values)) - 0.07, height(Math.max(...values)) + 0.07];
  const y = (value) => BOTTOM - ((height(value) - low) / (high - low)) * (BOTTOM - TOP);
  const inside = (value) => height(value) >= low && height(value) <= high;
  let lastTick = Infinity;
  const ticks = (accuracy ? ACCURACIES : LOSSES).filter((value) => {
    if (!inside(value) || lastTick - y(value) < 14) return false; // labels would touch
    lastTick = y(value);
    return true;
  });

  const steps = Math.ceil((last - first + 1) / 10);
  const labelled = Array.from({ length: last - first + 1 }, (_, n) => first + n).filter(
    (epoch) => (epoch - first) % steps === 0,
  );
  const text = (at, content, style) => drawn("text", { x: at[0], y: at[1], class: style }, content);
  const unit = accuracy ? "accuracy, %" : "loss";
  const summary = lines
    .filter(({ rows }) => rows.length)
    .map(({ rows, key, kind }) => `${kind} ${rows.at(-1)[key]} after epoch ${rows.at(-1).epoch}`);
  return drawn(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${unit}: ${summary.join(", ")}`,
    },
    text([LEFT, 16], unit, "title"),
    ...ticks.map((value) =>
      drawn(
        "g",
        {},
        drawn("line", { x1: LEFT, x2: RIGHT, y1: y(value), y2: y(value), class: "grid" }),
        text([LEFT - 6, y(value) + 4], String(Number(value.toPrecision(3))), "tick right"),
      ),
    ),
    ...labelled.map((epoch) => text([x(epoch), BOTTOM + 16], String(epoch), "tick middle")),
    text([(LEFT + RIGHT) / 2, BOTTOM + 34], "epoch", "tick middle"),
    ...lines.map(({ name, rows, key, kind }) =>
      drawn(
        "g",
        { class: kind },
        drawn("polyline", { points: rows.map((r) => `${x(r.epoch)},${y(r[key])}`).join(" ") }),
        ...rows.map((row) =>
          drawn(
            "circle",
            { cx: x(row.epoch), cy: y(row[key]), r: 3.2 },
            drawn("title", {}, `epoch ${row.epoch}, ${name}: ${Number(row[key].toFixed(4))}`),
          ),
        ),
      ),
    ),
  );
}
