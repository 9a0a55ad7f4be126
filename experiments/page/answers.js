// What each network answers: the digit, its probability, and ten bars.

import { best, element, percent } from "./dom.js";

/** Fills the cards of the template, one for each run.
 *
 *  Returns a function that shows probabilities, [10] for each run, or null for a blank drawing;
 *  for a run that could not be opened they are undefined. */
export function createAnswers(runs) {
  const cards = document.querySelectorAll(".answer");
  const show = runs.map((run, n) => fillCard(cards[n], run));
  return (all) => show.forEach((showOne, n) => showOne(all?.[n]));
}

function fillCard(card, { error }) {
  if (error) {
    const text = element("p", { class: "error" }, `This network cannot be used: ${error}.`);
    card.querySelector(".bars").replaceWith(text);
    card.querySelector(".verdict").remove();
    return () => {};
  }
  const [digit, probability] = card.querySelector(".verdict").children;
  const rows = [...card.querySelectorAll("li")];
  return (probabilities) => {
    const answer = probabilities && best(probabilities);
    digit.textContent = answer ?? "–";
    probability.textContent = probabilities ? percent(probabilities[answer]) : "";
    rows.forEach((row, n) => {
      const [track, number] = row.children;
      row.classList.toggle("best", n === answer);
      track.firstChild.style.transform = `scaleX(${probabilities?.[n] ?? 0})`;
      number.textContent = probabilities ? (100 * probabilities[n]).toFixed(1) : "";
    });
  };
}

/** The answers as text, for a reader who does not see the bars. */
export function spoken(runs, all) {
  if (!all) return "The drawing is blank.";
  const said = runs.map(({ label }, n) => [label, all[n]]).filter(([, answer]) => answer);
  return said
    .map(([label, answer]) => `${label}: ${best(answer)}, ${percent(Math.max(...answer))}`)
    .join("; ");
}
