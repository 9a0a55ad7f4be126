// What each network answers: the digit, its probability, and ten bars.

import { LABELS, element, percent } from "./dom.js";

/** Makes a card for each run.
 *
 *  Returns a function that shows probabilities, [10] for each run, or null for a blank drawing;
 *  for a run that could not be opened they are undefined. */
export function createAnswers(container, runs) {
  const cards = runs.map((run) => createCard(container, run));
  return (all) => cards.forEach((show, n) => show(all && all[n]));
}

function createCard(container, run) {
  const digit = element("span", { class: "digit" }, "–");
  const probability = element("span", { class: "probability" });
  const bars = Array.from({ length: 10 }, () => element("span", { class: "bar" }));
  const numbers = bars.map(() => element("span", { class: "number" }));
  const rows = bars.map((bar, n) =>
    element("li", {}, String(n), element("span", { class: "track" }, bar), numbers[n]),
  );
  const epoch = run.epoch === null ? "" : `, epoch ${run.epoch}`;
  const card = element(
    "article",
    { class: "card answer", "data-placement": run.placement },
    element("h3", {}, LABELS[run.placement]),
    element("p", { class: "small" }, run.name + epoch),
  );
  container.append(card);
  if (run.error) {
    card.append(element("p", { class: "error" }, `This network cannot be used: ${run.error}.`));
    return () => {};
  }
  card.append(
    element("p", { class: "verdict" }, digit, probability),
    element("ol", { class: "bars", "aria-label": "probability of each digit" }, ...rows),
  );
  return (probabilities) => {
    const answer = probabilities ? best(probabilities) : null;
    digit.textContent = answer ?? "–";
    probability.textContent = probabilities ? percent(probabilities[answer]) : "";
    rows.forEach((row, n) => {
      row.classList.toggle("best", n === answer);
      bars[n].style.transform = `scaleX(${probabilities ? probabilities[n] : 0})`;
      numbers[n].textContent = probabilities ? (100 * probabilities[n]).toFixed(1) : "";
    });
  };
}

/** The answers as text, for a reader who does not see the bars. */
export function spoken(runs, all) {
  if (!all) return "The drawing is blank.";
  return runs
    .flatMap((run, n) =>
      all[n] ? `${LABELS[run.placement]}: ${best(all[n])}, ${percent(Math.max(...all[n]))}` : [],
    )
    .join("; ");
}

/** The digit with the largest probability. */
export function best(probabilities) {
  return probabilities.indexOf(Math.max(...probabilities));
}
