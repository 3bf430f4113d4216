// Answers as elements: bars, verdicts, refusals, the slices of a study.

import { certainty, likelihood, percent } from "./confidence.js";
import { element, plural, quiet } from "./elements.js";
import { forPeople } from "./server.js";

export function emptyBars(classes) {
  return [quiet("The probability of each class will stand here."),
    element("ul", { class: "classes" }, ...classes.map((label) => row(label, null)))];
}

export function answerOf(body) {
  if (body.status === "refused") return refusalOf(body);
  const count = Object.keys(body.probabilities).length;
  const share = percent(body.probabilities[body.label]);
  return [
    verdict(body.label, `Most probable of ${count} classes, at ${share}`),
    ...likelihood(body),
    bars(body),
    ...certainty(body),
    ...end(body),
  ];
}

export function studyOf(body) {
  const read = body.slices.filter((slice) => slice.status === "ok");
  if (body.status === "refused") return refusalOf(body, `None of the ${plural(body.slices.length, "slice")} gives an answer.`);
  const share = percent(body.probabilities[body.label]);
  return [
    verdict(body.label, `Most probable over ${plural(read.length, "slice")}, at ${share}`),
    agreement(body, read),
    bars(body),
    element("p", { class: "doubt", text: "Slices of one patient resemble each other: read this share with more doubt than that of one slice." }),
    ...end(body),
  ];
}

// One element for each slice of a study; `look(index)` is called for the one whose picture is asked for.
export function slicesOf(body, names, look) {
  return body.slices.map((slice) => {
    const [answer, reason] = ownAnswer(slice, body.label);
    const line = [
      element("span", { class: "index", text: slice.index + 1 }),
      element("span", { class: "file", title: names[slice.index], text: names[slice.index] }),
      element("span", { class: "own", text: answer }),
      ...(reason ? [element("span", { class: "reason", text: reason })] : []),
    ];
    const kind = slice.status !== "ok" ? "apart" : slice.label === body.label ? "" : "differs";
    if (slice.status === "unreadable") return element("li", { class: kind }, element("div", { class: "line" }, ...line));
    const button = element("button", { type: "button", class: "line" }, ...line);
    button.addEventListener("click", () => look(slice.index, button));
    return element("li", { class: kind }, button);
  });
}

// What one slice says for itself, beside a verdict, and why it says nothing.
export function ownAnswer(slice, verdict) {
  const reason = (slice.reasons ?? []).map(({ sentence }) => forPeople(sentence)).join(" ");
  if (slice.status === "refused") return ["No answer", reason];
  if (slice.status === "unreadable") return ["Cannot be read", reason || slice.error];
  return [`${slice.label}, ${percent(slice.probabilities[slice.label])}`, slice.label === verdict ? "" : "Differs from the result"];
}

function agreement(body, read) {
  const agreeing = read.filter(({ label }) => label === body.label).length;
  const all = agreeing === read.length;
  const sentences = [read.length === 1 ? "Only one slice could be classified."
    : all ? `All ${read.length} slices agree.` : `${agreeing} of ${read.length} slices agree.`];
  const count = (status) => body.slices.filter((slice) => slice.status === status).length;
  if (count("refused")) sentences.push(`No answer for ${plural(count("refused"), "slice")}.`);
  if (count("unreadable")) sentences.push(`${plural(count("unreadable"), "file")} could not be read.`);
  return element("p", { class: "agreement", text: sentences.join(" ") });
}

function verdict(strong, under, kind = "") {
  return element("p", { class: `verdict ${kind}` }, element("strong", { text: strong }), element("span", { text: under }));
}

const FITTING = "Choose one slice that fits: a whole head, upright, in contrast-enhanced T1, grey, with no writing in it. Of " +
  "any other picture this model can say nothing.";

function refusalOf(body, under = "The service does not classify this slice.") {
  const reasons = (body.reasons ?? []).map(({ sentence }) => element("li", { text: sentence }));
  const needsBox = body.reasons?.some(({ code }) => code === "no_box"); // which its own reason says what to do about
  return [
    verdict("No answer", under, "none"),
    element("ul", { class: "reasons" }, ...reasons),
    ...(needsBox ? [] : [element("p", { class: "advice", text: FITTING })]),
    ...end(body),
  ];
}

function bars(body) {
  const shares = Object.entries(body.probabilities).sort(([, a], [, b]) => b - a);
  return element("ul", { class: "classes" }, ...shares.map(([label, share]) => row(label, share, label === body.label)));
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

function end(body) {
  return [
    element("p", { class: "after", text: body.notice }),
    element("p", { class: "fine", text: `Model ${body.model.name}` }),
    element("p", { class: "fine", text: `Request ${body.request_id}` }),
  ];
}
