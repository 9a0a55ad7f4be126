// The page: opens what was embedded, and passes each drawing to the networks and to what they show.

import { createAnswers, spoken } from "./answers.js";
import { digitsIn, toMnist } from "./digits.js";
import { best, find, oneTabStop } from "./dom.js";
import { createDrawing } from "./drawing.js";
import { createEpochs } from "./epochs.js";
import { forward, softmax } from "./forward.js";
import { INK, createInk, inkOver } from "./ink.js";
import { createLayers } from "./layers.js";
import { createMap } from "./maps.js";
import { showMistakes } from "./mistakes.js";
import { showPicture, takePictures } from "./pictures.js";
import { copyLink, copyPicture, inAddress, keepInAddress, tell } from "./share.js";
import { openImages, openWeights } from "./weights.js";

const data = JSON.parse(find("data").textContent);
const image = await openImages(data.images); // from the number of a test image to its grey levels
const runs = await Promise.all(data.runs.map(openRun));
const choices = [...document.querySelectorAll(".picker label")];

let seen = null; // what the networks see, 784 grey levels, or null
let chosen = runs.find((run) => run.network); // the run that is looked into
let network = null; // its weights, of an epoch that may be an earlier one
let frame = 0; // the request for the next computation
let finished = true; // whether nothing grows at the moment
let showLayers = () => {};
let showEpochs = () => {};

const showAnswers = createAnswers(runs);
const seenMap = createMap(28, 28);
find("seen").append(seenMap.canvas);
const drawing = createDrawing(find("drawing"), find("pen"), (done) => {
  finished = done;
  frame ||= requestAnimationFrame(compute);
});

for (const name of ["undo", "redo", "clear"]) find(name).addEventListener("click", drawing[name]);
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
  // The letter on the key, or where the layout has no Latin letters, the place of the key.
  const latin = /^[a-z]$/i.test(event.key) ? event.key : event.code.slice(-1);
  const name = { z: event.shiftKey ? "redo" : "undo", y: "redo" }[latin.toLowerCase()];
  if (!name) return;
  event.preventDefault();
  drawing[name]();
});
document.querySelectorAll(".tile").forEach((tile, n) => {
  const map = createMap(28, 28);
  map.show(image(data.row[n].image));
  tile.append(map.canvas);
  tile.addEventListener("click", () => load(data.row[n].image));
});
oneTabStop(find("row"));
takePictures(find("file"), (picture) => {
  loadDigit(picture, 0);
  if (picture.digits.length > 1) tell(readings(picture));
});
find("copy").addEventListener("click", () => copyPicture(find("drawing")));
find("link").addEventListener("click", copyLink);
find("back").addEventListener("click", goBack);
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the address keeps the drawing
    document.querySelector(link.hash).scrollIntoView();
  });
}
addEventListener("hashchange", openAddress);
find("unchecked").hidden = runs.every((run) => run.network?.checked !== false);
choices.forEach((choice, n) => {
  const button = choice.querySelector("input");
  button.disabled = !runs[n].network;
  button.checked = runs[n] === chosen;
  button.addEventListener("change", () => choose(runs[n]));
});
if (!openAddress()) drawing.load({ base: image(data.example.image), from: { example: true } });
if (chosen) choose(chosen);
compute();

