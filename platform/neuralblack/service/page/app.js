// The page: choose or drop a slice, see what the model sees and what it says. Texts go in as text, never as markup.

const at = (id) => document.getElementById(id);
const [file, drop, slice, invitation, busy, name, again] =
  ["file", "drop", "slice", "invitation", "busy", "name", "again"].map(at);
const [answer, problem, state, model] = ["answer", "problem", "state", "model"].map(at);

const DOWN = "The server does not answer. Check that it is running and that you are connected, then try again.";
const PATIENCE_MS = 60_000;
let facts = null;
let current = null; // the request under way; a new slice ends it

function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// Never "100%" and never "0%": a probability from a model is neither.
function percent(share) {
  if (share > 0.999) return "> 99.9 %";
  if (share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

function showProblem(sentence, requestId) {
  problem.replaceChildren(element("p", { text: sentence }));
  if (requestId) problem.append(element("p", {}, element("small", { text: `Request ${requestId}` })));
  problem.hidden = false;
  answer.replaceChildren();
}

function row(label, share, first = false) {
  const track = element("div", { class: "track", "aria-hidden": "true" });
  if (share !== null) {
    track.append(element("div", { class: "bar" }));
    track.firstChild.style.setProperty("--share", share);
  }
  return element(
    "li",
    { class: first ? "first" : "" },
    element("div", { class: "row" }, element("span", { text: label }),
      element("span", { class: "number", text: share === null ? "" : percent(share) })),
    track,
  );
}

function showClasses() {
  answer.replaceChildren(
    element("p", { class: "quiet", text: "The probability of each class will stand here." }),
    element("ul", { class: "classes" }, ...facts.classes.map((label) => row(label, null))),
  );
}

function showAnswer(body) {
  const shares = Object.entries(body.probabilities).sort(([, a], [, b]) => b - a);
  const rows = shares.map(([label, share]) => row(label, share, label === body.label));
  answer.replaceChildren(
    element("p", { class: "verdict" }, element("strong", { text: body.label }),
      element("span", { text: `Most probable of ${shares.length} classes, at ${percent(body.probabilities[body.label])}` })),
    element("ul", { class: "classes" }, ...rows),
    element("p", { class: "after", text: body.notice }),
    element("p", { class: "fine", text: `Model ${body.model.name}` }),
    element("p", { class: "fine", text: `Request ${body.request_id}` }),
  );
}

function showSlice(address, alt) {
  slice.hidden = address === null;
  invitation.hidden = address !== null;
  drop.classList.toggle("full", address !== null);
  if (address === null) slice.removeAttribute("src");
  else slice.src = address;
  slice.alt = alt ?? "";
}

async function classify(chosen, note = "") {
  current?.abort();
  const mine = (current = new AbortController());
  const patience = setTimeout(() => mine.abort("patience"), PATIENCE_MS);
  name.textContent = chosen.name + note;
  again.hidden = false;
  problem.hidden = true;
  showSlice(null);
  answer.replaceChildren(element("p", { class: "quiet", text: "Reading the slice…" }));
  busy.hidden = false;
  try {
    if (chosen.size === 0) throw new Error("This file is empty.");
    if (facts && chosen.size > facts.max_bytes)
      throw new Error(`This file is too large: ${(chosen.size / 2 ** 20).toFixed(1)} MiB, the limit is ` +
        `${(facts.max_bytes / 2 ** 20).toFixed(0)} MiB. Send one slice, not a volume.`);
    let response;
    try {
      // A raw body: the file's name stays here.
      response = await fetch("predict?preview=true", { method: "POST", body: chosen, signal: mine.signal });
    } catch (error) {
      throw new Error(mine.signal.reason === "patience" ? "The server took too long. Try again later." : DOWN);
    }
    const body = await response.json().catch(() => ({}));
    if (mine !== current) return;
    if (!response.ok) {
      showProblem(body.error ?? `The server answered with status ${response.status}. Try again later.`, body.request_id);
      return;
    }
    showSlice(body.preview, "The slice as the model sees it");
    showAnswer(body);
  } catch (error) {
    if (mine === current) showProblem(error.message);
  } finally {
    clearTimeout(patience);
    if (mine === current) busy.hidden = true;
  }
}

async function findModel(wait = 1000) {
  try {
    const response = await fetch("ready");
    if (response.ok) {
      facts = await (await fetch("model")).json();
      state.textContent = "Model ready";
      state.classList.add("ready");
      model.textContent = `Model ${facts.name} · tells apart ${facts.classes.join(", ")}`;
      model.title = `SHA-256 of its manifest: ${facts.hash}`;
      if (current === null) showClasses();
      return;
    }
    state.textContent = "The model is being loaded…";
  } catch {
    state.textContent = "The server does not answer";
  }
  setTimeout(findModel, wait, Math.min(wait * 1.5, 10_000));
}

file.addEventListener("change", () => {
  if (file.files.length > 0) classify(file.files[0]);
  file.value = ""; // so that the same file can be chosen again
});
again.addEventListener("click", () => file.click());
for (const kind of ["dragenter", "dragover"])
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"])
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  const files = event.dataTransfer?.files ?? [];
  if (files.length > 0) classify(files[0], files.length > 1 ? ` (the first of ${files.length} files)` : "");
});
findModel();
