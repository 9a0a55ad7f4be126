// The drawing area: strokes of a pen, a test image under them, undo.
//
// The ink is computed here and not read back from the canvas, because each browser draws the edge of
// a line in its own way, and some add noise to a canvas that a page reads.

export const SIDE = 280; // pixels on each side of the drawing area
const RADIUS = 12; // of the pen, in these pixels
const STEP = 10; // how far an arrow key moves the pen, in these pixels
const BLANK = { base: null, strokes: [] };

/** Makes a canvas a drawing area.
 *
 *  changed: called with false while a stroke grows, with true when a stroke or anything else is
 *  finished. */
export function createDrawing(canvas, changed) {
  const ink = new Uint8ClampedArray(SIDE * SIDE); // that of all strokes, 0 to 255
  const past = []; // the states that undo goes back to
  let state = BLANK; // base: 784 grey levels or null; strokes: a list of points [x, y] each
  let stroke = null; // the stroke that is growing
  let pointer = null; // the pointer that draws it; a second finger does not draw
  let pen = [SIDE / 2, SIDE / 2]; // where the keyboard's pen is
  let penShown = false;

  function become(next) {
    state = next;
    ink.fill(0);
    for (const points of state.strokes) inkStroke(ink, points);
    settle(true);
  }

  function advance(next) {
    past.push(state);
    become(next);
  }

  function settle(done) {
    paint(canvas, state, stroke, penShown ? pen : null);
    changed(done);
  }

  function begin(point) {
    stroke = [point];
    inkStroke(ink, stroke);
    settle(false);
  }

  function extend(points) {
    for (const point of points) {
      inkStroke(ink, [stroke.at(-1), point]);
      stroke.push(point);
    }
    settle(false);
  }

  function end() {
    pointer = null;
    const strokes = [...state.strokes, stroke];
    stroke = null;
    advance({ ...state, strokes });
  }

  const places = (events) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    const scale = SIDE / width;
    return events.map(({ clientX: x, clientY: y }) => [(x - left) * scale, (y - top) * scale]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || pointer !== null) return;
    if (stroke) end(); // ends a stroke of the keyboard
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    penShown = false;
    begin(places([event])[0]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const all = event.getCoalescedEvents?.() ?? []; // the places between two frames
    extend(places(all.length ? all : [event]));
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(name, (event) => {
      if (event.pointerId === pointer) end();
    });
  }

  canvas.addEventListener("keydown", (event) => {
    const [right, down] = {
      ArrowRight: [1, 0],
      ArrowLeft: [-1, 0],
      ArrowDown: [0, 1],
      ArrowUp: [0, -1],
    }[event.key] ?? [0, 0];
    const lift = [" ", "Enter"].includes(event.key);
    if (pointer !== null || !(right || down || lift)) return;
    event.preventDefault(); // the page does not scroll
    penShown = true;
    pen = [pen[0] + STEP * right, pen[1] + STEP * down].map((x) => Math.min(Math.max(x, 0), SIDE));
    if (lift && stroke) end();
    else if (lift) begin(pen);
    else if (stroke) extend([pen]);
    else settle(false);
  });
  canvas.addEventListener("blur", () => {
    penShown = false;
    if (stroke && pointer === null) end();
    else paint(canvas, state, stroke, null);
  });

  paint(canvas, state, stroke, null);
  return {
    /** { base, ink, drawn }: the test image or null, the ink, whether there is any ink. */
    content: () => ({ base: state.base, ink, drawn: Boolean(stroke || state.strokes.length) }),
    canUndo: () => past.length > 0,
    undo() {
      if (stroke) end();
      if (past.length) become(past.pop());
    },
    clear() {
      if (stroke) end();
      if (state !== BLANK) advance(BLANK);
    },
    /** Shows a test image, 784 grey levels, instead of what was drawn. */
    load(image) {
      if (stroke) end();
      advance({ base: image, strokes: [] });
    },
    repaint: () => paint(canvas, state, stroke, penShown ? pen : null),
  };
}

/** Adds a stroke to the ink, [SIDE, SIDE]: full within the pen's radius, with an edge of a pixel. */
export function inkStroke(ink, points) {
  for (let n = 0; n < points.length; n++) {
    const [x0, y0] = points[Math.max(n - 1, 0)];
    const [x1, y1] = points[n];
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

function paint(canvas, { base, strokes }, stroke, pen) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / SIDE;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, SIDE, SIDE);
  context.fillStyle = context.strokeStyle = getComputedStyle(canvas).color;
  const cell = SIDE / 28;
  base?.forEach((grey, n) => {
    context.globalAlpha = grey / 255;
    context.fillRect((n % 28) * cell, Math.floor(n / 28) * cell, cell, cell);
  });
  context.globalAlpha = 1;
  context.lineWidth = 2 * RADIUS;
  context.lineCap = context.lineJoin = "round";
  for (const points of stroke ? [...strokes, stroke] : strokes) {
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
  if (!pen) return;
  context.lineWidth = 2;
  context.globalCompositeOperation = "xor"; // so that the pen is seen on ink, too
  context.beginPath();
  context.arc(...pen, RADIUS + 3, 0, 2 * Math.PI);
  context.stroke();
  context.globalCompositeOperation = "source-over";
}
