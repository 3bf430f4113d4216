// How sure the model is, in words and numbers that are easy to read right. All thresholds of the page are here.

import { element } from "./elements.js";

// From so many hundredths on. The words are those of the IPCC's scale of likelihood (Mastrandrea et al., 2010, guidance
// note on uncertainties) up to 90; it has two more above, but no model here has been checked on slices enough for them.
const WORDS = [[90, "Very likely"], [66, "Likely"], [51, "More likely than not"], [0, "Unsure"]];

// A probability from a model is never 100 % and never 0 %, and its tenths of a percent mean nothing.
const hundredths = (share) => Math.round(100 * Math.min(Math.max(share, 0.01), 0.99));

function bounded(share, unit = "") {
  const bound = share > 0.99 ? "over " : share < 0.01 ? "under " : "";
  return `${bound}${hundredths(share)}${unit}`;
}

export const percent = (share) => bounded(share, "\u00a0%");

// "a, b or c"
function either(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

// Only a calibrated model can say how often such an answer is right; of another a word would be a promise.
export function likelihood({ coverage, probabilities, label }) {
  if (typeof coverage !== "number") return [];
  const share = probabilities[label];
  const [, word] = WORDS.find(([from]) => hundredths(share) >= from);
  const right = share > 0.99 ? bounded(share) : `about ${bounded(share)}`;
  return [element("p", { class: "likelihood" }, element("strong", { text: `${word}: ` }),
    `of 100 such answers on slices like those it learnt from, ${right} are right.`)];
}

// The prediction set: which classes cannot be ruled out. How often that holds is a mean over all slices, no more than
// the probability above says of this one: a set of one class may be right in six of ten answers like this.
export function certainty({ coverage, prediction_set: named, probabilities }) {
  if (typeof coverage !== "number" || !Array.isArray(named)) return [];
  const all = named.length === Object.keys(probabilities).length;
  const words = named.length === 0 ? "no class can be named" : either(named);
  const promised = Math.min(99, Math.floor(100 * coverage + 1e-6)); // rounded down, and never 100 %
  const often = promised % 10 === 0 ? `${promised / 10} of 10` : `${promised} of 100`;
  return [element("div", { class: "certainty" },
    element("p", {}, element("strong", { text: `Not ruled out: ${words}` })),
    element("p", { text: `Over all slices of new patients such a list is meant to hold the true class in ${often}; where ` +
      "an answer is unsure, less often." +
      (all ? " Here these are all that the model knows: it cannot tell." : "") }))];
}
