// Keeps the drawing in the page's address, and copies it.

import { find } from "./dom.js";
import { FINE, SIDE } from "./ink.js";

const OUTSIDE = 64; // pixels that a stroke may lie to the left of the drawing area or above it
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Strokes as text: two letters a coordinate, a full stop between two strokes. */
export function written(strokes) {
  const letters = (value) => {
    const whole = Math.min(Math.max(Math.round(FINE * (value + OUTSIDE)), 0), 64 ** 2 - 1);
    return LETTERS[whole >> 6] + LETTERS[whole & 63];
  };
  return strokes.map((points) => points.flat().map(letters).join("")).join(".");
}

/** The strokes of such a text; none if it is damaged. */
export function readBack(text) {
  if (!/^([\w-]{4})+(\.([\w-]{4})+)*$/.test(text)) return [];
  const number = ([high, low]) => LETTERS.indexOf(high) * 64 + LETTERS.indexOf(low);
  return text
    .split(".")
    .map((stroke) => stroke.match(/..../g))
    .map((points) => points.map((point) => point.match(/../g)))
    .map((points) => points.map((point) => point.map((two) => number(two) / FINE - OUTSIDE)));
}

/** Puts a drawing into the address; a picture of the user's stays out of it. */
export function keepInAddress({ strokes, from }) {
  const kept = new URLSearchParams();
  if (from.test !== undefined) kept.set("test", from.test);
  if (strokes.length && !from.picture) kept.set("strokes", written(strokes));
  if (String(kept) === location.hash.slice(1)) return;
  try {
    history.replaceState(null, "", `#${kept}`);
  } catch {
    // A browser allows so many changes of the address in a minute; the next one gets through.
  }
}

/** { test, strokes } of the address: the number of a test image or null, and strokes. */
export function inAddress() {
  const kept = new URLSearchParams(location.hash.slice(1));
  return { test: kept.get("test"), strokes: readBack(kept.get("strokes") ?? "") };
}

/** Copies the drawing as a PNG, black on white; where that is not allowed, saves it. */
export async function copyPicture(drawing) {
  const canvas = new OffscreenCanvas(2 * SIDE, 2 * SIDE);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, 2 * SIDE, 2 * SIDE);
  context.drawImage(drawing, 0, 0, 2 * SIDE, 2 * SIDE);
  const blob = await canvas.convertToBlob();
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    tell("The drawing is copied.");
  } catch {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "digit.png";
    link.click();
    tell("The drawing is saved as digit.png.");
  }
}

export async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    tell("The link is copied: it opens this page with this drawing.");
  } catch {
    tell("The link is in the address bar: it opens this page with this drawing.");
  }
}

/** Says what happened, below the buttons. */
export function tell(text) {
  find("told").textContent = text;
}
