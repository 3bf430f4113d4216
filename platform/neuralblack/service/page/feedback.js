// What a reader says of the slice that is shown: sent with the slice, where the service collects it.

import { offerForget } from "./door.js";
import { element } from "./elements.js";
import { Problem, ask, token } from "./server.js";
import { tell } from "./turn.js";

const at = (id) => document.getElementById(id);
const [form, label, patient, reader, readerField, said, keeping] =
  ["feedback", "label", "patient", "reader", "reader-field", "feedback-said", "keeping"].map(at);
const button = form.querySelector("button");

const ONLY_READ = "Slices are read in memory, classified and forgotten. Their file names never leave this page.";
const KEPT = "Slices are read in memory, classified and forgotten, but for those that a reader sends feedback on. " +
  "Their file names never leave this page.";
let collects = false; // whether the service keeps feedback
let slice = null; // the file that is shown
let series = null; // the files of one patient that it is among
let sent = new WeakMap(); // file -> what was sent of it last, and its key: the same again is a repetition
let leaving = new AbortController(); // ends what is being sent when the visit is cleared
let readersToken = ""; // where the page's own is not a reader's; it lives as long as this visit

export function describeFeedback({ feedback = false, classes = [] }) {
  collects = feedback === true;
  keeping.textContent = collects ? KEPT : ONLY_READ;
  const chosen = label.value;
  label.replaceChildren(element("option", { value: "", text: "Choose…" }),
    ...classes.map((each) => element("option", { value: each, text: each })));
  label.value = classes.includes(chosen) ? chosen : "";
}

// Offer it for a file; null takes the offer away. The patient who was named stays as long as `files` are the same.
export function offerFeedback(file, files = file) {
  if (files !== series) patient.value = "";
  series = files;
  slice = collects ? file : null;
  form.hidden = slice === null;
  button.disabled = false;
  label.value = "";
  say("");
}

// Nothing of what a reader said is left, nor the token: who comes next is somebody else.
export function forgetFeedback() {
  leaving.abort();
  leaving = new AbortController();
  sent = new WeakMap();
  keepReader("");
  readerField.hidden = true;
  offerFeedback(null);
}

function keepReader(text) {
  readersToken = reader.value = text;
  offerForget(text !== "");
}

function say(words, wrong = false) {
  said.textContent = words;
  said.classList.toggle("wrong", wrong);
}

// Not crypto.randomUUID: that one is missing where the page did not come over https or from this machine.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (each) => each.toString(16).padStart(2, "0")).join("");
}

async function send(mine, signal) {
  if (label.value === "") {
    label.focus();
    throw new Problem("Choose the class first.");
  }
  if (!readerField.hidden) {
    const text = reader.value.trim();
    if (!token.isPossible(text)) throw new Problem("A reader's token is one word of plain letters, digits and signs.");
    keepReader(text);
  }
  const body = new FormData();
  body.append("file", mine, "slice"); // its name stays here
  body.append("label", label.value);
  if (patient.value.trim()) body.append("patient", patient.value.trim());
  const words = JSON.stringify([label.value, patient.value.trim()]);
  if (sent.get(mine)?.words !== words) sent.set(mine, { words, key: newKey() });
  const headers = { "Idempotency-Key": sent.get(mine).key, ...(readersToken && { Authorization: `Bearer ${readersToken}` }) };
  const waiting = (words) => { if (mine === slice) say(words); };
  const answer = await ask("feedback", { body, headers, signal, waiting });
  if (mine !== slice) return;
  readerField.hidden = true;
  say(`Kept as ${answer.label}${answer.agrees ? ", as the model says" : ""}. Thank you.`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const [mine, signal] = [slice, leaving.signal];
  button.disabled = true;
  say("Sending…");
  try {
    await send(mine, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    const words = error.status === 401 ? "Only a reader may say what a slice is. Type a reader's token." : error.message;
    if (error.status === 401) {
      keepReader("");
      readerField.hidden = false;
    }
    if (mine !== slice) return tell(`Feedback on ${mine.name}: ${words}`);
    say(words, true);
    if (error.status === 401) reader.focus();
  } finally {
    if (mine === slice) button.disabled = false;
  }
});
