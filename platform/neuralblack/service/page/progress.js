// How far several slices are, and the button that stops them.

const at = (id) => document.getElementById(id);
const [progress, bar, words, cancel] = ["progress", "progress-bar", "progress-words", "cancel"].map(at);

// `done` of `all` slices; without `done` nobody knows how many.
export function showProgress(all, done = null) {
  progress.hidden = bar.hidden = cancel.hidden = false;
  bar.max = all;
  if (done === null) bar.removeAttribute("value");
  else bar.value = done;
  words.textContent = done === null ? "" : `${done} of ${all}`;
}

// What came of it; nothing to say takes the place away.
export function endProgress(summary = "") {
  progress.hidden = summary === "";
  bar.hidden = cancel.hidden = true;
  words.textContent = summary;
}

export function onCancel(stop) {
  cancel.addEventListener("click", stop);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && cancel.checkVisibility() && !document.querySelector("dialog[open]")) stop();
  });
}
