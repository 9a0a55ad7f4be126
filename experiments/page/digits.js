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
  [ink, side] = cropped(ink, side);
  let kept = withoutSpecks(ink, side); // [side, side], 0 to 1
  if (!kept) return null;
  [kept, side] = widened(kept, side);
  const spans = spansOf(kept, side);
  const scale = lengthScale(spans);
  const steep = Math.min(Math.max(1, scale), STEEPEST);
  const rowMass = new Float64Array(side);
  const columnMass = new Float64Array(side);
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column < side; column++, at++) {
      if (kept[at] === 0) continue;
      kept[at] = Math.min(Math.max(steep * kept[at] - (steep - 1) * STRONG, 0), 1);
      rowMass[row] += kept[at];
      columnMass[column] += kept[at];
    }
  }
  const down = windows(rowMass, spans[0], scale); // of the image's 28 rows
  const right = windows(columnMass, spans[1], scale); // of its 28 columns

  const narrow = new Float64Array(side * SIZE); // [side, 28], shrunk from left to right
  for (let row = 0; row < side; row++) {
    if (rowMass[row] === 0) continue;
    for (let j = 0; j < SIZE; j++) {
      const { first, parts } = right[j];
      let sum = 0;
      for (let n = 0; n < parts.length; n++) sum += parts[n] * kept[row * side + first + n];
      narrow[row * SIZE + j] = sum;
    }
  }
  const image = new Float64Array(SIZE * SIZE); // [28, 28], shrunk from top to bottom, too
  for (let i = 0; i < SIZE; i++) {
    const { first, parts } = down[i];
    for (let n = 0; n < parts.length; n++) {
      for (let j = 0; j < SIZE; j++) image[i * SIZE + j] += parts[n] * narrow[(first + n) * SIZE + j];
    }
  }
  const largest = Math.max(...image);
  return Uint8Array.from(image, (grey) => Math.floor((255 * grey) / largest + 0.5));
}

/** The square of the ink that holds all of it, and its side. */
function cropped(ink, side) {
  const [rows, columns] = [new Uint8Array(side), new Uint8Array(side)];
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column < side; column++, at++) {
      if (ink[at]) rows[row] = columns[column] = 1;
    }
  }
  const [top, left] = [rows.indexOf(1), columns.indexOf(1)];
  const shorter = Math.max(rows.lastIndexOf(1) - top, columns.lastIndexOf(1) - left) + 1;
  if (top < 0) return [ink, side];
  const square = new Float64Array(shorter ** 2);
  for (let row = 0; row < Math.min(shorter, side - top); row++) {
    const start = (top + row) * side + left;
    square.set(ink.subarray(start, start + Math.min(shorter, side - left)), row * shorter);
  }
  return [square, shorter];
}

/** The first row with strong ink and the row after the last, then the same for the columns. */
function spansOf(ink, side) {
  const [rows, columns] = [new Uint8Array(side), new Uint8Array(side)];
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column < side; column++, at++) {
      if (ink[at] >= STRONG) rows[row] = columns[column] = 1;
    }
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
  let area = 0;
  let outline = 0; // pixels with a neighbour that is no ink; a stroke has two sides
  for (let row = 0, at = 0; row < side; row++) {
    for (let column = 0; column < side; column++, at++) {
      if (ink[at] < STRONG) continue;
      area++;
      const inside =
        ink[at - side] >= STRONG && ink[at + side] >= STRONG && // undefined outside
        column > 0 && ink[at - 1] >= STRONG && column < side - 1 && ink[at + 1] >= STRONG;
      if (!inside) outline++;
    }
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

/** The ink, 0 to 1, of all connected parts except specks: [side, side]; null for none. */
function withoutSpecks(ink, side) {
  const part = new Int32Array(ink.length); // the number of its connected part, or 0
  const waiting = new Int32Array(ink.length);
  const sizes = [0]; // pixels of each part
  for (let start = 0; start < ink.length; start++) {
    if (part[start] || ink[start] < 255 * STRONG) continue;
    const number = sizes.length;
    let count = 1;
    waiting[0] = start;
    part[start] = number;
    for (let done = 0; done < count; done++) {
      const at = waiting[done];
      const column = at % side;
      for (let next = at - side; next <= at + side; next += side) {
        for (let x = column ? -1 : 0; x <= (column < side - 1 ? 1 : 0); x++) {
          if (part[next + x] !== 0 || !(ink[next + x] >= 255 * STRONG)) continue;
          part[next + x] = number;
          waiting[count++] = next + x;
        }
      }
    }
    sizes.push(count);
  }
  const least = Math.max(1, SPECK * Math.max(...sizes));
  if (sizes.length === 1) return null;
  const specks = sizes.some((size, number) => number && size < least);
  const kept = new Float64Array(ink.length);
  for (let at = 0; at < ink.length; at++) {
    if (!specks) kept[at] = ink[at] / 255;
    else if (sizes[part[at]] >= least) {
      around(at, REACH, side, (near) => (kept[near] = ink[near] / 255));
    }
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
 *  Returns 28 of { first, parts }: a row and the parts of it and of those that follow. The digit's centre of mass comes into the middle of the image
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
    const begin = Math.max(0, Math.floor(from));
    const parts = [];
    for (let row = begin; row < Math.min(mass.length, to); row++) {
      parts.push((Math.min(to, row + 1) - Math.max(from, row)) / width);
    }
    return { first: begin, parts };
  });
}
