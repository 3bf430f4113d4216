// One request at a time: what is under way, what stands in the answer's place, and how it ends.

import { offerCopy } from "./copy.js";
import { askForToken } from "./door.js";
import { element, quiet } from "./elements.js";
import { endProgress } from "./progress.js";
import { Problem } from "./server.js";
import { setBusy } from "./viewer.js";
import { isShowing } from "./visit.js";

const at = (id) => document.getElementById(id);
const [answer, problem, wait] = ["answer", "problem", "wait"].map(at);

let current = null; // what ends the request under way; a new choice does
let beside = false; // whether results may be looked at while it goes on
let looking = null; // what ends the request for what is looked at

export const isIdle = () => current === null && !isShowing;

// From now on what is under way and what is looked at do not disturb each other.
export function goOnBeside() {
  beside = true;
}

// Somebody looks at something else.
export function leave() {
  if (current !== null && !beside) return stop();
  stopLooking();
  setBusy(false);
}

function stopLooking() {
  if (looking !== null) wait.hidden = true;
  looking?.abort();
  looking = null;
}

export function hideProblem() {
  problem.hidden = true;
}

// `again()` is offered where it may help.
function showProblem({ message, requestId, isPassing }, again) {
  problem.replaceChildren(element("p", { text: message }));
  if (requestId) problem.append(element("p", {}, element("small", { text: `Request ${requestId}` })));
  if (isPassing) {
    const button = element("button", { type: "button", class: "plain", text: "Try again" });
    button.addEventListener("click", () => { at("file").focus(); again(); });
    problem.append(element("p", {}, button));
  }
  problem.hidden = false;
}

// Of something else than what is shown or under way; it stands beside a problem that is there.
export function tell(words) {
  if (problem.hidden) problem.replaceChildren();
  problem.append(element("p", { text: words }));
  problem.hidden = false;
}

// What stands in the answer's place while there is none.
export function say(words) {
  answer.replaceChildren(quiet(words));
  offerCopy(null);
}

export function showAnswer(body, elements) {
  answer.replaceChildren(...elements);
  offerCopy(body);
}

export function waiting(words, seconds) {
  // The words are read out once, from the answer's place; a countdown there would be read out every second.
  if (wait.hidden && !isShowing) say(words);
  wait.hidden = seconds === 0;
  wait.textContent = `${isShowing ? words : ""} Trying again in ${seconds} s. Another choice stops this.`;
}

export function stop(words = "") {
  current?.abort();
  current = null;
  stopLooking();
  beside = false;
  setBusy(false);
  wait.hidden = true;
  endProgress(words);
}

// Do `work(signal)` for what is looked at: beside several slices under way, and beside what came of them.
export async function look(work) {
  leave();
  const mine = (looking = new AbortController());
  problem.hidden = true;
  setBusy(true);
  try {
    await work(mine.signal);
  } catch (error) {
    if (mine !== looking) return;
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    if (error.status === 401) return askForToken(() => look(work));
    showProblem(error, () => look(work));
  } finally {
    if (mine === looking) leave();
  }
}

// Do `work(signal)` alone: whatever was under way is over, and only the last one may show anything.
export async function run(work, entries = []) {
  stop();
  const mine = (current = new AbortController());
  problem.hidden = true;
  setBusy(true);
  for (const entry of entries) entry.wait();
  try {
    await work(mine.signal);
  } catch (error) {
    if (mine !== current) {
      for (const entry of entries) entry.fail("Stopped");
      return;
    }
    mine.abort(); // nothing of it goes on beside what comes next
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    if (!isShowing) answer.replaceChildren(); // what fails before it begins, as a made-up slice may, leaves the answer
    endProgress();
    if (error.status === 401) {
      for (const entry of entries) entry.fail("No answer yet", "It waits for the token.");
      return askForToken(() => run(work, entries));
    }
    for (const entry of entries) entry.fail("No answer", error.message);
    showProblem(error, () => run(work, entries));
  } finally {
    if (mine === current) {
      current = null;
      beside = false;
      setBusy(false);
      wait.hidden = true;
    }
  }
}
