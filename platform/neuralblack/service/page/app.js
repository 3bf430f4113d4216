// The page: choose or drop slices, see what the model sees and what it says.

import { emptyBars } from "./answers.js";
import { describeCard } from "./card.js";
import { facts, findModel, forgetInterrupted } from "./door.js";
import { plural } from "./elements.js";
import { describeExamples, onExample } from "./examples.js";
import { describeFeedback, forgetFeedback } from "./feedback.js";
import { onCancel } from "./progress.js";
import { classifyEach } from "./several.js";
import "./shortcuts.js";
import { Problem, ask } from "./server.js";
import { begin, classify } from "./slice.js";
import { classifyStudy } from "./study.js";
import { hideProblem, isIdle, leave, run, stop, waiting } from "./turn.js";
import { MOST, addEntry, isShowing, onVisit, showAgain } from "./visit.js";

let isKnown = false; // whether the model is: an answer may come before its facts

const at = (id) => document.getElementById(id);
const [file, drop, kinds, several, again, together, togetherNote, answer] =
  ["file", "drop", "kinds", "several", "again", "together", "together-note", "answer"].map(at);

function choose(files) {
  // As people number them, whatever order the browser hands over.
  const sorted = [...files].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  if (sorted.length > 1 && together.checked && !facts?.needs_box) {
    const entry = addEntry(`Study of ${sorted.length} slices`);
    return run(async (signal) => {
      if (facts === null) begin(plural(sorted.length, "slice"), "Waiting for the model…");
      const { needs_box: apart } = facts ?? await ask("model", { signal, waiting });
      if (!apart) return classifyStudy(sorted, entry, signal);
      entry.remove();
      return chooseEach(sorted);
    }, [entry]);
  }
  return chooseEach(sorted);
}

function chooseEach(sorted) {
  if (sorted.length > MOST) return refuse(`These are ${sorted.length} files; at most ${MOST} at once. Choose fewer.`);
  const asked = sorted.map((chosen) => ({ chosen, entry: addEntry(chosen.name) }));
  const work = asked.length === 1 ? (signal) => classify(asked[0], signal) : (signal) => classifyEach(asked, signal);
  return run(work, asked.map(({ entry }) => entry));
}

const refuse = (words) => run(async () => { throw new Problem(words); });

// A study has no box for each of its slices.
function describeSeveral({ needs_box: apart = false }) {
  together.labels[0].hidden = togetherNote.hidden = apart;
  several.textContent = `Several are taken ${apart ? "" : "as a study of one patient, or "}each by itself`;
}

function forgetResults() {
  stop();
  forgetInterrupted();
  forgetFeedback();
  begin("", "");
  hideProblem();
  if (facts) answer.replaceChildren(...emptyBars(facts.classes));
  file.focus();
}

file.addEventListener("change", () => {
  if (file.files.length > 0) choose([...file.files]);
  file.value = ""; // so that the same file can be chosen again
});
again.addEventListener("click", () => file.click());
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"])
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  const { files = [], items = [] } = event.dataTransfer ?? {};
  if ([...items].some((each) => each.webkitGetAsEntry?.()?.isDirectory))
    return refuse("This is a folder. Open it, and drop the files in it.");
  if (files.length > 0) choose([...files]);
});
onExample((fetching) => run(async (signal) => choose([await fetching(signal)])));
onCancel(() => {
  stop("Stopped.");
  if (!isShowing) answer.replaceChildren();
  file.focus();
});
onVisit({ opening: leave, forgotten: forgetResults });
findModel((facts) => {
  describeFeedback(facts);
  describeCard(facts);
  describeExamples(facts);
  describeSeveral(facts);
  if (Array.isArray(facts.formats)) kinds.textContent = facts.formats.join(", ");
  if (isKnown) return;
  isKnown = true;
  if (isIdle()) answer.replaceChildren(...emptyBars(facts.classes));
  showAgain();
});
