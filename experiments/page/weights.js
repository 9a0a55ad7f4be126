// Decodes the weights and images that the page holds as text.

/** Opens the weights of a network and checks that they arrived whole.
 *
 *  packed: { tensors: [[name, shape], ...], sha256, base64 }; the numbers are little-endian float32,
 *  one tensor after the other.
 *  Returns { tensors: { name: Float32Array }, checked }. `checked` is false if the browser offers no
 *  SHA-256, which is the case for pages that come over plain HTTP.
 *  Throws an Error if the digest is another one or numbers are missing. */
export async function openWeights({ tensors, sha256, base64 }) {
  const bytes = decodeBase64(base64);
  const checked = Boolean(globalThis.crypto?.subtle);
  if (checked && (await digest(bytes)) !== sha256) {
    throw new Error("these weights are damaged: their SHA-256 is not the one in the page");
  }
  const numbers = new Float32Array(bytes.buffer);
  const opened = {};
  let start = 0;
  for (const [name, shape] of tensors) {
    const size = shape.reduce((a, b) => a * b, 1);
    opened[name] = numbers.subarray(start, start + size);
    start += size;
  }
  if (start !== numbers.length) throw new Error("these weights are incomplete");
  return { tensors: opened, checked };
}

/** Opens images, [N, 28, 28] grey levels in a zlib stream: a function from n to 784 levels. */
export async function openImages(base64) {
  const stream = new Blob([decodeBase64(base64)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(inflated).arrayBuffer());
  return (n) => bytes.subarray(784 * n, 784 * (n + 1));
}

export function decodeBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
