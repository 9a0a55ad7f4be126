// Shows numbers as shades: zero has no colour, positive numbers are black, negative ones orange. The
// style sheet inverts the shades where the page is dark.

import { element } from "./dom.js";

export const COLUMNS = 30; // numbers in a row where they have no place in an image
const NEGATIVE = [213, 94, 0]; // red, green, blue

/** Makes a canvas of [height, width] numbers, and a function that shades them.
 *
 *  scale: the absolute value that is shown darkest; other values are darker the farther from zero
 *  they are. Where there are fewer values than cells, the last cells stay without colour. */
export function createMap(height, width) {
  const canvas = element("canvas", { class: "map", width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const show = (values, scale = 255) => {
    image.data.fill(0);
    for (let n = 0; n < values.length; n++) {
      if (values[n] < 0) image.data.set(NEGATIVE, 4 * n);
      image.data[4 * n + 3] = Math.min(255, (255 * Math.abs(values[n])) / scale);
    }
    context.putImageData(image, 0, 0);
  };
  return { canvas, show };
}

/** The largest absolute value of several lists, or 1 where all are zero. */
export function scaleOf(...lists) {
  let largest = 0;
  for (const list of lists) {
    for (const value of list) if (Math.abs(value) > largest) largest = Math.abs(value);
  }
  return largest || 1;
}
