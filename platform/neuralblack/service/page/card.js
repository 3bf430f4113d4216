// The model's card, as the service has it: Markdown, of which headings, tables, lists and quotes are drawn.

import { element } from "./elements.js";
import { ask } from "./server.js";

const at = (id) => document.getElementById(id);
const [link, dialog, text, close] = ["card", "card-dialog", "card-text", "card-close"].map(at);

export function describeCard({ card = false }) {
  link.hidden = card !== true;
}

const HEAD = /^---\n.*?\n---\n/s; // for programs
const MARKS = /\*\*(.+?)\*\*|\*(.+?)\*|`(.+?)`/g;

function inline(words) {
  const parts = [];
  let end = 0;
  for (const { 0: whole, 1: strong, 2: em, 3: code, index } of words.matchAll(MARKS)) {
    parts.push(words.slice(end, index), strong ? element("strong", { text: strong })
      : em ? element("em", { text: em }) : element("code", { text: code }));
    end = index + whole.length;
  }
  return [...parts, words.slice(end)];
}

function tableOf([head, , ...rows]) {
  const cells = (line, tag) => line.split("|").slice(1, -1).map((cell) => element(tag, {}, ...inline(cell.trim())));
  const row = (line, tag) => element("tr", {}, ...cells(line, tag));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((line) => row(line, "td")))));
}

function blockOf(block) {
  const lines = block.split("\n");
  const [, marks, heading] = /^(#+) (.*)/.exec(block) ?? [];
  if (heading) return element(`h${Math.min(marks.length + 2, 6)}`, {}, ...inline(heading)); // the dialog's own is h2
  if (lines[0].startsWith("|")) return tableOf(lines);
  if (lines[0].startsWith("- ")) return element("ul", {}, ...lines.map((line) => element("li", {}, ...inline(line.slice(2)))));
  if (lines[0].startsWith("> ")) return element("blockquote", {}, ...inline(block.replace(/^> /gm, "")));
  return element("p", {}, ...inline(block));
}

link.addEventListener("click", async (event) => {
  event.preventDefault(); // the link would not send the token
  text.replaceChildren(element("p", { text: "Reading the card…" }));
  dialog.showModal();
  try {
    const card = await ask("card");
    text.replaceChildren(...card.replace(HEAD, "").trim().split(/\n{2,}/).map(blockOf));
  } catch (error) {
    text.replaceChildren(element("p", { class: "wrong", text: error.message }));
  }
});
close.addEventListener("click", () => dialog.close());
