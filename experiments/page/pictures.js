// Pictures that are chosen, pasted, or dropped on the page.

import { digitsIn } from "./digits.js";
import { element } from "./dom.js";
import { tell } from "./share.js";

const LONGEST = 1024; // pixels on the longer side of a picture in which digits are looked for

/** Takes pictures wherever they come from; what else is dropped is not opened either.
 *
 *  found: called with { canvas, digits } of a picture in which there are digits. */
export function takePictures(input, found) {
  const take = async (files) => {
    const file = [...(files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    try {
      const canvas = await opened(file);
      const { data } = canvas
        .getContext("2d", { willReadFrequently: true })
        .getImageData(0, 0, canvas.width, canvas.height);
      tell("");
      found({ canvas, digits: digitsIn(data, canvas.width, canvas.height) });
    } catch (error) {
      tell(error.message);
    }
  };
  input.addEventListener("change", async () => {
    await take(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

/** The picture of a file as a canvas on white, shrunk if it is large. */
async function opened(file) {
  const whole = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is no picture that this browser can read.`);
  });
  const scale = Math.min(1, LONGEST / Math.max(whole.width, whole.height));
  const [width, height] = [whole.width, whole.height].map((length) =>
    Math.max(1, Math.round(scale * length)),
  );
  const canvas = element("canvas", { width, height, role: "img", "aria-label": "the picture" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, width, height);
  return canvas;
}

/** Shows a picture with a button on each digit that was found in it; hides it if there is none.
 *
 *  digit: the place of the digit that is under the pen. choose: called with that of another one. */
export function showPicture(container, { picture, digit }, choose) {
  container.hidden = !picture;
  if (!picture) return;
  const { canvas, digits } = picture;
  if (container.firstChild !== canvas) {
    const buttons = digits.map(({ box: [left, top, width, height] }, n) => {
      const name = `digit ${n + 1} of ${digits.length} in the picture`;
      const button = element("button", { "aria-label": name, click: () => choose(picture, n) });
      const share = (length, whole) => `${(100 * length) / whole}%`;
      button.style.left = share(left, canvas.width);
      button.style.top = share(top, canvas.height);
      button.style.width = share(width, canvas.width);
      button.style.height = share(height, canvas.height);
      return button;
    });
    container.replaceChildren(canvas, ...buttons);
  }
  const buttons = container.querySelectorAll("button");
  buttons.forEach((button, n) => button.setAttribute("aria-pressed", n === digit));
}
