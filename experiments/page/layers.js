// Look inside: what a network computes, layer by layer, in the order in which it computes.

import { best } from "./answers.js";
import { element, percent } from "./dom.js";
import { forward } from "./forward.js";
import { createMap, scaleOf } from "./maps.js";

const COLUMNS = 30; // cells in a row of the map of a layer without height and width

/** The text that stands beside each layer of forward.js.
 *
 *  rows: the rows of the network's summary whose parameters belong to this layer; by default the
 *  row with the layer's name. */
const TEXTS = {
  input: { title: "The image" },
  conv1: { text: "5×5 convolution, maximum of each 2×2, ReLU" },
  conv2: { text: "5×5 convolution, maximum of each 2×2, ReLU" },
  fc1: { text: "every number from all 256 of those before it, ReLU" },
  "resnet_block/input": { title: "input", text: "what comes in, and goes past the branch, too" },
  "resnet_block/inner": {
    title: "branch, first half",
    text: "3×3 convolution, batch normalisation, ReLU",
    rows: ["resnet_block/conv1", "resnet_block/bn1"],
  },
  "resnet_block/branch": {
    title: "branch, second half",
    text: "3×3 convolution, batch normalisation",
    rows: ["resnet_block/conv2", "resnet_block/bn2"],
  },
  "resnet_block/sum": { title: "sum", text: "input + branch, ReLU" },
  fc2: { text: "every number from all 120 before it, ReLU" },
  fc3: { title: "fc3, the logits", text: "every number from all 84 of fc2" },
};

/** Makes the section for one run.
 *
 *  Returns a function that shows the layers of forward.js with the shades of maps.js, or nothing
 *  if the layers are null, as for a blank drawing. */
export function createLayers(container, run) {
  const rows = forward(run.network, new Uint8Array(784)).map((layer) => createLayer(run, layer));
  const ofBlock = rows.filter(({ name }) => inBlock(name)).map(({ row }) => row);
  const block = element(
    "div",
    { class: "block" },
    element("h3", {}, "The residual block"),
    element("p", { class: "small" }, "Its four parts share one scale."),
    ...ofBlock,
  );
  const before = rows.findIndex(({ name }) => inBlock(name));
  const others = rows.filter(({ name }) => !inBlock(name)).map(({ row }) => row);
  if (ofBlock.length) {
    ofBlock.at(-1).before(taps(run));
    others.splice(before, 0, block);
  }
  container.replaceChildren(...others);
  return (layers, shades) => {
    container.classList.toggle("blank", !layers);
    const lists = layers?.filter(({ name }) => inBlock(name)).map(({ values }) => values) ?? [];
    const scaleOfBlock = scaleOf(...lists);
    rows.forEach(({ name, show }, n) => {
      const values = layers ? layers[n].values : [];
      show(values, inBlock(name) ? scaleOfBlock : scaleOf(values), shades);
    });
  };
}

const inBlock = (name) => name.startsWith("resnet_block/");

/** One layer: its name, what it is, shape, parameters, and its numbers as maps. */
function createLayer(run, { name, shape }) {
  const { title = name, text = pixelText(run), rows = [name] } = TEXTS[name];
  const parameters = run.layers
    .filter((layer) => rows.includes(layer.name))
    .reduce((sum, layer) => sum + layer.parameters, 0);
  const count = parameters ? `, ${parameters.toLocaleString("en")} parameters` : "";
  const size = shape.reduce((a, b) => a * b);
  const flat = shape.length === 1 || shape[1] === 1;
  const [channels, height, width] = flat
    ? [1, Math.ceil(size / COLUMNS), Math.min(COLUMNS, size)]
    : shape;
  const maps = Array.from({ length: channels }, () => createMap(height, width));
  const picture = element("div", { role: "img", class: "maps" }, ...maps.map((map) => map.canvas));
  picture.dataset.columns = flat ? "flat" : Math.min(channels, 8);
  const low = element("span");
  const high = element("span");
  const scale = element("span", { class: "scale" }, low, element("span", { class: "ramp" }), high);
  const row = element(
    "section",
    { class: "layer", "data-layer": name },
    element("h4", {}, title, element("span", { class: "shape" }, `[${shape.join(", ")}]${count}`)),
    element("p", { class: "small" }, text),
    picture,
    ...(name === "fc3" ? [digitLabels()] : []),
    scale,
  );
  const show = (values, largest, shades) => {
    // Where black paper is -1, as in the image, zero means nothing: shades begin at the paper.
    const paper = name === "input" ? -run.mean / run.std : 0;
    const top = name === "input" ? (1 - run.mean) / run.std : largest;
    const signed = name !== "input" && values.some((value) => value < 0);
    const part = size / channels;
    maps.forEach((map, n) => {
      const own = values.slice(n * part, (n + 1) * part);
      map.show(
        own.map((value) => value - paper),
        top - paper,
        shades,
      );
    });
    scale.classList.toggle("signed", signed);
    low.textContent = short(signed ? -largest : paper);
    high.textContent = short(top);
    picture.setAttribute("aria-label", describe(values, channels));
  };
  return { name, row, show };
}

