// The cells of a layer's maps: one can be chosen, and is explained.

import { element } from "./dom.js";
import { reaction } from "./explain.js";
import { createMap, scaleOf } from "./maps.js";

/** Lets a pointer, a finger or the arrow keys choose a cell of maps, and explains it.
 *
 *  picture: the element with the canvases; [maps, height, width]: their cells, of which the first
 *  `size` hold numbers; explain: from the place of a number to elements, or null.
 *  Returns the panel of the explanation, and a function to call when the numbers have changed. */
export function explainCells(picture, [maps, height, width], size, explain) {
  const marker = element("span", { class: "marker", hidden: "" });
  const panel = element("div", { class: "panel card", "aria-live": "polite", hidden: "" });
  let at = null; // the cell that is explained
  picture.append(marker);
  for (const [name, value] of [["tabindex", 0], ["role", "application"]]) {
    picture.setAttribute(name, value);
  }
  picture.setAttribute("aria-describedby", "keys");

  function choose(cell) {
    const parts = cell === null ? null : explain(cell);
    at = parts && cell;
    marker.hidden = panel.hidden = !parts;
    if (!parts) return;
    panel.replaceChildren(...parts);
    const map = picture.children[Math.floor(cell / (height * width))];
    const [row, column] = [Math.floor(cell / width) % height, cell % width];
    const [down, right] = [map.offsetHeight / height, map.offsetWidth / width];
    Object.assign(marker.style, {
      top: `${map.offsetTop + row * down}px`,
      left: `${map.offsetLeft + column * right}px`,
      height: `${down}px`,
      width: `${right}px`,
    });
    // Below the maps, or above them where there is room only there.
    panel.classList.remove("above");
    const { bottom, height: needed } = panel.getBoundingClientRect();
    const room = panel.parentElement.getBoundingClientRect().top - needed;
    panel.classList.toggle("above", bottom > innerHeight && room > 0);
  }

  picture.addEventListener("pointermove", (event) => {
    const map = [...picture.children].indexOf(event.target);
    if (map < 0 || map >= maps) return;
    const { left, top, width: w, height: h } = event.target.getBoundingClientRect();
    const column = Math.min(width - 1, Math.floor(((event.clientX - left) / w) * width));
    const row = Math.min(height - 1, Math.floor(((event.clientY - top) / h) * height));
    const cell = (map * height + row) * width + column;
    if (cell !== at) choose(cell >= 0 && cell < size ? cell : null);
  });
  const leave = () => choose(document.activeElement === picture ? at : null);
  picture.addEventListener("pointerleave", leave);
  picture.addEventListener("blur", () => choose(null));
  picture.addEventListener("focus", () => choose(at ?? 0));
  picture.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: width, ArrowUp: -width };
    if (event.key === "Escape") return choose(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = (at ?? 0) + steps[event.key];
    if (next >= 0 && next < size) choose(next);
  });
  return { element: panel, refresh: () => at !== null && choose(at) };
}

/** The explanation as elements. */
export function shown(title, { seen, weights, shape, lines }) {
  const parts = [element("p", {}, element("strong", {}, title))];
  if (seen) {
    const products = seen.map((value, n) => value * weights[n]);
    const rows = { "what it sees": seen, "× weights": weights, "= products": products };
    const maps = Object.entries(rows).map(([text, values]) => sideBySide(text, values, shape));
    parts.push(element("div", { class: "products" }, ...maps));
  }
  return [...parts, ...lines.map((line) => element("p", { class: "small" }, line))];
}

/** Arrays [channels, height, width] as one map, the channels beside one another. */
function sideBySide(text, values, [channels, height, width]) {
  const columns = channels * (width + 1) - 1;
  const map = createMap(height, columns);
  const cells = new Float32Array(height * columns);
  values.forEach((value, n) => {
    const [channel, row] = [Math.floor(n / (height * width)), Math.floor(n / width) % height];
    cells[row * columns + channel * (width + 1) + (n % width)] = value;
  });
  map.show(cells, scaleOf(values));
  const picture = element("div", { class: "shaded" }, map.canvas);
  const made = element("div", {}, element("span", { class: "small" }, text), picture);
  made.style.setProperty("--columns", columns);
  return made;
}

/** The kernels of conv1, and what each reacts to. */
export function showKernels(run) {
  const weight = run.network.tensors["conv1.weight"];
  const largest = scaleOf(weight);
  const figures = Array.from({ length: 6 }, (_, n) => {
    const own = weight.subarray(25 * n, 25 * (n + 1));
    const map = createMap(5, 5);
    map.show(own, largest);
    const picture = element("span", { class: "shaded" }, map.canvas);
    return element("li", {}, picture, reaction(own));
  });
  return element("ol", { class: "kernels small", "aria-label": "kernels" }, ...figures);
}
