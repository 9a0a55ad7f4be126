// How a network's answer formed: a slider over the epochs that a run kept.

import { best, element, percent } from "./dom.js";
import { createMap } from "./maps.js";

/** Makes the slider, and a map of the answer of each epoch to the same drawing.
 *
 *  epochs: [{ epoch, network }], the last finished one at the end.
 *  chosen: called with the place of an epoch in that list.
 *  Returns a function that shows probabilities, [10] for each epoch, or null. */
export function createEpochs(container, epochs, chosen) {
  const map = createMap(10, epochs.length);
  const output = element("output", { for: "epoch" });
  const [max, value] = [epochs.length - 1, epochs.length - 1];
  const input = () => {
    tell();
    chosen(Number(slider.value));
  };
  const slider = element("input", { id: "epoch", type: "range", min: 0, max, value, input });
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
    element("div", { class: "digits", "aria-hidden": "true" }, ...digits),
    element("div", { class: "shaded" }, map.canvas),
    slider,
    output,
  );
  tell();
  return (probabilities) => {
    answers = probabilities;
    const cells = Array.from({ length: 10 * epochs.length }, (_, n) =>
      probabilities ? probabilities[n % epochs.length][Math.floor(n / epochs.length)] : 0,
    );
    map.show(cells, 1);
    tell();
  };
}
