// The page: opens what was embedded, and passes each drawing to the networks and to what they show.

import { best, createAnswers, spoken } from "./answers.js";
import { toMnist } from "./digits.js";
import { LABELS, element, oneTabStop } from "./dom.js";
import { SIDE, createDrawing, inkOver, inkStroke } from "./drawing.js";
import { createFindings } from "./found.js";
import { forward, softmax } from "./forward.js";
import { createEpochs, createLayers } from "./layers.js";
import { createMap, readShades } from "./maps.js";
import { openImages, openWeights } from "./weights.js";

const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);
const image = await openImages(data.images); // from the number of a test image to its grey levels
const runs = await Promise.all(data.runs.map(openRun));

let shades = readShades();
let seen = null; // what the networks see, 784 grey levels, or null
let chosen = runs.find((run) => run.network); // the run that is looked into
let network = null; // its weights, of an epoch that may be an earlier one
let showLayers = () => {};
let showEpochs = () => {};
let shadeFindings = () => {};

const showAnswers = createAnswers(find("answers"), runs);
const seenMap = createMap(28, 28);
find("seen").append(seenMap.canvas);
const drawing = createDrawing(find("drawing"), changed);
const tiles = data.row.map(createTile);

find("undo").addEventListener("click", drawing.undo);
find("clear").addEventListener("click", drawing.clear);
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") drawing.undo();
});
find("row").append(...tiles.map(({ button }) => button));
oneTabStop(find("row"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", shadeAll);
if (runs.some((run) => run.network?.checked === false)) find("unchecked").hidden = false;
const pickers = [...document.querySelectorAll(".picker")].map(createPicker);
if (chosen) choose(chosen);
shadeAll();

/** For the browser's console, and for the tests. */
globalThis.mnistJax = Object.freeze({
  runs: runs.map((run) => run.name),
  /** The ten logits of a run, by its place in `runs`, for 784 grey levels. */
  logits: (n, grey) => Array.from(forward(runs[n].network, grey).at(-1).values),
  /** The ink of strokes, each a list of points [x, y]: [280, 280], 0 to 255. */
  ink(strokes) {
    const ink = new Uint8ClampedArray(SIDE * SIDE);
    for (const points of strokes) inkStroke(ink, points);
    return ink;
  },
  /** What the networks see of ink: 784 grey levels, or null. */
  toMnist: (ink) => toMnist(ink, SIDE),
});
document.documentElement.dataset.ready = "yes";

async function openRun(run) {
  try {
    return { ...run, network: await openNetwork(run, run.weights) };
  } catch (error) {
    return { ...run, error: error.message };
  }
}

async function openNetwork({ placement, mean, std, tensors }, packed) {
  return { placement, mean, std, ...(await openWeights({ tensors, ...packed })) };
}

/** Computes the answers again. While a stroke grows, what is not needed at once waits. */
function changed(done) {
  const { base, ink, drawn } = drawing.content();
  if (!drawn) seen = base;
  else seen = base ? inkOver(base, ink) : toMnist(ink, SIDE);
  const computed = runs.map((run) => seen && run.network && forward(run.network, seen));
  const answers = computed.map((layers) => layers && softmax(layers.at(-1).values));
  showAnswers(seen && answers);
  for (const picker of pickers) picker.answer(seen && answers);
  seenMap.show(seen ?? [], 255, shades);
  if (chosen) {
    const inside = network === chosen.network ? computed[runs.indexOf(chosen)] : null;
    showLayers(seen && (inside ?? forward(network, seen)), shades);
  }
  find("hint").hidden = Boolean(seen);
  if (!done) return;
  find("undo").ariaDisabled = String(!drawing.canUndo());
  find("clear").ariaDisabled = String(!seen);
  find("said").textContent = spoken(runs, seen && answers);
  showForming();
}

function showForming() {
  const epochs = chosen?.opened;
  const answer = ({ network: earlier }) => softmax(forward(earlier, seen).at(-1).values);
  showEpochs(seen && epochs ? epochs.map(answer) : null, shades);
}

/** The epochs that a run kept, with their networks; one whose weights are damaged is left out. */
async function openEpochs(run) {
  const opened = await Promise.allSettled(
    run.epochs.map(async ({ epoch, weights }) => ({
      epoch,
      network: await openNetwork(run, weights),
    })),
  );
  const whole = opened.flatMap(({ value }) => value ?? []);
  return [...whole, { epoch: run.epoch, network: run.network }];
}

/** Shows the inside and the findings of a run. */
async function choose(run) {
  chosen = run;
  network = run.network;
  for (const picker of pickers) picker.choose(runs.indexOf(run));
  showLayers = createLayers(find("layers"), run);
  shadeFindings = createFindings(find("findings"), run, image, load);
  shadeFindings(shades);
  showEpochs = () => {};
  find("epochs").hidden = true;
  changed(true);
  run.opened ??= await openEpochs(run);
  if (chosen !== run || run.opened.length < 2) return; // another one was chosen meanwhile
  showEpochs = createEpochs(find("epochs"), run.opened, (at) => {
    network = run.opened[at].network;
    changed(false);
  });
  find("epochs").hidden = false;
  showForming();
}

/** Radio buttons to choose a run by, each with the run's answer to the drawing. */
function createPicker(place) {
  const answers = runs.map(() => element("span", { class: "answered" }));
  const buttons = runs.map((run, n) => {
    const button = element("input", {
      type: "radio",
      name: place.id,
      value: n,
      change: () => choose(run),
    });
    button.disabled = !run.network;
    const text = element("span", {}, LABELS[run.placement], element("small", {}, run.name));
    place.append(element("label", { "data-placement": run.placement }, button, text, answers[n]));
    return button;
  });
  return {
    choose: (n) => (buttons[n].checked = true),
    answer(all) {
      answers.forEach((span, n) => (span.textContent = all?.[n] ? best(all[n]) : ""));
    },
  };
}

/** Puts a test image under the pen, and scrolls to the drawing area. */
function load(number) {
  drawing.load(image(number));
  find("drawing").scrollIntoView({ block: "nearest" });
}

/** A button for a test image; `misread` names how some runs read it wrongly. */
function createTile({ image: number, label, misread }) {
  const map = createMap(28, 28);
  const wrong = misread.map(({ run, digit }) => `read as ${digit} by ${runs[run].name}`);
  const name = [`Test image of a ${label}`, ...wrong].join(", ");
  const button = element(
    "button",
    { title: name, "aria-label": name, class: wrong.length ? "tile wrong" : "tile" },
    map.canvas,
  );
  button.addEventListener("click", () => load(number));
  return { button, shade: () => map.show(image(number), 255, shades) };
}

function shadeAll() {
  shades = readShades();
  for (const tile of tiles) tile.shade();
  shadeFindings(shades);
  drawing.repaint();
  changed(true);
}
