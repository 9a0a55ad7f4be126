// The drawing area: strokes of a pen, an image under them, undo and redo.

import { FINE, RADIUS, SIDE, createInk } from "./ink.js";

const STEP = 10; // how far an arrow key moves the pen, in pixels of the drawing area
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/** What the drawing area shows.
 *
 *  strokes: a list of points [x, y] each; base: 784 grey levels under them, or null; from: where the
 *  base comes from. A base that is an `example` makes way for the first stroke. */
export const BLANK = { strokes: [], base: null, from: {} };

/** Makes a canvas a drawing area.
 *
 *  marker: an element beside the canvas that is shown where the keyboard's pen is.
 *  changed: called with false while a stroke grows, with true when a stroke or anything else is
 *  finished. */
export function createDrawing(canvas, marker, changed) {
  const { ink, add, set } = createInk();
  const states = [BLANK]; // what undo and redo go through
  let at = 0; // the place of the state that is shown
  let stroke = null; // the stroke that is growing
  let pointer = null; // the pointer event that began it; null for a stroke of the keyboard
  let pen = [SIDE / 2, SIDE / 2]; // where the keyboard's pen is

  const now = () => ({ ...states[at], strokes: [...states[at].strokes, ...(stroke ? [stroke] : [])] });

  function show(place) {
    at = place;
    stroke = pointer = null;
    set(states[at].strokes, Boolean(states[at].base));
    paintAll(canvas, states[at]);
    changed(true);
  }

  /** Puts a state behind the one that is shown; states that were undone are forgotten. */
  function keep(state) {
    states.splice(at + 1, Infinity, state);
    at++;
  }

  function load(state) {
    end();
    keep(state);
    show(at);
  }

  /** Begins a stroke, of the pointer that this event is about, or of the keyboard. */
  function begin(point, event = null) {
    end();
    if (states[at].from.example) load(BLANK);
    pointer = event;
    stroke = [];
    extend([point]);
  }

  function extend(points) {
    const line = [...stroke.slice(-1), ...points];
    stroke.push(...points);
    const { strokes, base } = now();
    add(strokes, line, Boolean(base));
    paintLine(canvas, line);
    changed(false);
  }

  /** Makes the growing stroke, if there is one, a part of the drawing. */
  function end() {
    if (!stroke) return;
    keep(now());
    stroke = pointer = null;
    changed(true);
  }

  function places(events) {
    const { left, top, width } = canvas.getBoundingClientRect();
    const fine = (length) => Math.round((length * FINE * SIDE) / width) / FINE;
    return events.map(({ clientX: x, clientY: y }) => [fine(x - left), fine(y - top)]);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    // A second finger does not draw. A pen does, because a palm may have touched before it.
    if (pointer && !(event.pointerType === "pen" && pointer.pointerType === "touch")) return;
    if (pointer) show(at);
    marker.hidden = true;
    canvas.setPointerCapture(event.pointerId);
    begin(places([event])[0], event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer?.pointerId) return;
    if (!event.buttons) return end(); // the release was lost
    const all = event.getCoalescedEvents?.() ?? []; // the places between two frames
    extend(places(all.length ? all : [event]));
  });
  for (const name of ["pointerup", "lostpointercapture"]) {
    canvas.addEventListener(name, (event) => {
      if (event.pointerId === pointer?.pointerId) end();
    });
  }
  canvas.addEventListener("pointercancel", (event) => {
    if (event.pointerId === pointer?.pointerId) show(at); // without what was no stroke
  });
  canvas.addEventListener("dragstart", (event) => event.preventDefault());

  canvas.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    const lift = [" ", "Enter"].includes(event.key);
    if (pointer || !(arrow || lift)) return;
    event.preventDefault(); // the page does not scroll
    if (arrow) pen = pen.map((x, axis) => Math.min(Math.max(x + STEP * arrow[axis], 0), SIDE));
    if (lift && stroke) end();
    else if (lift) begin(pen);
    else if (stroke) extend([pen]);
    marker.hidden = false;
    [marker.style.left, marker.style.top] = pen.map((x) => `${(100 * x) / SIDE}%`);
  });
  canvas.addEventListener("blur", () => {
    marker.hidden = true;
    if (!pointer) end();
  });

  return {
    /** { strokes, base, from, ink }: what is shown, a growing stroke included, and its ink. */
    content: () => ({ ...now(), ink }),
    canUndo: () => at > 0,
    canRedo: () => at < states.length - 1,
    undo() {
      end();
      if (at > 0) show(at - 1);
    },
    redo() {
      end();
      if (at < states.length - 1) show(at + 1);
    },
    clear() {
      end();
      if (states[at] !== BLANK) load(BLANK);
    },
    /** Shows something else instead of what was drawn. */
    load: (state) => load({ ...BLANK, ...state }),
  };
}

function paintAll(canvas, { base, strokes }) {
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / SIDE, 0, 0, canvas.height / SIDE, 0, 0);
  context.clearRect(0, 0, SIDE, SIDE);
  const cell = SIDE / 28;
  base?.forEach((grey, n) => {
    context.globalAlpha = grey / 255;
    context.fillRect((n % 28) * cell, Math.floor(n / 28) * cell, cell, cell);
  });
  context.globalAlpha = 1;
  for (const points of strokes) paintLine(canvas, points);
}

function paintLine(canvas, points) {
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / SIDE, 0, 0, canvas.height / SIDE, 0, 0);
  context.lineWidth = 2 * RADIUS;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points) context.lineTo(...point);
  context.stroke();
}
