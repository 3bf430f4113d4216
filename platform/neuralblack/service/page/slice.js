// One slice: ask about it, show what comes, and judge a tumour that is marked on it.

import { answerOf, ownAnswer } from "./answers.js";
import { facts } from "./door.js";
import { offerFeedback } from "./feedback.js";
import { checkSlice } from "./limits.js";
import { offerMark, sayOfMark } from "./mark.js";
import { Problem, ask } from "./server.js";
import { hideProblem, leave, look, say, showAnswer, waiting } from "./turn.js";
import { offerHeat, show } from "./viewer.js";
import { leaveEntries } from "./visit.js";

const at = (id) => document.getElementById(id);
const [name, again, study, slices] = ["name", "again", "study", "slices"].map(at);

export function nameIt(text) {
  name.textContent = name.title = text;
  again.hidden = text === "";
}

// Nothing is shown yet of what is called `text`.
export function begin(text, words) {
  nameIt(text);
  study.hidden = true;
  slices.replaceChildren();
  offerFeedback(null);
  offerMark(null);
  leaveEntries();
  show();
  say(words);
}

export async function classify({ chosen, entry }, signal) {
  begin(chosen.name, "Reading the slice…");
  await askAbout({ chosen, entry }, signal);
  entry.show();
}

export async function askAbout({ chosen, entry }, signal) {
  checkSlice(chosen);
  // A raw body: the file's name stays here.
  keep(entry, chosen, await ask("predict?preview=true", { body: chosen, signal, waiting }));
}

// Let the visit's list show this answer again; `box` is the one that it is of.
function keep(entry, chosen, body, box = null) {
  const opening = () => showResult(entry, chosen, body, box);
  entry.answer(ownAnswer(body, body.label), opening, { apart: body.status !== "ok" });
}

function showResult(entry, chosen, body, box) {
  hideProblem();
  study.hidden = true;
  offerMark(null);
  showSlice(chosen, body, { box });
  showAnswer(body, answerOf(body));
  if (!facts?.needs_box) return;
  const judge = (box, isStill) => look(async (signal) => {
    if (isStill()) await judgeMarked(entry, chosen, body, box, signal); // it may have waited for a token, or for a click
  });
  offerMark(body, { box, judge, changed: dropJudgement });
}

function dropJudgement() {
  leave();
  hideProblem();
  offerHeat(null);
  say("The box has changed. Judge it.");
}

// The same slice, with the box that somebody drew; slice, box and the answer before stay until there is one.
async function judgeMarked(entry, chosen, { preview, width, height }, box, signal) {
  sayOfMark("Judging the tumour…");
  const body = await ask(`predict?box=${box}`, { body: chosen, signal, waiting })
    .finally(() => { if (!signal.aborted) sayOfMark(""); });
  keep(entry, chosen, { ...body, preview, width, height }, box);
  showAnswer(body, answerOf(body));
  offerHeatOf(chosen, body, box);
}

// `files` are those of the same patient.
export function showSlice(chosen, body, { box = null, files = chosen } = {}) {
  nameIt(chosen.name);
  offerFeedback(chosen.madeUp ? null : chosen, files);
  show(body.preview ? { address: body.preview, alt: "The slice as the model sees it" } : { words: "There is no picture of this file." });
  offerHeatOf(chosen, body, box);
}

function offerHeatOf(chosen, body, box) {
  offerHeat(null);
  if (body.status === "refused" || facts?.explains === false) return;
  const more = box === null ? "" : `&box=${box}`;
  offerHeat((waiting, signal) => ask(`predict?explain=true&preview=true&again=true${more}`, { body: chosen, signal, waiting }).catch((error) => {
    throw error.code === "no_explanation" ? new Problem("This service offers no heat map.") : error;
  }));
}
