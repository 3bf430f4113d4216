// The result that is shown, copied as JSON.

const at = (id) => document.getElementById(id);
const [take, copy, copied] = ["take", "copy", "copied"].map(at);

const PICTURES = new Set(["preview", "heat_map"]); // drawn for this page, and larger than all the rest
let shown = null; // the service's answer

// Offer it for an answer; null takes the offer away.
export function offerCopy(body) {
  shown = body;
  take.hidden = body === null;
  copied.textContent = "";
}

copy.addEventListener("click", async () => {
  copied.textContent = "";
  const text = JSON.stringify(shown, (key, value) => (PICTURES.has(key) ? undefined : value), 2);
  try {
    await navigator.clipboard.writeText(text);
    copied.textContent = "Copied.";
  } catch { /* not allowed, or the page came neither over https nor from this machine */
    copied.textContent = "The browser does not let this page copy. Allow it, or open the page over https.";
  }
});
