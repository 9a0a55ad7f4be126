// The forward pass of mnist_jax/model.py for one image, as it is in evaluation.
//
// An array is a flat Float32Array in PyTorch's order, [channels, height, width]. Weights have
// PyTorch's names and layouts: [out, in, height, width] for a convolution, [out, in] for a dense
// layer. The shape of the result stands beside each line.

/** Computes a network's layers for one image.
 *
 *  network: { placement, mean, std, tensors }, as weights.js opens it.
 *  image: 784 grey levels, 0 to 255.
 *  Returns [{ name, shape, values }] in the order of computation. The last are the ten logits. */
export function forward({ placement, mean, std, tensors: t }, image) {
  const layers = [];
  const layer = (name, shape, values) => {
    layers.push({ name, shape, values });
    return values;
  };
  let x = layer("input", [1, 28, 28], normalise(image, mean, std)); // [1, 28, 28]
  x = convPoolRelu(x, 28, t["conv1.weight"], t["conv1.bias"]); // [6, 12, 12]
  layer("conv1", [6, 12, 12], x);
  x = convPoolRelu(x, 12, t["conv2.weight"], t["conv2.bias"]); // [16, 4, 4]
  layer("conv2", [16, 4, 4], x);
  if (placement === "before_fc1") x = block(x, [16, 4, 4], t, layer); // [16, 4, 4]
  x = relu(dense(x, t["fc1.weight"], t["fc1.bias"])); // [120]
  layer("fc1", [120], x);
  if (placement === "after_fc1") x = block(x, [120, 1, 1], t, layer); // [120, 1, 1]
  x = relu(dense(x, t["fc2.weight"], t["fc2.bias"])); // [84]
  layer("fc2", [84], x);
  layer("fc3", [10], dense(x, t["fc3.weight"], t["fc3.bias"])); // [10]
  return layers;
}

/** Probabilities, [10], of logits, [10]. */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest)); // [10]
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum); // [10]
}

/** The residual block: two 3x3 convolutions with batch normalisation, and x added to them. */
function block(x, shape, t, layer) {
  layer("resnet_block/input", shape, x);
  let y = conv3x3(x, shape, t["resnet_block.conv1.weight"]); // [C, H, W]
  y = relu(batchNorm(y, t, "resnet_block.bn1")); // [C, H, W]
  layer("resnet_block/inner", shape, y);
  y = conv3x3(y, shape, t["resnet_block.conv2.weight"]); // [C, H, W]
  y = batchNorm(y, t, "resnet_block.bn2"); // [C, H, W]
  layer("resnet_block/branch", shape, y);
  y = relu(y.map((value, i) => value + x[i])); // [C, H, W]
  return layer("resnet_block/sum", shape, y);
}

/** Grey levels, 0 to 255, as the network was trained to see them: [784] to [784]. */
function normalise(image, mean, std) {
  return Float32Array.from(image, (grey) => (grey / 255 - mean) / std);
}

function relu(x) {
  return x.map((value) => Math.max(value, 0));
}

/** Fully connected: x [I], weight [O, I], bias [O] or none, to [O]. */
function dense(x, weight, bias) {
  const inputs = x.length;
  const y = new Float32Array(weight.length / inputs); // [O]
  for (let o = 0; o < y.length; o++) {
    let sum = bias ? bias[o] : 0;
    for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
    y[o] = sum;
  }
  return y;
}

/** 5x5 convolution without padding, 2x2 max-pooling, ReLU.
 *
 *  x [I, S, S], weight [O, I, 5, 5], bias [O], to [O, P, P], where P = (S - 4) / 2. */
function convPoolRelu(x, side, weight, bias) {
  const inputs = x.length / side ** 2;
  const pooled = (side - 4) / 2;
  const y = new Float32Array(bias.length * pooled ** 2); // [O, P, P], zero: the ReLU
  for (let o = 0; o < bias.length; o++) {
    for (let row = 0; row < 2 * pooled; row++) {
      for (let column = 0; column < 2 * pooled; column++) {
        let sum = bias[o];
        for (let i = 0; i < inputs; i++) {
          for (let a = 0; a < 5; a++) {
            const from = (i * side + row + a) * side + column; // x[i, row + a, column]
            const tap = ((o * inputs + i) * 5 + a) * 5; // weight[o, i, a, 0]
            sum +=
              weight[tap] * x[from] +
              weight[tap + 1] * x[from + 1] +
              weight[tap + 2] * x[from + 2] +
              weight[tap + 3] * x[from + 3] +
              weight[tap + 4] * x[from + 4];
          }
        }
        const at = (o * pooled + (row >> 1)) * pooled + (column >> 1); // y[o, row / 2, column / 2]
        if (sum > y[at]) y[at] = sum;
      }
    }
  }
  return y;
}

/** 3x3 convolution with one pixel of zero padding and no bias: x [C, H, W] to [C, H, W].
 *
 *  weight is [C, C, 3, 3]. On an image of one pixel eight of the nine taps meet nothing but
 *  padding; weight is then the centre tap, [C, C], and the convolution a dense layer. */
function conv3x3(x, [channels, height, width], weight) {
  if (height * width === 1) return dense(x, weight);
  const y = new Float32Array(x.length); // [C, H, W]
  for (let o = 0; o < channels; o++) {
    for (let i = 0; i < channels; i++) {
      for (let tap = 0; tap < 9; tap++) {
        const down = Math.floor(tap / 3) - 1;
        const right = (tap % 3) - 1;
        const factor = weight[(o * channels + i) * 9 + tap];
        for (let row = Math.max(0, -down); row < height - Math.max(0, down); row++) {
          const to = (o * height + row) * width;
          const from = (i * height + row + down) * width + right;
          for (let column = Math.max(0, -right); column < width - Math.max(0, right); column++) {
            y[to + column] += factor * x[from + column];
          }
        }
      }
    }
  }
  return y;
}

/** Batch normalisation with the running statistics of training: x [C, ...] to [C, ...]. */
function batchNorm(x, t, name) {
  const scale = t[`${name}.weight`]; // [C]
  const bias = t[`${name}.bias`]; // [C]
  const mean = t[`${name}.running_mean`]; // [C]
  const variance = t[`${name}.running_var`]; // [C]
  const places = x.length / scale.length; // pixels a channel
  return x.map((value, i) => {
    const c = Math.floor(i / places);
    return ((value - mean[c]) * scale[c]) / Math.sqrt(variance[c] + 1e-5) + bias[c];
  });
}
