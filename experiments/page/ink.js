// The ink of strokes, as the networks get it.
//
// It is computed here and not read back from the canvas, because each browser draws the edge of a
// line in its own way, and some add noise to a canvas that a page reads.

export const SIDE = 280; // pixels on each side of the drawing area, in which points are told
export const INK = 140; // pixels on each side of the ink, five for each of an image of MNIST
export const RADIUS = 12; // of the pen, in pixels of the drawing area
export const FINE = 8; // parts of a pixel to which the points of strokes are rounded
const EXTENT = 150; // pixels to which the strokes of a smaller drawing are enlarged
const DOT = 6; // pixels: a drawing that is no longer than this is a dot and stays one

/** Ink that grows with a drawing.
 *
 *  add: inks all strokes, of which the last has just grown by a line, a list of points [x, y].
 *  set: inks other strokes.
 *  Both get whether strokes keep their place, as they do over a test image; else a small drawing is
 *  enlarged, so that the pen is as thin for its digit as for a large one. */
export function createInk() {
  const ink = new Uint8ClampedArray(INK * INK); // 0 to 255
  let plain = true; // whether the strokes in it were inked where they are
  const set = (strokes, inPlace = false) => {
    const move = inPlace ? null : enlargement(strokes);
    plain = !move;
    ink.fill(0);
    for (const points of strokes) inkStroke(ink, move ? points.map(move) : points);
  };
  const add = (strokes, line, inPlace) => {
    if (plain && (inPlace || !enlargement(strokes))) inkStroke(ink, line);
    else set(strokes, inPlace);
  };
  return { ink, set, add };
}

/** The function that moves the points of a small drawing; null for a large one. */
function enlargement(strokes) {
  const none = [Infinity, -Infinity];
  const [x, y] = [0, 1].map((axis) => {
    const all = strokes.flatMap((points) => points.map((point) => point[axis]));
    return all.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], none);
  });
  const extent = Math.max(x[1] - x[0], y[1] - y[0]);
  if (extent >= EXTENT || extent <= DOT) return null;
  const middle = [(x[0] + x[1]) / 2, (y[0] + y[1]) / 2];
  return (point) =>
    point.map((value, axis) => SIDE / 2 + ((value - middle[axis]) * EXTENT) / extent);
}

/** Adds a stroke to the ink: full within the pen's radius, with an edge of a pixel. */
function inkStroke(ink, points) {
  points.forEach((point, n) => inkLine(ink, points[Math.max(n - 1, 0)], point));
}

function inkLine(ink, from, to) {
  const [x0, y0, x1, y1, radius] = [...from, ...to, RADIUS].map((length) => (length * INK) / SIDE);
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length2 = dx * dx + dy * dy || 1;
  const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - radius - 1));
  const last = (a, b) => Math.min(INK - 1, Math.ceil(Math.max(a, b) + radius + 1));
  for (let row = first(y0, y1); row <= last(y0, y1); row++) {
    for (let column = first(x0, x1); column <= last(x0, x1); column++) {
      const [x, y] = [column + 0.5 - x0, row + 0.5 - y0]; // the pixel's centre
      const along = Math.min(Math.max((x * dx + y * dy) / length2, 0), 1);
      const distance = Math.sqrt((x - along * dx) ** 2 + (y - along * dy) ** 2);
      const grey = 255 * (radius + 0.5 - distance); // clamped by the array
      const at = row * INK + column;
      if (grey > ink[at]) ink[at] = grey;
    }
  }
}

/** A test image with ink over it, both in MNIST's own frame: [784] and [INK, INK] to [784]. */
export function inkOver(base, ink) {
  const cell = INK / 28;
  return base.map((grey, n) => {
    const start = Math.floor(n / 28) * cell * INK + (n % 28) * cell;
    let sum = 0;
    for (let row = 0; row < cell; row++) {
      for (let column = 0; column < cell; column++) sum += ink[start + row * INK + column];
    }
    return Math.max(grey, Math.round(sum / cell ** 2));
  });
}
