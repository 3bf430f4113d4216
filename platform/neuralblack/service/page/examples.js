// Made-up slices to try at once.

import { download } from "./server.js";

const gallery = document.getElementById("examples");
const buttons = [...gallery.querySelectorAll("button")];

// Only of classes that the model knows: it would have to call another one something.
export function describeExamples({ classes }) {
  for (const button of buttons) button.parentElement.hidden = !classes.includes(button.dataset.label);
  gallery.hidden = false;
}

// `tryIt(fetching)` gets what fetches the file, `fetching(signal)`.
export function onExample(tryIt) {
  for (const button of buttons)
    button.addEventListener("click", () =>
      tryIt(async (signal) => {
        const file = await download(button.querySelector("img").src, `made-up ${button.dataset.label}.jpg`, signal);
        return Object.assign(file, { madeUp: true }); // of no use to whoever learns from feedback
      }));
}
