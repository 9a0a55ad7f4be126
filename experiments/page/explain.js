// What a number of a layer is made of: what it sees, the weights, and the sum, in words.

import { short } from "./dom.js";
import { COLUMNS } from "./maps.js";

const LAYERS = {
  input: pixel,
  conv1: (...all) => pooled("input", ...all),
  conv2: (...all) => pooled("conv1", ...all),
  "resnet_block/inner": (...all) => normalised("resnet_block/input", "1", ...all),
  "resnet_block/branch": (...all) => normalised("resnet_block/inner", "2", ...all),
  "resnet_block/sum": added,
};

/** What a cell shows: { value, seen, weights, shape, lines }.
 *
 *  name, at: the layer and the place of the number in it.
 *  computed: all layers, as forward.js returns them; network: their weights, as forward.js takes them.
 *  seen, weights: numbers that are multiplied one by one and added, of `shape` [channels, height,
 *  width]; both undefined where nothing is multiplied. lines: what happens, in words. */
export function explained(name, at, computed, network) {
  const layer = Object.fromEntries(computed.map((one) => [one.name, one]));
  const before = computed[computed.findIndex((one) => one.name === name) - 1];
  const parts = (LAYERS[name] ?? weighted)(name, at, layer, network, before);
  return { value: layer[name].values[at], ...parts };
}

function pixel(name, at, { input }, { mean, std }) {
  const grey = Math.round(255 * (input.values[at] * std + mean));
  return {
    lines: [`Grey level ${grey} of 255: (${grey} / 255 ${plus(-mean)}) / ${short(std)}.`],
  };
}

/** A 5x5 convolution and the largest of 2x2 of its sums. */
function pooled(source, name, at, layer, { tensors }) {
  const [channel, row, column] = place(at, layer[name].shape);
  const weights = kernel(tensors[`${name}.weight`], channel, layer[name].shape[0]);
  const bias = tensors[`${name}.bias`][channel];
  const four = [0, 1, 2, 3].map((n) => {
    const seen = patch(layer[source], 2 * row + (n >> 1), 2 * column + (n & 1), 5);
    return { seen, sum: product(seen, weights) };
  });
  const { seen, sum } = four.reduce((a, b) => (b.sum > a.sum ? b : a));
  const sums = four.map((one) => short(one.sum + bias)).join(", ");
  return {
    seen,
    weights,
    shape: [seen.length / 25, 5, 5],
    lines: [
      `Sum of the products and bias: ${short(sum)} ${plus(bias)} = ${short(sum + bias)}.`,
      `It is the largest of 2×2 neighbours: ${sums}. ${rectified(sum + bias)}`,
    ],
  };
}

/** A 3x3 convolution and batch normalisation. */
function normalised(source, number, name, at, layer, { tensors }) {
  const [channel, row, column] = place(at, layer[name].shape);
  const [channels, height] = layer[name].shape;
  const weights = kernel(tensors[`resnet_block.conv${number}.weight`], channel, channels);
  const seen = height === 1 ? layer[source].values : patch(layer[source], row - 1, column - 1, 3);
  const sum = product(seen, weights);
  const [scale, bias, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(
    (part) => tensors[`resnet_block.bn${number}.${part}`][channel],
  );
  const result = ((sum - mean) * scale) / Math.sqrt(variance + 1e-5) + bias;
  const tap = "Only the centre tap of each kernel counts: the other eight meet padding. ";
  return {
    seen,
    weights,
    shape: height === 1 ? flat(seen.length) : [channels, 3, 3],
    lines: [
      `${height === 1 ? tap : ""}Sum of the products ${short(sum)}.`,
      `Batch normalisation: (${short(sum)} ${plus(-mean)}) / √${short(variance)} × ${short(scale)} ` +
        `${plus(bias)} = ${short(result)}. ${number === "1" ? rectified(result) : ""}`,
    ],
  };
}

function added(name, at, layer) {
  const [a, b] = ["input", "branch"].map((part) => layer[`resnet_block/${part}`].values[at]);
  return { lines: [`${short(a)} ${plus(b)} = ${short(a + b)}. ${rectified(a + b)}`] };
}

/** A dense layer; the block's input is what came before it. */
function weighted(name, at, layer, { tensors }, before) {
  if (name === "resnet_block/input") return { lines: [`It comes from ${before.name} as it is.`] };
  const weights = kernel(tensors[`${name}.weight`], at, layer[name].values.length);
  const bias = tensors[`${name}.bias`][at];
  const sum = product(before.values, weights);
  const isImage = before.shape[1] > 1;
  return {
    seen: before.values,
    weights,
    shape: isImage ? before.shape : flat(weights.length),
    lines: [
      `Sum of the ${weights.length} products and bias: ${short(sum)} ${plus(bias)} = ` +
        `${short(sum + bias)}. ${name === "fc3" ? "" : rectified(sum + bias)}`,
    ],
  };
}

const flat = (size) => [1, Math.ceil(size / COLUMNS), Math.min(COLUMNS, size)];
const plus = (value) => `${value < 0 ? "−" : "+"} ${short(Math.abs(value))}`;
const rectified = (value) => (value < 0 ? "ReLU makes it 0." : "ReLU leaves it.");
const kernel = (weight, n, count) =>
  weight.subarray((n * weight.length) / count, ((n + 1) * weight.length) / count);
const product = (a, b) => a.reduce((sum, value, n) => sum + value * b[n], 0);

/** Channel, row and column of the number at a place of an array [channels, height, width]. */
function place(at, [, height = 1, width = 1]) {
  return [Math.floor(at / (height * width)), Math.floor(at / width) % height, at % width];
}

/** The numbers of a square of `size` in every channel of a layer; zero outside. */
function patch({ shape: [channels, height, width], values }, top, left, size) {
  return Float32Array.from({ length: channels * size ** 2 }, (_, n) => {
    const [channel, row, column] = place(n, [channels, size, size]);
    const [y, x] = [top + row, left + column];
    if (y < 0 || y >= height || x < 0 || x >= width) return 0;
    return values[(channel * height + y) * width + x];
  });
}

/** What a 5x5 kernel reacts to most, in a few words. */
export function reaction(kernel) {
  const at = (n) => [(n % 5) - 2, Math.floor(n / 5) - 2]; // x to the right, y down
  const share = (pattern) => {
    const values = Array.from(kernel, (_, n) => pattern(...at(n)));
    return product(kernel, values) / Math.sqrt(product(values, values) * product(kernel, kernel));
  };
  const [right, down] = [share((x) => x), share((x, y) => y)];
  const [across, falling] = [share((x, y) => x * x - y * y), share((x, y) => x * y)];
  const [all, ring] = [share(() => 1), share((x, y) => x * x + y * y - 4)];
  const turn = (y, x, names) =>
    names[(Math.round((Math.atan2(y, x) / (2 * Math.PI)) * names.length) + names.length) % names.length];
  const sides = ["right", "lower right", "below", "lower left", "left", "upper left", "above"];
  const found = [
    [Math.hypot(right, down), `edge, ink ${turn(down, right, [...sides, "upper right"])}`],
    [
      Math.hypot(across, falling),
      `${turn(falling, across, ["level", "falling", "upright", "rising"])} stroke`,
    ],
    [Math.abs(all), all > 0 ? "any ink" : "any paper"],
    [Math.abs(ring), ring > 0 ? "hole in ink" : "spot of ink"],
  ];
  const [strength, text] = found.reduce((a, b) => (b[0] > a[0] ? b : a));
  return strength > 0.4 ? text : "no simple shape";
}
