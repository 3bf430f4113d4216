// The page: choose or drop slices, see what the model sees and what it says.

import { answerOf, emptyBars, ownAnswer, slicesOf, studyOf } from "./answers.js";
import { describeCard } from "./card.js";
import { offerCopy } from "./copy.js";
import { askForToken, facts, findModel } from "./door.js";
import { element, plural, quiet } from "./elements.js";
import { describeExamples, onExample } from "./examples.js";
import { describeFeedback, offerFeedback } from "./feedback.js";
import { checkSlice, checkStudy } from "./limits.js";
import { offerMark } from "./mark.js";
import { endProgress, onCancel, showProgress } from "./progress.js";
import { Problem, ask } from "./server.js";
import "./shortcuts.js";
import { offerHeat, setBusy, show } from "./viewer.js";
import { addEntry, leaveEntries, onVisit } from "./visit.js";

const at = (id) => document.getElementById(id);
const [file, drop, kinds, name, again, together] = ["file", "drop", "kinds", "name", "again", "together"].map(at);
const [answer, problem, wait, study, slices] = ["answer", "problem", "wait", "study", "slices"].map(at);

const LANES = 4; // slices asked about at once: the network takes them as one batch, and others find room beside them
let current = null; // what ends the request under way; a new choice does
let beside = false; // whether results may be looked at while it goes on
let shown = null; // the answer that stands here

function showProblem({ message, requestId }) {
  problem.replaceChildren(element("p", { text: message }));
  if (requestId) problem.append(element("p", {}, element("small", { text: `Request ${requestId}` })));
  problem.hidden = false;
}

// What stands in the answer's place while there is none.
function say(words) {
  shown = null;
  answer.replaceChildren(quiet(words));
  offerCopy(null);
}

function showAnswer(body, elements) {
  shown = body;
  answer.replaceChildren(...elements);
  offerCopy(body);
}

function waiting(words, seconds) {
  // The words are read out once, from the answer's place; a countdown there would be read out every second.
  if (wait.hidden && shown === null) say(words);
  wait.hidden = seconds === 0;
  wait.textContent = `${shown === null ? "" : words} Trying again in ${seconds} s. Another choice stops this.`;
}

function stop(words = "") {
  current?.abort();
  current = null;
  beside = false;
  setBusy(false);
  wait.hidden = true;
  endProgress(words);
}

// Do `work(signal)` alone: whatever was under way is over, and only the last one may show anything.
async function run(work, entries = []) {
  stop();
  const mine = (current = new AbortController());
  problem.hidden = true;
  setBusy(true);
  try {
    await work(mine.signal);
  } catch (error) {
    if (mine !== current) {
      for (const entry of entries) entry.fail("Stopped");
      return;
    }
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    if (shown === null) answer.replaceChildren(); // one slice of a study that fails leaves the study's answer
    endProgress();
    if (error.status === 401) return askForToken(() => run(work, entries));
    for (const entry of entries) entry.fail("No answer", error.message);
    showProblem(error);
  } finally {
    if (mine === current) {
      current = null;
      beside = false;
      setBusy(false);
      wait.hidden = true;
    }
  }
}

function nameIt(text) {
  name.textContent = name.title = text;
  again.hidden = text === "";
}

// Nothing is shown yet of what is called `text`.
function begin(text, words) {
  nameIt(text);
  study.hidden = true;
  slices.replaceChildren();
  offerFeedback(null);
  offerMark(null);
  leaveEntries();
  show();
  say(words);
}

function choose(files) {
  // As people number them, whatever order the browser hands over.
  const sorted = [...files].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  if (sorted.length > 1 && together.checked) {
    const entry = addEntry(`Study of ${sorted.length} slices`);
    return run((signal) => classifyStudy(sorted, entry, signal), [entry]);
  }
  const asked = sorted.map((chosen) => ({ chosen, entry: addEntry(chosen.name) }));
  const work = asked.length === 1 ? (signal) => classify(asked[0], signal) : (signal) => classifyEach(asked, signal);
  return run(work, asked.map(({ entry }) => entry));
}

async function classify({ chosen, entry }, signal) {
  begin(chosen.name, "Reading the slice…");
  await askAbout({ chosen, entry }, signal);
  entry.show();
}

async function askAbout({ chosen, entry }, signal) {
  checkSlice(chosen);
  // A raw body: the file's name stays here.
  keep(entry, chosen, await ask("predict?preview=true", { body: chosen, signal, waiting }));
}

// Let the visit's list show this answer again; `more` is what its heat map has to be asked with.
function keep(entry, chosen, body, more = "") {
  const opening = () => showResult(entry, chosen, body, more);
  entry.answer(ownAnswer(body, body.label), opening, { apart: body.status !== "ok" });
}

