// How far several slices are, and the button that stops them.

const at = (id) => document.getElementById(id);
const [progress, bar, words, cancel, retry] = ["progress", "progress-bar", "progress-words", "cancel", "retry"].map(at);

// `done` of `all` slices; without `done` nobody knows how many.
export function showProgress(all, done = null) {
  progress.hidden = bar.hidden = cancel.hidden = false;
  retry.hidden = true;
  bar.max = all;
  if (done === null) bar.removeAttribute("value");
  else bar.value = done;
  words.textContent = done === null ? "" : `${done} of ${all}`;
}

// What came of it, and what can be done about it, `{ words, act }`; nothing to say takes the place away.
export function endProgress(summary = "", more = null) {
  progress.hidden = summary === "";
  bar.hidden = cancel.hidden = true;
  words.textContent = summary;
  retry.hidden = more === null;
  retry.textContent = more?.words ?? "";
  retry.onclick = more?.act ?? null;
}

export function onCancel(stop) {
  cancel.addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && cancel.checkVisibility() && !document.querySelector("dialog[open]")) stop();
  });
}
