// The results of this visit, as one list that can be walked through, without asking again.
//
// In this page's memory alone, and not in the session storage: a file's name may name a patient, and browsers write that
// storage to the disk, to bring it back behind a crash.

import { element } from "./elements.js";

const at = (id) => document.getElementById(id);
const [visit, entries, clear] = ["visit", "entries", "clear"].map(at);

export const MOST = 200; // results; with their pictures they take some 20 MB
at("most").textContent = MOST;
let count = 0;
let opening = null; // is called before a person opens one
export let isShowing = false; // whether one is shown: then nothing else takes its place by itself
let current = null; // shows it again

// A line for what is asked about `name`, still waiting.
export function addEntry(name) {
  const [own, reason] = [element("span", { class: "own", text: "Waiting…" }), element("span", { class: "reason" })];
  const button = element("button", { type: "button", class: "line", disabled: "" },
    element("span", { class: "index", text: ++count }), element("span", { class: "file", title: name, text: name }), own, reason);
  const item = element("li", {}, button);
  let [open, isAnew] = [null, true];

  function show() {
    leaveEntries();
    button.setAttribute("aria-current", "true");
    isShowing = true;
    current = isAnew ? () => open() : null;
    open();
  }

  function settle(words, why, apart) {
    own.textContent = words;
    reason.textContent = why;
    item.classList.toggle("apart", apart);
  }

  button.addEventListener("click", () => { opening(); show(); });
  entries.append(item);
  while (entries.children.length > MOST) entries.firstChild.remove();
  visit.hidden = false;
  return {
    // `show()` shows the result again; `anew` says whether it may do so by itself, when more has become known.
    answer([words, why], show, { apart = false, anew = true } = {}) {
      open = show;
      isAnew = anew;
      button.disabled = false;
      settle(words, why, apart);
    },
    // It is asked about; a result that is there stays.
    wait() {
      if (open === null) settle("Waiting…", "", false);
    },
    // Why there is none; a result that is there stays.
    fail(words, why = "") {
      if (open === null) settle(words, why, true);
    },
    // It is asked about in another way; it must be the newest.
    remove() {
      item.remove();
      count--;
    },
    show,
    isAnswered: () => open !== null,
  };
}

// None of them is shown any more.
export function leaveEntries() {
  isShowing = false;
  current = null;
  entries.querySelector("[aria-current]")?.removeAttribute("aria-current");
}

// Show what is shown anew, by what has become known meanwhile.
export function showAgain() {
  current?.();
}

// `opening()` is called before somebody opens a result, `forgotten()` when the list has been cleared.
export function onVisit(listener) {
  opening = listener.opening;
  clear.addEventListener("click", () => {
    entries.replaceChildren();
    count = 0;
    visit.hidden = true;
    listener.forgotten();
  });
}
