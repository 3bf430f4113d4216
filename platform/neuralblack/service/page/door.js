// The model behind this page: whether it is ready, what it takes, and the token where one is asked for.

import { ask, onDown, token } from "./server.js";

const at = (id) => document.getElementById(id);
const [door, secret, doorProblem, forget, file] = ["door", "token", "door-problem", "forget", "file"].map(at);
const [state, model] = ["state", "model"].map(at);

const READY_MS = 10_000; // for a question that is answered at once, or asked again

export let facts = null; // of the model, when they are known
let found = null; // hears them
let next = 0; // the timer of the next look
let interrupted = null; // what to do again when there is a token
let withReader = false; // whether a reader's token is kept besides

function setState(words, ready = false) {
  state.textContent = words;
  state.classList.toggle("ready", ready);
}

// Ask until the model is ready; `then(facts)` is called when it is, and again behind a new token.
export function findModel(then) {
  found = then;
  look();
}

// The server was there and does not answer any more: look until it does.
function lookAgain() {
  setState("The server does not answer");
  wait(1000);
}

function wait(ms) {
  clearTimeout(next);
  next = setTimeout(look, ms, Math.min(ms * 1.5, 10_000));
}

async function look(pause = 1000) {
  clearTimeout(next);
  try {
    const ready = await fetch("ready", { signal: AbortSignal.timeout(READY_MS) });
    if (!ready.ok) {
      const isOurs = ready.headers.get("Content-Type")?.startsWith("application/json"); // else a proxy's, of nobody behind it
      setState(isOurs ? "The model is being loaded…" : "The server does not answer");
    } else if ((await ready.json()).token && !token.isKept()) {
      return askForToken(interrupted); // without being told so by a 401 first
    } else {
      facts = await ask("model");
      setState("Model ready", true);
      model.textContent = `Model ${facts.name} · tells apart ${facts.classes.join(", ")}`;
      model.title = `SHA-256 of its manifest: ${facts.hash}`;
      offerForget();
      found(facts);
      if (!door.hidden) enter();
      return;
    }
  } catch (error) {
    if (error.status === 401) return askForToken(interrupted);
    setState("The server does not answer");
  }
  wait(pause);
}

// Ask for it; `then` is done when there is one.
export function askForToken(then) {
  interrupted = then;
  doorProblem.textContent = token.isKept() ? "The service does not accept this token." : "";
  token.forget();
  offerForget();
  door.hidden = false;
  setState("A token is needed");
  secret.focus();
}

// Any token that is kept can be forgotten, a reader's as well.
export function offerForget(ofReader = withReader) {
  withReader = ofReader;
  forget.hidden = !token.isKept() && !withReader;
}

// What waits for a token is not to be done any more.
export function forgetInterrupted() {
  interrupted = null;
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
    look();
  } else {
    doorProblem.textContent = text ? "A token is one word of plain letters, digits and signs." : "Type the token first.";
  }
});
forget.addEventListener("click", () => {
  token.forget();
  location.reload(); // a reader's goes with the page, and nothing that they opened stays on the screen
});
onDown(lookAgain);
