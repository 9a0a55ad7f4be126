// Turns a drawing into the image that MNIST would have stored, as mnist_jax/digits.py does.
//
// A drawing has no colours, no uneven light, no noise and no table around it, so the first steps of
// digits.py would change nothing here, and a stroke's ink is full ink. The constants have the same
// names and values there, and a test compares the images that come out.

const SIZE = 28; // pixels on each side of an image
const LENGTH = 20; // pixels on the longer side of a digit in it
const STRONG = 0.5; // share of full ink from which a pixel is ink for certain
const REACH = 2; // pixels around such a pixel in which even faint ink belongs to it
const SPECK = 0.02; // a connected part below this share of the largest one is dirt
const THINNEST = 1.2; // width in the image's pixels to which thinner strokes are widened
const STEEPEST = 4; // largest factor by which the edges of a large drawing's ink are steepened
const NUDGE = 1e-6; // so that a sum's last digit cannot decide where the centre of mass lies

/** Finds the digits in a picture.
 *
 *  pixels: red, green, blue and alpha of each pixel, 0 to 255.
 *  Returns [{ image, box }] in reading order: 784 grey levels, and left, top, width and height.
 *  Throws an Error, which says what to do, if there is none. */
export function digitsIn(pixels, width, height) {
  let grey = Float64Array.from({ length: width * height }, (_, n) =>
    (pixels[4 * n] + pixels[4 * n + 1] + pixels[4 * n + 2]) / 3,
  );
  const border = grey.filter((_, n) => n < width || n % width === 0 || n % width === width - 1);
  const dark = border.sort()[border.length >> 1] > 127;
  if (dark) grey = grey.map((value) => 255 - value);
  const [low, high] = grey.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [255, 0]);
  const side = Math.max(width, height);
  const ink = new Float64Array(side * side);
  grey.forEach((value, n) => {
    const share = (value - low) / Math.max(1, high - low);
    ink[Math.floor(n / width) * side + (n % width)] = 255 * Math.min(1, Math.max(0, 2 * share - 0.5));
  });
  const image = high - low > 20 ? toMnist(ink, side) : null;
  if (!image) throw new Error("No digit was found: crop the picture to the digit, or use more contrast.");
  const [[top, bottom], [left, right]] = spansOf(ink.map((value) => value / 255), side);
  return [{ image, box: [left, top, right - left, bottom - top] }];
}

/** Finds the digit in a drawing.
 *
 *  ink: [side, side], 0 to 255.
 *  Returns 784 grey levels, or null where there is no ink. */
export function toMnist(ink, side) {
  let kept = withoutSpecks(ink, side); // [side, side], 0 to 1
  if (!kept.some((grey) => grey >= STRONG)) return null;
  [kept, side] = widened(kept, side);
  const spans = spansOf(kept, side);
  const scale = lengthScale(spans);
  const steep = Math.min(Math.max(1, scale), STEEPEST);
  const rowMass = new Float64Array(side);
  const columnMass = new Float64Array(side);
  for (let at = 0; at < kept.length; at++) {
    if (kept[at] === 0) continue;
    kept[at] = Math.min(Math.max(steep * kept[at] - (steep - 1) * STRONG, 0), 1);
    rowMass[Math.floor(at / side)] += kept[at];
    columnMass[at % side] += kept[at];
  }
  const down = windows(rowMass, spans[0], scale); // of the image's 28 rows
  const right = windows(columnMass, spans[1], scale); // of its 28 columns

  const narrow = new Float64Array(side * SIZE); // [side, 28], shrunk from left to right
  for (let row = 0; row < side; row++) {
    if (rowMass[row] === 0) continue;
    for (let j = 0; j < SIZE; j++) {
      for (const [column, part] of right[j]) {
        narrow[row * SIZE + j] += part * kept[row * side + column];
      }
    }
  }
  const image = new Float64Array(SIZE * SIZE); // [28, 28], shrunk from top to bottom, too
  for (let i = 0; i < SIZE; i++) {
    for (const [row, part] of down[i]) {
      for (let j = 0; j < SIZE; j++) image[i * SIZE + j] += part * narrow[row * SIZE + j];
    }
  }
  const largest = Math.max(...image);
  return Uint8Array.from(image, (grey) => Math.floor((255 * grey) / largest + 0.5));
}