function showResult(entry, chosen, body, more) {
  problem.hidden = study.hidden = true;
  offerMark(null);
  showSlice(chosen, body, more);
  showAnswer(body, answerOf(body));
  if (facts?.needs_box) offerMark(body, (box) => run((signal) => judgeMarked(entry, chosen, body, box, signal)));
}

// The same slice, with the box that somebody drew; the slice and the box stay where they are.
async function judgeMarked(entry, chosen, { preview, width, height }, box, signal) {
  say("Judging the tumour…");
  const more = `&box=${box}`;
  const body = await ask(`predict?box=${box}`, { body: chosen, signal, waiting });
  keep(entry, chosen, { ...body, preview, width, height }, more);
  showAnswer(body, answerOf(body));
  offerHeatOf(chosen, body, more);
}

// Each slice by itself, some at a time; one that fails says so in its line, and the others go on.
async function classifyEach(asked, signal) {
  const left = asked.filter(({ entry }) => !entry.isAnswered()); // the others came before a token was asked for
  begin(plural(asked.length, "slice"), `Asking about ${asked.length} slices…`);
  showProgress(asked.length, asked.length - left.length);
  beside = true;
  let done = asked.length - left.length;
  await inLanes(left, async (each) => {
    await askAbout(each, signal).catch((error) => failAlone(each, error, signal));
    showProgress(asked.length, ++done);
    if (shown === null && each.entry.isAnswered()) {
      setBusy(false);
      each.entry.show();
    }
  });
  const answered = asked.filter(({ entry }) => entry.isAnswered()).length;
  endProgress(`${answered} of ${plural(asked.length, "slice")} read.`);
  if (shown === null) say("None of these files could be read; the list says why.");
}

function failAlone({ entry }, error, signal) {
  signal.throwIfAborted();
  if (error.status === 401) throw error;
  if (!(error instanceof Problem)) console.error(error); // a fault of this page
  entry.fail("No answer", error.message);
}

async function inLanes(jobs, work) {
  const waitingJobs = jobs.values(); // every lane takes the next one
  const lane = async () => { for (const job of waitingJobs) await work(job); };
  await Promise.all(Array.from({ length: LANES }, lane));
}

async function classifyStudy(files, entry, signal) {
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
  entry.answer(ownAnswer(body, body.label), () => showStudy(files, body), { apart: body.status !== "ok" });
  entry.show();
}

function showStudy(files, body) {
  problem.hidden = true;
  nameIt(plural(files.length, "slice"));
  offerFeedback(null);
  offerMark(null);
  show({ words: "Choose a slice from the list to see it." });
  showAnswer(body, studyOf(body));
  const look = (index, button) => run((signal) => lookAt(files[index], button, signal));
  slices.replaceChildren(...slicesOf(body, files.map((each) => each.name), look));
  study.hidden = false;
}

// Show one slice of a study; the study's own answer stays.
async function lookAt(chosen, button, signal) {
  slices.querySelector("[aria-current]")?.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  drop.scrollIntoView({ block: "nearest" });
  offerHeat(null);
  offerFeedback(null);
  offerMark(null);
  showSlice(chosen, await ask("predict?preview=true", { body: chosen, signal, waiting }));
}

function showSlice(chosen, body, more) {
  nameIt(chosen.name);
  offerFeedback(chosen);
  show(body.preview ? { address: body.preview, alt: "The slice as the model sees it" } : { words: "There is no picture of this file." });
  offerHeatOf(chosen, body, more);
}

function offerHeatOf(chosen, body, more = "") {
  offerHeat(null);
  if (body.status === "refused" || facts?.explains === false) return;
  offerHeat((waiting, signal) => ask(`predict?explain=true&preview=true${more}`, { body: chosen, signal, waiting }).catch((error) => {
    throw error.status === 422 ? new Problem("This service offers no heat map.") : error; // as older ones
  }));
}

function forgetResults() {
  stop();
  begin("", "");
  problem.hidden = true;
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
  const files = event.dataTransfer?.files ?? [];
  if (files.length > 0) choose([...files]);
});
onExample((fetching) => run(async (signal) => choose([await fetching(signal)])));
onCancel(() => {
  stop("Stopped.");
  if (shown === null) answer.replaceChildren();
  file.focus();
});
onVisit({ opening: () => { if (!beside) stop(); }, forgotten: forgetResults });
findModel((facts) => {
  describeFeedback(facts);
  describeCard(facts);
  describeExamples(facts);
  if (Array.isArray(facts.formats)) kinds.textContent = facts.formats.join(", ");
  if (current === null && shown === null) answer.replaceChildren(...emptyBars(facts.classes));
});
