// Look inside: what a network computes, layer by layer, in the order in which it computes.

import { explainCells, showKernels, shown } from "./cells.js";
import { element, short } from "./dom.js";
import { explained } from "./explain.js";
import { forward } from "./forward.js";
import { COLUMNS, createMap, scaleOf } from "./maps.js";

/** What stands beside each layer of forward.js.
 *
 *  parts: what the network's summary calls the layers whose parameters belong to this one; by
 *  default the layer's name. */
const TEXTS = {
  input: { title: "The image", text: "grey levels as this network was trained to see them" },
  conv1: { text: "5×5 convolution, maximum of each 2×2, ReLU" },
  conv2: { text: "5×5 convolution, maximum of each 2×2, ReLU" },
  fc1: { text: "every number from all 256 of those before it, ReLU" },
  "resnet_block/input": { title: "input", text: "what comes in, and goes past the branch, too" },
  "resnet_block/inner": {
    title: "branch, first half",
    text: "3×3 convolution, batch normalisation, ReLU",
    parts: ["resnet_block/conv1", "resnet_block/bn1"],
  },
  "resnet_block/branch": {
    title: "branch, second half",
    text: "3×3 convolution, batch normalisation",
    parts: ["resnet_block/conv2", "resnet_block/bn2"],
  },
  "resnet_block/sum": { title: "sum", text: "input + branch, ReLU" },
  fc2: { text: "every number from all 120 before it, ReLU" },
  fc3: { title: "fc3, the logits", text: "every number from all 84 of fc2" },
};

const inBlock = ({ name }) => name.startsWith("resnet_block/");

/** Makes the section for one run.
 *
 *  Returns a function that shows the layers that forward.js computed with a network, or nothing if
 *  they are null, as for a blank drawing. Layers that are not on the screen are painted when they
 *  come into sight. */
export function createLayers(container, run) {
  let shownLayers = null; // the layers and the network of which they are
  const explain = (name, at) => {
    if (!shownLayers) return null;
    const { computed, network } = shownLayers;
    return explained(name, at, computed, network);
  };
  const blank = forward(run.network, new Uint8Array(784));
  const layers = blank.map((layer) => createLayer(run, layer, explain));
  const sections = layers.map(({ section }) => section);
  const first = layers.findIndex(inBlock);
  if (first >= 0) {
    const ofBlock = sections.splice(first, 4, blockSection(run));
    sections[first].append(...ofBlock);
  }
  container.replaceChildren(...sections);
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const layer = layers.find(({ section }) => section === target);
      layer.visible = isIntersecting;
      if (isIntersecting) layer.paint();
    }
  });
  for (const { section } of layers) watch.observe(section);
  addEventListener("beforeprint", () => layers.forEach((layer) => layer.paint()));
  return (computed, network) => {
    shownLayers = computed && { computed, network };
    container.classList.toggle("blank", !computed);
    const ofBlock = computed?.filter(inBlock).map(({ values }) => values) ?? [];
    const scaleOfBlock = scaleOf(...ofBlock);
    layers.forEach((layer, n) => {
      const values = computed?.[n].values ?? [];
      layer.paint = () => layer.show(values, inBlock(layer) ? scaleOfBlock : scaleOf(values));
      if (layer.visible) layer.paint();
    });
  };
}

/** One layer: its name, what it is, shape, parameters, and its numbers as maps.
 *
 *  explain: from the layer's name and the place of a number to what cells.js says of it. */
function createLayer(run, { name, shape }, explain) {
  const { title = name, text, parts = [name] } = TEXTS[name];
  const parameters = parts.reduce((sum, part) => sum + (run.parameters[part] ?? 0), 0);
  const count = parameters ? `, ${parameters.toLocaleString("en")} parameters` : "";
  const size = shape.reduce((a, b) => a * b);
  const flat = shape.length === 1 || shape[1] === 1;
  const [channels, height, width] = flat
    ? [1, Math.ceil(size / COLUMNS), Math.min(COLUMNS, size)]
    : shape;
  const maps = Array.from({ length: channels }, () => createMap(height, width));
  const columns = flat ? "flat" : Math.min(channels, 8);
  const picture = element("div", { class: "maps shaded", "data-columns": columns });
  picture.append(...maps.map((map) => map.canvas));
  const panel = explainCells(picture, [channels, height, width], size, (at) => {
    const found = explain(name, at);
    return found && shown(`${title}, ${placeName(at, shape)}: ${short(found.value)}`, found);
  });
  const [low, high] = [element("span"), element("span")];
  const ramp = element("span", { class: "shaded" }, element("span", { class: "ramp" }));
  const scale = element("p", { class: "scale small" }, low, ramp, high);
  const section = element(
    "section",
    { class: "layer", "data-layer": name },
    element(
      inBlock({ name }) ? "h4" : "h3",
      {},
      title,
      element("span", { class: "shape" }, ` [${shape.join(", ")}]${count}`),
    ),
    element("p", { class: "small" }, text),
    ...(name === "conv1" ? [showKernels(run)] : []),
    picture,
    ...(name === "fc3" ? [digitLabels()] : []),
    scale,
    panel.element,
  );
  const show = (values, largest) => {
    // Where black paper is -1, as in the image, zero means nothing: shades begin at the paper.
    const paper = name === "input" ? -run.mean / run.std : 0;
    const top = name === "input" ? (1 - run.mean) / run.std : largest;
    const signed = name !== "input" && values.some((value) => value < 0);
    const part = size / channels;
    maps.forEach((map, n) => {
      const own = values.slice(n * part, (n + 1) * part);
      map.show(paper ? own.map((value) => value - paper) : own, top - paper);
    });
    scale.classList.toggle("signed", signed);
    low.textContent = short(signed ? -largest : paper);
    high.textContent = short(top);
    picture.setAttribute("aria-label", `${title}: ${described(values, channels)}`);
    panel.refresh();
  };
  return { name, section, show, paint() {}, visible: false };
}

/** A layer's numbers as text, for a reader who does not see the maps. */
function described(values, maps) {
  if (!values.length) return "nothing yet";
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const where = maps > 1 ? `${maps} maps` : `${values.length} numbers`;
  const at = Math.floor((values.indexOf(most) * maps) / values.length);
  const place = maps > 1 ? ` in map ${at + 1}` : "";
  return `${where} from ${short(least)} to ${short(most)}, the largest${place}`;
}

function placeName(at, shape) {
  const [, height = 1, width = 1] = shape;
  if (height === 1) return `number ${at + 1}`;
  const map = shape[0] > 1 ? `map ${Math.floor(at / (height * width)) + 1}, ` : "";
  return `${map}row ${(Math.floor(at / width) % height) + 1}, column ${(at % width) + 1}`;
}

function digitLabels() {
  const labels = Array.from({ length: 10 }, (_, digit) => element("span", {}, String(digit)));
  return element("div", { class: "labels", "aria-hidden": "true" }, ...labels);
}

/** The box in which the block's layers stand. */
function blockSection(run) {
  const taps =
    " On images of one pixel eight of the nine weights of a 3×3 kernel meet nothing but padding: " +
    "only the centre tap counts, and the block is two dense layers with a shortcut. " +
    `${run.unused.toLocaleString("en")} of the network’s parameters never learn; this page leaves ` +
    "them out.";
  const text = `Its four parts share one scale.${run.unused ? taps : ""}`;
  const title = element("h3", {}, "The residual block");
  return element("div", { class: "block card" }, title, element("p", { class: "small" }, text));
}
