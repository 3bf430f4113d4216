// Single keys for what is done often. They can be switched off, because who dictates to the computer would press them.

import { element } from "./elements.js";

const at = (id) => document.getElementById(id);
const [list, allowed] = ["keys-list", "keys-on"].map(at);

const OFF = "neuralblack-keys-off"; // in the local storage: a choice about this person's hands, not about a visit
const press = (id) => () => { if (at(id).checkVisibility()) at(id).click(); };
const KEYS = {
  o: ["choose a file", press("file")],
  h: ["heat map", press("look")],
  j: ["next slice", () => walk(1)],
  k: ["previous", () => walk(-1)],
  c: ["copy as JSON", press("copy")],
  m: ["model card", press("card")],
};

// Through the slices of the study that is shown, else through the results of the visit.
function walk(step) {
  const walked = at("study").checkVisibility() ? "slices" : "entries";
  const lines = [...at(walked).querySelectorAll("button:not(:disabled)")];
  const current = lines.findIndex((line) => line.hasAttribute("aria-current"));
  const next = lines[current === -1 && step < 0 ? lines.length - 1 : current + step];
  next?.focus();
  next?.click();
}

const typesText = (target) => target.closest("textarea, select, input:not([type=checkbox], [type=file])") !== null;

document.addEventListener("keydown", (event) => {
  if (!allowed.checked || event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (typesText(event.target) || document.querySelector("dialog[open]")) return;
  const [, act] = KEYS[event.key.toLowerCase()] ?? [];
  if (act) {
    event.preventDefault();
    act();
  }
});

allowed.addEventListener("change", () => {
  try {
    if (allowed.checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "yes");
  } catch { /* storage is switched off: the choice lives as long as this page */ }
});
try {
  allowed.checked = localStorage.getItem(OFF) === null;
} catch { /* as above */ }
list.replaceChildren(...Object.entries(KEYS).map(([key, [words]]) =>
  element("li", {}, element("kbd", { text: key.toUpperCase() }), ` ${words}`)));