/** A layer's numbers as text, for a reader who does not see the maps. */
function describe(values, maps) {
  if (!values.length) return "nothing yet";
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const where = maps > 1 ? `${maps} maps` : `${values.length} numbers`;
  const at = Math.floor((values.indexOf(most) * maps) / values.length);
  const place = maps > 1 ? ` in map ${at + 1}` : "";
  return `${where} from ${short(least)} to ${short(most)}, the largest${place}`;
}

const short = (value) => value.toFixed(2).replace("-", "−");

const pixelText = ({ mean, std }) =>
  mean === 0 && std === 1
    ? "grey levels divided by 255"
    : `grey levels as this network was trained to see them: (grey / 255 − ${mean}) / ${std}`;

function digitLabels() {
  const labels = Array.from({ length: 10 }, (_, digit) => element("span", {}, String(digit)));
  return element("div", { class: "labels", "aria-hidden": "true" }, ...labels);
}

/** Which of the nine taps of the block's convolutions are used, and how strong each has become. */
function taps(run) {
  const figures = ["conv1", "conv2"].map((name) => {
    const weight = run.network.tensors[`resnet_block.${name}.weight`];
    const shares = run.placement === "after_fc1" ? [4] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
    const squares = Array(9).fill(null); // mean squares of each tap's weights; null: never used
    for (const [n, tap] of shares.entries()) {
      let sum = 0;
      for (let i = n; i < weight.length; i += shares.length) sum += weight[i] ** 2;
      squares[tap] = Math.sqrt((sum * shares.length) / weight.length);
    }
    const largest = Math.max(...squares);
    const cells = squares.map((size) => {
      const cell = element("span", { class: size === null ? "tap unused" : "tap" });
      if (size !== null) cell.style.setProperty("--share", size / largest);
      return cell;
    });
    return element("span", { class: "taps" }, ...cells);
  });
  const text =
    run.placement === "after_fc1"
      ? "On images of one pixel eight of the nine taps of a 3×3 kernel meet nothing but padding: " +
        "only the centre tap is used, and the block is two dense layers with a shortcut. " +
        `${run.unused.toLocaleString("en")} of the network’s ` +
        `${run.parameters.toLocaleString("en")} parameters never learn; this page leaves them out.`
      : "All nine taps of the 3×3 kernels are used. Shaded is the root mean square of a tap’s weights.";
  return element("div", { class: "tap-row" }, ...figures, element("p", { class: "small" }, text));
}

/** A slider over the epochs that a run kept, and the answer of each to the same drawing.
 *
 *  epochs: [{ epoch, network }], the last finished one at the end.
 *  chosen: called with the place of an epoch in that list.
 *  Returns a function that shows probabilities, [10] for each epoch, or null. */
export function createEpochs(container, epochs, chosen) {
  const map = createMap(10, epochs.length);
  const output = element("output", { for: "epoch" });
  const slider = element("input", {
    id: "epoch",
    type: "range",
    min: 0,
    max: epochs.length - 1,
    value: epochs.length - 1,
    input: () => {
      tell();
      chosen(Number(slider.value));
    },
  });
  slider.style.setProperty("--epochs", epochs.length);
  let answers = null;
  const tell = () => {
    const at = Number(slider.value);
    const answer = answers?.[at];
    const said = answer ? `: ${best(answer)}, ${percent(Math.max(...answer))}` : "";
    output.textContent = `epoch ${epochs[at].epoch}${said}`;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  const digits = Array.from({ length: 10 }, (_, digit) => element("span", {}, String(digit)));
  container.replaceChildren(
    element("label", { for: "epoch" }, "How the answer formed, epoch by epoch"),
    element(
      "div",
      { class: "forming" },
      element("div", { class: "digits", "aria-hidden": "true" }, ...digits),
      element("div", { class: "stack" }, map.canvas, slider),
    ),
    output,
  );
  tell();
  return (probabilities, shades) => {
    answers = probabilities;
    const cells = Array.from({ length: 10 * epochs.length }, (_, n) =>
      probabilities ? probabilities[n % epochs.length][Math.floor(n / epochs.length)] : 0,
    );
    map.show(cells, 1, shades);
    tell();
  };
}
