// Elements made in one call. Texts go in as text, never as markup.

export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export const quiet = (text) => element("p", { class: "quiet", text });

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
