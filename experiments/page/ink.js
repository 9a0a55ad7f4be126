// The ink of strokes, as the networks get it.
//
// It is computed here and not read back from the canvas, because each browser draws the edge of a
// line in its own way, and some add noise to a canvas that a page reads.

export const SIDE = 280; // pixels on each side of the drawing area
export const RADIUS = 12; // of the pen, in these pixels

/** The ink of strokes, each a list of points [x, y]: [SIDE, SIDE], 0 to 255. */
export function inkOf(strokes) {
  const ink = new Uint8ClampedArray(SIDE * SIDE);
  for (const points of strokes) inkStroke(ink, points);
  return ink;
}

/** Adds a stroke to the ink: full within the pen's radius, with an edge of a pixel. */
export function inkStroke(ink, points) {
  points.forEach((point, n) => inkLine(ink, points[Math.max(n - 1, 0)], point));
}

function inkLine(ink, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length2 = dx * dx + dy * dy || 1;
  const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - RADIUS - 1));
  const last = (a, b) => Math.min(SIDE - 1, Math.ceil(Math.max(a, b) + RADIUS + 1));
  for (let row = first(y0, y1); row <= last(y0, y1); row++) {
    for (let column = first(x0, x1); column <= last(x0, x1); column++) {
      const [x, y] = [column + 0.5 - x0, row + 0.5 - y0]; // the pixel's centre
      const along = Math.min(Math.max((x * dx + y * dy) / length2, 0), 1);
      const distance = Math.hypot(x - along * dx, y - along * dy);
      const grey = 255 * (RADIUS + 0.5 - distance); // clamped by the array
      const at = row * SIDE + column;
      if (grey > ink[at]) ink[at] = grey;
    }
  }
}

/** A test image with ink over it, both in MNIST's own frame: [784] and [SIDE, SIDE] to [784]. */
export function inkOver(base, ink) {
  const cell = SIDE / 28;
  return base.map((grey, n) => {
    const start = Math.floor(n / 28) * cell * SIDE + (n % 28) * cell;
    let sum = 0;
    for (let row = 0; row < cell; row++) {
      for (let column = 0; column < cell; column++) sum += ink[start + row * SIDE + column];
    }
    return Math.max(grey, Math.round(sum / cell ** 2));
  });
}
