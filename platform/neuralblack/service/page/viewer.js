// The picture: the slice as the model sees it, and on demand where the network looked.

const at = (id) => document.getElementById(id);
const [drop, slice, invitation, pointer, busy] = ["drop", "slice", "invitation", "pointer", "busy"].map(at);
const [heat, look, settings, strength, strengthText, heatMap, heatNote, heatProblem] =
  ["heat", "look", "heat-settings", "strength", "strength-text", "heat-map", "heat-note", "heat-problem"].map(at);

const NOTE = "The colours show where the network looked, not where the tumour is.";
let load = null; // asks for the heat map of the slice that is shown
let leaving = new AbortController(); // ends that when another slice is shown

export function setBusy(on) {
  busy.hidden = !on;
}

// What stands in the square: the invitation, a slice (its data URI), or a word on a study's slices.
export function show({ address = "", alt = "", words = "" } = {}) {
  slice.hidden = !address;
  invitation.hidden = Boolean(address || words);
  pointer.hidden = !words;
  pointer.textContent = words;
  drop.classList.toggle("full", Boolean(address));
  if (address) slice.src = address;
  else slice.removeAttribute("src");
  slice.alt = alt;
  offerHeat(null);
}

// `asking(waiting, signal)` gives an answer with `heat_map`, or throws a sentence; null takes the offer away.
export function offerHeat(asking) {
  leaving.abort();
  leaving = new AbortController();
  load = asking;
  heat.hidden = asking === null;
  look.checked = false;
  heatProblem.textContent = "";
  heatMap.removeAttribute("src");
  settings.hidden = heatMap.hidden = true;
}

async function toggle() {
  heatProblem.textContent = "";
  if (look.checked && !heatMap.hasAttribute("src")) {
    const mine = load;
    setBusy(true);
    try {
      const body = await mine((words) => { heatProblem.textContent = words; }, leaving.signal);
      if (load !== mine) return;
      if (!body.heat_map) throw new Error("This service offers no heat map.");
      heatMap.src = body.heat_map;
      heatNote.textContent = body.heat_map_note ?? NOTE;
      heatProblem.textContent = "";
    } catch (error) {
      if (load !== mine) return;
      look.checked = false;
      heatProblem.textContent = error.message;
    } finally {
      if (load === mine) setBusy(false);
    }
  }
  settings.hidden = heatMap.hidden = !look.checked;
}

function setStrength() {
  const words = `${strength.value} %`;
  heatMap.style.opacity = strength.value / 100;
  strength.setAttribute("aria-valuetext", words);
  strengthText.textContent = words;
}

look.addEventListener("change", toggle);
strength.addEventListener("input", setStrength);
setStrength(); // a reload may have kept another value