/** The first row with strong ink and the row after the last, then the same for the columns. */
function spansOf(ink, side) {
  const rows = new Uint8Array(side);
  const columns = new Uint8Array(side);
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] >= STRONG) rows[Math.floor(at / side)] = columns[at % side] = 1;
  }
  return [rows, columns].map((strong) => [strong.indexOf(1), strong.lastIndexOf(1) + 1]);
}

/** The length of one of the image's pixels in pixels of the drawing. */
function lengthScale(spans) {
  return Math.max(...spans.map(([start, end]) => end - start)) / LENGTH;
}

/** The ink with all strokes at least THINNEST of the image's pixels wide, and the side of the
 *  square array that holds it then. */
function widened(ink, side) {
  const isInk = (row, column) =>
    row >= 0 && row < side && column >= 0 && column < side && ink[row * side + column] >= STRONG;
  let area = 0;
  let outline = 0; // pixels with a neighbour that is no ink; a stroke has two sides
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] < STRONG) continue;
    const [row, column] = [Math.floor(at / side), at % side];
    area++;
    if (
      !isInk(row - 1, column) || !isInk(row + 1, column) ||
      !isInk(row, column - 1) || !isInk(row, column + 1)
    ) outline++;
  }
  const missing = THINNEST * lengthScale(spansOf(ink, side)) - (2 * area) / outline;
  const reach = Math.floor(missing / 2 + 0.5);
  if (reach <= 0) return [ink, side];
  const wider = side + 2 * reach;
  const result = new Float64Array(wider * wider);
  for (let at = 0; at < ink.length; at++) {
    if (ink[at] === 0) continue;
    const moved = (Math.floor(at / side) + reach) * wider + (at % side) + reach;
    around(moved, reach, wider, (near) => (result[near] = Math.max(result[near], ink[at])));
  }
  return [result, wider];
}

/** The ink, 0 to 1, of all connected parts except specks: [side, side]. */
function withoutSpecks(ink, side) {
  const part = new Int32Array(ink.length); // the number of its connected part, or 0
  const sizes = [0]; // pixels of each part
  for (let start = 0; start < ink.length; start++) {
    if (part[start] || ink[start] < 255 * STRONG) continue;
    const number = sizes.push(0) - 1;
    const waiting = [start];
    part[start] = number;
    while (waiting.length) {
      const at = waiting.pop();
      sizes[number]++;
      around(at, 1, side, (next) => {
        if (part[next] || ink[next] < 255 * STRONG) return;
        part[next] = number;
        waiting.push(next);
      });
    }
  }
  const least = Math.max(1, SPECK * Math.max(...sizes));
  const kept = new Float64Array(ink.length);
  for (let at = 0; at < ink.length; at++) {
    if (sizes[part[at]] < least) continue;
    around(at, REACH, side, (near) => (kept[near] = ink[near] / 255));
  }
  return kept;
}

/** Visits the pixels of a square around one, itself among them. */
function around(at, reach, side, visit) {
  const [row, column] = [Math.floor(at / side), at % side];
  for (let y = Math.max(row - reach, 0); y <= Math.min(row + reach, side - 1); y++) {
    for (let x = Math.max(column - reach, 0); x <= Math.min(column + reach, side - 1); x++) {
      visit(y * side + x);
    }
  }
}

/** Which of the drawing's rows, or columns, make up each of the image's 28, and with what part.
 *
 *  mass: ink of each row; [start, end]: the rows that hold the digit; scale: rows to one of 28.
 *  Returns 28 lists of [row, part]. The digit's centre of mass comes into the middle of the image
 *  as far as the digit stays whole. */
function windows(mass, [start, end], scale) {
  const total = mass.reduce((a, b) => a + b);
  const moment = mass.reduce((sum, value, row) => sum + value * (row + 0.5), 0);
  const centre = (moment / total - start) / scale;
  const last = SIZE - Math.ceil((end - start) / scale - NUDGE);
  const first = Math.min(Math.max(SIZE / 2 - Math.floor(centre + NUDGE), 0), last);
  const width = Math.max(scale, 1);
  return Array.from({ length: SIZE }, (_, i) => {
    const middle = start + (i - first + 0.5) * scale;
    const [from, to] = [middle - width / 2, middle + width / 2];
    const list = [];
    for (let row = Math.max(0, Math.floor(from)); row < Math.min(mass.length, to); row++) {
      list.push([row, (Math.min(to, row + 1) - Math.max(from, row)) / width]);
    }
    return list;
  });
}
