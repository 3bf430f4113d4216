// What a reader says of the slice that is shown: sent with the slice, where the service collects it.

import { element } from "./elements.js";
import { Problem, ask, token } from "./server.js";

const at = (id) => document.getElementById(id);
const [form, label, patient, reader, readerField, said, keeping] =
  ["feedback", "label", "patient", "reader", "reader-field", "feedback-said", "keeping"].map(at);

const ONLY_READ = "Slices are read in memory, classified and forgotten. Their file names never leave this page.";
const KEPT = "Slices are read in memory, classified and forgotten, but for those that a reader sends feedback on. " +
  "Their file names never leave this page.";
let collects = false; // whether the service keeps feedback
let slice = null; // the file that is shown
let series = null; // the files of one patient that it is among
let sent = { words: "", key: "" }; // what was sent last, and its key: the same again is a repetition
let readersToken = ""; // where the page's own is not a reader's; it lives as long as this page

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
  label.value = "";
  say("");
}

function say(words, wrong = false) {
  said.textContent = words;
  said.classList.toggle("wrong", wrong);
}

// Not crypto.randomUUID: that one is missing where the page did not come over https or from this machine.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (each) => each.toString(16).padStart(2, "0")).join("");
}

async function send() {
  if (label.value === "") {
    label.focus();
    throw new Problem("Choose the class first.");
  }
  if (!readerField.hidden) {
    const text = reader.value.trim();
    if (!token.isPossible(text)) throw new Problem("A reader's token is one word of plain letters, digits and signs.");
    readersToken = text;
  }
  const mine = slice;
  const body = new FormData();
  body.append("file", mine, "slice"); // its name stays here
  body.append("label", label.value);
  if (patient.value.trim()) body.append("patient", patient.value.trim());
  const words = JSON.stringify([mine.name, mine.size, mine.lastModified, label.value, patient.value.trim()]);
  if (sent.words !== words) sent = { words, key: newKey() };
  const headers = { "Idempotency-Key": sent.key, ...(readersToken && { Authorization: `Bearer ${readersToken}` }) };
  const answer = await ask("feedback", { body, headers, waiting: (words) => say(words) });
  if (mine !== slice) return;
  readerField.hidden = true;
  say(`Kept as ${answer.label}${answer.agrees ? ", as the model says" : ""}. Thank you.`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  say("Sending…");
  try {
    await send();
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error); // a fault of this page
    say(error.status === 401 ? "Only a reader may say what a slice is. Type a reader's token." : error.message, true);
    if (error.status === 401) {
      readersToken = reader.value = "";
      readerField.hidden = false;
      reader.focus();
    }
  } finally {
    button.disabled = false;
  }
});
