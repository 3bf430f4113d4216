// Several slices that are not of one patient: each by itself, some at a time.

import { plural } from "./elements.js";
import { endProgress, showProgress } from "./progress.js";
import { Problem } from "./server.js";
import { askAbout, begin } from "./slice.js";
import { goOnBeside, run, say } from "./turn.js";
import { setBusy } from "./viewer.js";
import { isShowing } from "./visit.js";

const LANES = 4; // slices asked about at once: the network takes them as one batch, and others find room beside them

// One that fails says so in its line, and the others go on.
// `which` of them: those without an answer, where the others came before a token was asked for or a server went.
export async function classifyEach(asked, signal, which = asked) {
  const left = which.filter(({ entry }) => !entry.isAnswered());
  begin(plural(asked.length, "slice"), `Asking about ${asked.length} slices…`);
  showProgress(asked.length, asked.length - left.length);
  goOnBeside();
  let done = asked.length - left.length;
  const lost = [];
  await inLanes(left, async (each) => {
    await askAbout(each, signal).catch((error) => { if (failAlone(each, error, signal).isPassing) lost.push(each); });
    showProgress(asked.length, ++done);
    if (!isShowing && each.entry.isAnswered()) {
      setBusy(false);
      each.entry.show();
    }
  });
  const answered = asked.filter(({ entry }) => entry.isAnswered());
  const again = () => run((next) => classifyEach(asked, next, lost), lost.map(({ entry }) => entry));
  endProgress(`${answered.length} of ${plural(asked.length, "slice")} read.`,
    lost.length > 0 ? { words: `Ask about ${lost.length} again`, act: again } : null);
  if (isShowing) return;
  if (answered.length > 0) answered[0].entry.show();
  else say("None of these slices has an answer; the list says why.");
}

function failAlone({ entry }, error, signal) {
  signal.throwIfAborted();
  if (error.status === 401) throw error;
  if (!(error instanceof Problem)) console.error(error); // a fault of this page
  entry.fail("No answer", error.message);
  return error;
}

async function inLanes(jobs, work) {
  const waitingJobs = jobs.values(); // every lane takes the next one
  const lane = async () => { for (const job of waitingJobs) await work(job); };
  await Promise.all(Array.from({ length: LANES }, lane));
}
