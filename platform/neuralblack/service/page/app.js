// The page: choose or drop slices, see what the model sees and what it says.

import { answerOf, emptyBars, slicesOf, studyOf } from "./answers.js";
import { describeCard } from "./card.js";
import { offerCopy } from "./copy.js";
import { element, plural, quiet } from "./elements.js";
import { describeFeedback, offerFeedback } from "./feedback.js";
import { offerMark } from "./mark.js";
import { Problem, ask, token } from "./server.js";
import "./shortcuts.js";
import { offerHeat, setBusy, show } from "./viewer.js";

const at = (id) => document.getElementById(id);
const [file, drop, kinds, name, again] = ["file", "drop", "kinds", "name", "again"].map(at);
const [answer, problem, wait, state, model, study, slices] =
  ["answer", "problem", "wait", "state", "model", "study", "slices"].map(at);
const [door, secret, doorProblem, forget] = ["door", "token", "door-problem", "forget"].map(at);

const MOST_SLICES = 64; // of a study, as the server counts
let facts = null; // of the model, when they are known
let current = null; // what ends the request under way; a new choice does
let interrupted = null; // what to do again when there is a token

function showProblem({ message, requestId }) {
  problem.replaceChildren(element("p", { text: message }));
  if (requestId) problem.append(element("p", {}, element("small", { text: `Request ${requestId}` })));
  problem.hidden = false;
}

function waiting(words, seconds) {
  // The words are read out once, from the answer's place; a countdown there would be read out every second.
  if (wait.hidden && study.hidden) answer.replaceChildren(quiet(words));
  wait.hidden = seconds === 0;
  wait.textContent = `${study.hidden ? "" : words} Trying again in ${seconds} s. Another choice stops this.`;
}

// Do `work(signal)` alone: whatever was under way is over, and only the last one may show anything.
async function run(work) {
  current?.abort();
  const mine = (current = new AbortController());
  problem.hidden = wait.hidden = true;
  setBusy(true);
  try {
    await work(mine.signal);
  } catch (error) {
    if (mine !== current) return;
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    if (study.hidden) answer.replaceChildren(); // one slice of a study that fails leaves the study's answer
    if (error.status === 401) askForToken(() => run(work));
    else showProblem(error);
  } finally {
    if (mine === current) {
      setBusy(false);
      wait.hidden = true;
    }
  }
}

function begin(text, words) {
  name.textContent = name.title = text;
  again.hidden = false;
  study.hidden = true;
  offerFeedback(null);
  offerMark(null);
  show();
  say(words);
}

// What stands in the answer's place while there is none.
function say(words) {
  answer.replaceChildren(quiet(words));
  offerCopy(null);
}

function showAnswer(body, elements) {
  answer.replaceChildren(...elements);
  offerCopy(body);
}

function choose(files) {
  if (files.length === 1) return run((signal) => classify(files[0], signal));
  // As people number them, whatever order the browser hands over.
  const sorted = [...files].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  return run((signal) => classifyStudy(sorted, signal));
}

async function classify(chosen, signal) {
  begin(chosen.name, "Reading the slice…");
  checkSize(chosen, "This file");
  // A raw body: the file's name stays here.
  const body = await ask("predict?preview=true", { body: chosen, signal, waiting });
  showSlice(chosen, body, signal);
  showAnswer(body, answerOf(body));
  if (facts?.needs_box) offerMark(body, (box) => run((signal) => judgeMarked(chosen, box, signal)));
}

// The same slice, with the box that somebody drew; the slice and the box stay where they are.
async function judgeMarked(chosen, box, signal) {
  say("Judging the tumour…");
  const body = await ask(`predict?box=${box}`, { body: chosen, signal, waiting });
  showAnswer(body, answerOf(body));
  offerHeatOf(chosen, body, signal, `&box=${box}`);
}

