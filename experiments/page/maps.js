// Shows numbers as shades: zero has no colour, positive numbers have the text's colour, and negative
// numbers another one.

import { element } from "./dom.js";

/** Makes a canvas of [height, width] numbers, and a function that shades them.
 *
 *  scale: the absolute value that is shown darkest; other values are darker the farther from zero
 *  they are. */
export function createMap(height, width) {
  const canvas = element("canvas", { class: "map", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const show = (values, scale, shades) => {
    for (let n = 0; n < width * height; n++) {
      const value = n < values.length ? values[n] : 0;
      image.data.set(value < 0 ? shades.negative : shades.positive, 4 * n);
      image.data[4 * n + 3] = Math.min(255, (255 * Math.abs(value)) / scale);
    }
    context.putImageData(image, 0, 0);
  };
  return { canvas, show };
}

/** The two colours, [red, green, blue], as the style sheet has them for light and dark. */
export function readShades() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) =>
    [1, 3, 5].map((n) =>
      parseInt(
        style
          .getPropertyValue(name)
          .trim()
          .slice(n, n + 2),
        16,
      ),
    );
  return { positive: colour("--positive"), negative: colour("--negative") };
}

/** The largest absolute value of several lists, or 1 where all are zero. */
export function scaleOf(...lists) {
  let largest = 0;
  for (const list of lists) {
    for (const value of list) if (Math.abs(value) > largest) largest = Math.abs(value);
  }
  return largest || 1;
}