/** For the browser's console, and for the tests. */
globalThis.mnistJax = Object.freeze({
  runs: runs.map((run) => run.name),
  /** The ten logits of a run, by its place in `runs`, for 784 grey levels. */
  logits: (n, grey) => Array.from(forward(runs[n].network, grey).at(-1).values),
  /** The ink of strokes, each a list of points [x, y]: [140, 140], 0 to 255. */
  ink(strokes) {
    const { ink, set } = createInk();
    set(strokes);
    return ink;
  },
  /** What the networks see of ink: 784 grey levels, or null. */
  toMnist: (ink) => toMnist(ink, INK),
  /** The digits of a picture: [{ image, box }]. */
  digitsIn,
  /** What the networks see of the drawing: 784 grey levels, or null. */
  seen: () => seen && Array.from(seen),
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

/** Computes the answers, at most once a frame. While a stroke grows, what can wait does. */
function compute() {
  frame = 0;
  const content = drawing.content();
  const { base, ink, strokes, from } = content;
  if (!strokes.length) seen = base;
  else seen = base ? inkOver(base, ink) : toMnist(ink, INK);
  const computed = runs.map((run) => seen && run.network && forward(run.network, seen));
  const answers = seen && computed.map((layers) => layers && softmax(layers.at(-1).values));
  showAnswers(answers);
  choices.forEach((choice, n) => {
    choice.querySelector(".answered").textContent = answers?.[n] ? best(answers[n]) : "";
  });
  seenMap.show(seen ?? []);
  if (chosen) {
    const inside = network === chosen.network ? computed[runs.indexOf(chosen)] : null;
    showLayers(seen && (inside ?? forward(network, seen)), network);
  }
  find("hint").hidden = Boolean(seen);
  find("example").hidden = !from.example;
  if (!finished) return;
  find("undo").ariaDisabled = String(!drawing.canUndo());
  find("redo").ariaDisabled = String(!drawing.canRedo());
  find("clear").ariaDisabled = String(!seen);
  showPicture(find("picture"), from, loadDigit);
  find("said").textContent = spoken(runs, answers);
  keepInAddress(content);
  showForming();
}

function showForming() {
  const answer = ({ network: earlier }) => softmax(forward(earlier, seen).at(-1).values);
  showEpochs((seen && chosen?.opened?.map(answer)) ?? null);
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

/** Shows the inside and the mistakes of a run. */
async function choose(run) {
  chosen = run;
  network = run.network;
  showLayers = createLayers(find("layers"), run);
  showMistakes(find("findings"), run, image, load);
  showEpochs = () => {};
  find("epochs").hidden = true;
  compute();
  run.opened ??= await openEpochs(run);
  if (chosen !== run || run.opened.length < 2) return; // another one was chosen meanwhile
  showEpochs = createEpochs(find("epochs"), run.opened, (at) => {
    network = run.opened[at].network;
    compute();
  });
  find("epochs").hidden = false;
  showForming();
}

/** Opens the drawing that the address holds, and says whether it holds one. */
function openAddress() {
  const { test, strokes } = inAddress();
  const number = data.indices.indexOf(Number(test ?? NaN));
  if (number < 0 && !strokes.length) return false;
  drawing.load({ strokes, ...(number < 0 ? {} : testImage(number)) });
  return true;
}

function testImage(number) {
  return { base: image(number), from: { test: data.indices[number] } };
}

/** Puts a test image under the pen, and shows the drawing area; `source` is the button, if the way
 *  to it may be long. */
function load(number, source) {
  drawing.load(testImage(number));
  const board = find("drawing");
  const { top, bottom } = board.getBoundingClientRect();
  const far = source && (bottom < 0 || top > innerHeight);
  find("back").hidden = !far;
  if (!far) return;
  find("back").source = source;
  board.scrollIntoView({ block: "center" });
}

function goBack() {
  const { source } = find("back");
  find("back").hidden = true;
  source.scrollIntoView({ block: "center" });
  source.focus({ preventScroll: true });
}

/** Puts a digit of a picture under the pen. */
function loadDigit(picture, digit) {
  drawing.load({ base: picture.digits[digit].image, from: { picture, digit } });
}

/** The number that each network reads in a picture of several digits. */
function readings({ digits }) {
  const read = (run) =>
    digits.map(({ image: grey }) => best(forward(run.network, grey).at(-1).values)).join("");
  const each = runs.filter((run) => run.network).map((run) => `${run.label}: ${read(run)}`);
  return `The picture is read as: ${each.join("; ")}.`;
}
