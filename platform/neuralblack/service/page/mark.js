// A box around the tumour, drawn on the slice or typed, for a model that is shown nothing else.

const at = (id) => document.getElementById(id);
const [drop, slice, marked, form, said] = ["drop", "slice", "marked", "mark", "mark-said"].map(at);
const edges = ["mark-left", "mark-top", "mark-right", "mark-bottom"].map(at);

let size = null; // of the file that is shown: its width and height in pixels
let offer = {}; // what to do with a box, and when it is another one
let judged = null; // the box that was judged, or is being, as "left,top,right,bottom"
let start = null; // where the pointer went down, in pixels of the file

// Offer to mark the slice of an answer with a preview; null takes the offer away. `box` is the one that the answer is of.
// `judge(box, isStill)` gets one, and what says whether it is still there; `changed()` hears that it is not.
export function offerMark(body, { box = null, judge, changed } = {}) {
  size = body?.preview ? { width: body.width, height: body.height } : null;
  offer = { judge, changed };
  judged = box;
  const values = box?.split(",") ?? [];
  form.hidden = size === null;
  drop.classList.toggle("marking", size !== null);
  sayOfMark("");
  marked.hidden = true;
  edges.forEach((edge, index) => { edge.value = values[index] ?? ""; });
  if (size === null) return;
  edges.forEach((edge, index) => { edge.max = index % 2 === 0 ? size.width : size.height; });
  draw();
}

export function sayOfMark(words, wrong = false) {
  said.textContent = words;
  said.classList.toggle("wrong", wrong);
}

// The preview is the slice in the middle of a square; on the screen that square may be of any size.
function layout() {
  const side = Math.max(size.width, size.height);
  return { side, left: (side - size.width) >> 1, top: (side - size.height) >> 1 };
}

function pixelAt({ clientX, clientY }) {
  const shown = slice.getBoundingClientRect();
  const { side, left, top } = layout();
  const clamp = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
  return [clamp((clientX - shown.left) * side / shown.width - left, size.width),
    clamp((clientY - shown.top) * side / shown.height - top, size.height)];
}

const boxNow = () => edges.map((edge) => edge.valueAsNumber);

function draw() {
  const [x0, y0, x1, y1] = boxNow();
  marked.hidden = !(x0 < x1 && y0 < y1);
  if (marked.hidden) return;
  const { side, left, top } = layout();
  const share = (pixels) => `${100 * pixels / side}%`;
  Object.assign(marked.style,
    { left: share(x0 + left), top: share(y0 + top), width: share(x1 - x0), height: share(y1 - y0) });
}

function setBox(first, second) {
  const [[ax, ay], [bx, by]] = [first, second];
  [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)]
    .forEach((value, index) => { edges[index].value = value; });
  change();
}

// What was said of the box before must not stand beside this one.
function change() {
  draw();
  if (judged === null || judged === boxNow().join(",")) return;
  judged = null;
  sayOfMark("");
  offer.changed();
}

drop.addEventListener("pointerdown", (event) => {
  if (size === null || event.button !== 0) return;
  start = pixelAt(event);
  drop.setPointerCapture(event.pointerId);
  event.preventDefault();
});
drop.addEventListener("pointermove", (event) => {
  if (start !== null) setBox(start, pixelAt(event));
});
for (const kind of ["pointerup", "pointercancel"])
  drop.addEventListener(kind, () => { start = null; });
// While a tumour is to be marked, a click on the slice opens no dialog; the button under it still does.
drop.addEventListener("click", (event) => { if (size !== null && event.target !== at("file")) event.preventDefault(); });
for (const edge of edges) edge.addEventListener("input", change);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const [x0, y0, x1, y1] = boxNow();
  if (!(x0 < x1 && y0 < y1)) {
    sayOfMark("The right edge must lie right of the left one, and the bottom below the top.", true);
    return;
  }
  const [mine, box] = [offer, boxNow().join(",")];
  judged = box;
  mine.judge(box, () => mine === offer && judged === box);
});
