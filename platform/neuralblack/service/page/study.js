// Several slices of one patient: one question, one verdict, and each slice to be looked at.

import { ownAnswer, slicesOf, studyOf } from "./answers.js";
import { plural } from "./elements.js";
import { offerFeedback } from "./feedback.js";
import { checkStudy } from "./limits.js";
import { offerMark } from "./mark.js";
import { endProgress, showProgress } from "./progress.js";
import { Problem, ask } from "./server.js";
import { begin, nameIt, showSlice } from "./slice.js";
import { hideProblem, look, showAnswer, waiting } from "./turn.js";
import { offerHeat, show } from "./viewer.js";

const at = (id) => document.getElementById(id);
const [drop, study, slices] = ["drop", "study", "slices"].map(at);

export async function classifyStudy(files, entry, signal) {
  begin(plural(files.length, "slice"), `Reading ${files.length} slices…`);
  checkStudy(files);
  showProgress(files.length);
  const form = new FormData();
  files.forEach((each, index) => form.append("file", each, `slice-${index + 1}`)); // their names stay here
  const patienceMs = 60_000 + 2_000 * files.length;
  const body = await ask("study", { body: form, signal, waiting, patienceMs }).catch((error) => {
    if (error.status !== 404) throw error;
    throw new Problem("This service takes one slice at a time. " +
      "Switch off “Several files are slices of one patient”, and choose them again.");
  });
  endProgress();
  entry.answer(ownAnswer(body, body.label), () => showStudy(files, body), { apart: body.status !== "ok", anew: false });
  entry.show();
}

function showStudy(files, body) {
  hideProblem();
  nameIt(plural(files.length, "slice"));
  offerFeedback(null, files);
  offerMark(null);
  show({ words: "Choose a slice from the list to see it." });
  showAnswer(body, studyOf(body));
  const open = (index, button) => look((signal) => lookAt(files[index], files, button, signal));
  slices.replaceChildren(...slicesOf(body, files.map((each) => each.name), open));
  study.hidden = false;
}

// Show one slice of a study; the study's own answer stays.
async function lookAt(chosen, files, button, signal) {
  slices.querySelector("[aria-current]")?.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  drop.scrollIntoView({ block: "nearest" });
  offerHeat(null);
  offerFeedback(null, files);
  offerMark(null);
  showSlice(chosen, await ask("predict?preview=true&again=true", { body: chosen, signal, waiting }), { files });
}