async function classifyStudy(files, signal) {
  begin(plural(files.length, "slice"), `Reading ${files.length} slices…`);
  const most = facts?.max_slices ?? MOST_SLICES;
  if (files.length > most)
    throw new Problem(`These are ${files.length} files; a study has at most ${most} slices. Choose fewer.`);
  files.forEach((each) => checkSize(each, `The file ${each.name}`));
  const bytes = files.reduce((sum, each) => sum + each.size, 0);
  if (bytes > (facts?.max_study_bytes ?? Infinity))
    throw new Problem(`These slices are too large together: ${mib(bytes)}, the limit is ${mib(facts.max_study_bytes)}. ` +
      "Choose fewer.");
  const form = new FormData();
  files.forEach((each, index) => form.append("file", each, `slice-${index + 1}`)); // their names stay here
  const patienceMs = 60_000 + 2_000 * files.length;
  const body = await ask("study", { body: form, signal, waiting, patienceMs }).catch((error) => {
    if (error.status !== 404) throw error;
    throw new Problem("This service takes one slice at a time. Choose a single one.");
  });
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
  showSlice(chosen, await ask("predict?preview=true", { body: chosen, signal, waiting }), signal);
  name.textContent = name.title = chosen.name;
}

function showSlice(chosen, body, signal) {
  offerFeedback(chosen);
  show(body.preview ? { address: body.preview, alt: "The slice as the model sees it" } : { words: "There is no picture of this file." });
  offerHeatOf(chosen, body, signal);
}

function offerHeatOf(chosen, body, signal, more = "") {
  offerHeat(null);
  if (body.status === "refused" || facts?.explains === false) return;
  offerHeat((waiting) => ask(`predict?explain=true&preview=true${more}`, { body: chosen, signal, waiting }).catch((error) => {
    if (error.status === 401) askForToken(null);
    throw error;
  }));
}

function checkSize(chosen, words) {
  if (chosen.size === 0) throw new Problem(`${words} is empty.`);
  if (facts && chosen.size > facts.max_bytes)
    throw new Problem(`${words} is too large: ${mib(chosen.size)}, the limit is ${mib(facts.max_bytes)}. ` +
      "Send one slice, not a volume.");
}

const mib = (bytes) => `${Number((bytes / 2 ** 20).toFixed(1))} MiB`;

function setState(words, ready = false) {
  state.textContent = words;
  state.classList.toggle("ready", ready);
}

async function findModel(wait = 1000) {
  try {
    const ready = await fetch("ready");
    if (!ready.ok) {
      setState("The model is being loaded…");
    } else if ((await ready.json()).token && !token.isKept()) {
      return askForToken(interrupted); // without being told so by a 401 first
    } else {
      facts = await ask("model");
      describeFeedback(facts);
      describeCard(facts);
      setState("Model ready", true);
      model.textContent = `Model ${facts.name} · tells apart ${facts.classes.join(", ")}`;
      model.title = `SHA-256 of its manifest: ${facts.hash}`;
      if (Array.isArray(facts.formats)) kinds.textContent = facts.formats.join(", ");
      if (current === null) answer.replaceChildren(...emptyBars(facts.classes));
      forget.hidden = !token.isKept();
      if (!door.hidden) enter();
      return;
    }
  } catch (error) {
    if (error.status === 401) return askForToken(interrupted);
    setState("The server does not answer");
  }
  setTimeout(findModel, wait, Math.min(wait * 1.5, 10_000));
}

function askForToken(then) {
  interrupted = then;
  doorProblem.textContent = token.isKept() ? "The service does not accept this token." : "";
  token.forget();
  forget.hidden = true;
  door.hidden = false;
  setState("A token is needed");
  secret.focus();
}

function enter() {
  door.hidden = true;
  secret.value = "";
  const goOn = interrupted;
  interrupted = null;
  if (goOn) goOn();
  else file.focus();
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = secret.value.trim();
  if (token.isPossible(text)) {
    doorProblem.textContent = "";
    token.keep(text);
    findModel();
  } else {
    doorProblem.textContent = text ? "A token is one word of plain letters, digits and signs." : "Type the token first.";
  }
});
forget.addEventListener("click", () => {
  token.forget();
  location.reload(); // nothing that it opened stays on the screen
});

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
findModel();
