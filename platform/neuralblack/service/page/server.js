// Ask the server: with the token, with patience, and again when it says it is busy.

const TOKEN = "neuralblack-token"; // its key in the session storage, which the browser empties with the tab
const PATIENCE_MS = 60_000;
const TRIES = 5; // in all
const LONGEST_WAIT_S = 60; // nobody sits in front of a page for longer; then the sentence is better
const DOWN = "The server does not answer. Check that it is running and that you are connected, then try again.";

const CHANGED = "This file was moved or changed since it was chosen. Choose it again.";
const UNREACHED = "The service behind this address does not answer. Try again in a minute, or tell who runs it.";
const WITHOUT_REASON = { // status of an answer that is not the service's own -> what to do
  413: "This is too large for the server. Send one slice, not a volume.",
  429: "The server has too much to do. Try again in a minute.",
  502: UNREACHED,
  503: UNREACHED,
  504: UNREACHED,
};

// What went wrong, in a sentence for people; `status` is 0 where no answer came, `code` is the service's word for it,
// `isPassing` where it may be well later.
export class Problem extends Error {
  constructor(sentence, { status = 0, code = "", requestId = "", isPassing = false } = {}) {
    super(sentence);
    Object.assign(this, { status, code, requestId, isPassing });
  }
}

let missed = () => {}; // hears each time that nobody was there to answer

export function onDown(listener) {
  missed = listener;
}

function down() {
  missed();
  return new Problem(DOWN, { isPassing: true });
}

let kept = "";
try {
  kept = sessionStorage.getItem(TOKEN) ?? "";
} catch { /* storage is switched off: the token lives as long as this page */ }

export const token = {
  isKept: () => kept !== "",
  isPossible: (text) => /^[\x21-\x7e]+$/.test(text), // anything else cannot stand in a header
  keep(text) {
    kept = text;
    try {
      sessionStorage.setItem(TOKEN, text);
    } catch { /* as above */ }
  },
  forget() {
    kept = "";
    try {
      sessionStorage.removeItem(TOKEN);
    } catch { /* as above */ }
  },
};

// The answer to one question; `body` makes it a POST. Throws a Problem, or the signal's reason when that ended it.
// `waiting(words, seconds)` is called every second while the server is busy, with 0 when it is asked again.
export async function ask(path, { body, headers, signal, waiting = () => {}, patienceMs = PATIENCE_MS } = {}) {
  for (let left = TRIES - 1; ; left--) {
    const answer = await send(path, { body, headers, signal, patienceMs });
    if (answer.ok) return answer.content;
    if (left === 0 || answer.pauseS === null) throw sentence(answer);
    const words = answer.status === 429 ? "The service is busy." : "The service cannot answer at the moment.";
    for (let seconds = answer.pauseS; seconds > 0; seconds--) {
      waiting(words, seconds);
      await pause(1000, signal);
    }
    waiting(words, 0);
  }
}

async function send(path, { body, headers, signal, patienceMs }) {
  const patience = AbortSignal.timeout(patienceMs);
  try {
    const response = await fetch(path, {
      method: body ? "POST" : "GET",
      body,
      headers: { ...(token.isKept() && { Authorization: `Bearer ${kept}` }), ...headers },
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    const isText = response.headers.get("Content-Type")?.startsWith("text/markdown");
    // A proxy's own answer may be anything.
    const content = await (isText ? response.text() : response.json()).catch(() => null);
    patience.throwIfAborted();
    signal?.throwIfAborted();
    return { ok: response.ok && content !== null, status: response.status, content, pauseS: pauseOf(response) };
  } catch {
    signal?.throwIfAborted();
    if (patience.aborted) throw new Problem("The server took too long. Try again later.", { isPassing: true });
    throw await canBeRead(body) ? down() : new Problem(CHANGED);
  }
}

// The browser reads a file when it is sent, and says of one that is gone what it says of a server that is.
async function canBeRead(body) {
  const files = body instanceof FormData ? body.getAll("file") : body ? [body] : [];
  return Promise.all(files.map((each) => each.slice(0, 1).arrayBuffer())).then(() => true, () => false);
}

// A file of this page.
export async function download(address, name, signal) {
  try {
    const response = await fetch(address, { signal });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return new File([await response.blob()], name, { type: response.headers.get("Content-Type") });
  } catch {
    signal.throwIfAborted();
    throw down();
  }
}

function pauseOf(response) {
  const stated = response.headers.get("Retry-After") ?? "";
  if (![429, 502, 503, 504].includes(response.status) || !/^\d+$/.test(stated)) return null;
  return Number(stated) > LONGEST_WAIT_S ? null : Math.max(1, Number(stated));
}

function sentence({ status, content }) {
  const words = typeof content?.error === "string" ? content.error : WITHOUT_REASON[status]
    ?? `The server answered with status ${status} and no reason. Try again later.`;
  if (words === UNREACHED) missed();
  const isPassing = status === 429 || status >= 500;
  return new Problem(forPeople(words), { status, code: content?.code, requestId: content?.request_id, isPassing });
}

// What the service says of a file is made for programs' logs, too: "upload: found X; expected Y. Fix: Z".
export function forPeople(words) {
  const [, found, expected, fix] = /^upload: found (.*); expected (.*)\. Fix: (.*)$/s.exec(words) ?? [];
  return fix ? `This file cannot be read: found ${found}, expected ${expected}. ${fix[0].toUpperCase()}${fix.slice(1)}.` : words;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
