// Several slices that are not of one patient: each by itself, some at a time.

import { plural } from "./elements.js";
import { endProgress, showProgress } from "./progress.js";
import { Problem } from "./server.js";
import { askAbout, begin } from "./slice.js";
import { goOnBeside, isLooking, run, say, showProblem, shown } from "./turn.js";
import { setBusy } from "./viewer.js";

const LANES = 4; // slices asked about at once: the network takes them as one batch, and others find room beside them

// One that fails says so in its line, and the others go on.
export async function classifyEach(asked, signal) {
  const left = asked.filter(({ entry }) => !entry.isAnswered()); // the others came before a token was asked for
  begin(plural(asked.length, "slice"), `Asking about ${asked.length} slices…`);
  showProgress(asked.length, asked.length - left.length);
  goOnBeside();
  let done = asked.length - left.length;
  const failed = [];
  for (const { entry } of left) entry.wait();
  await inLanes(left, async (each) => {
    await askAbout(each, signal).catch((error) => failed.push(failAlone(each, error, signal)));
    showProgress(asked.length, ++done);
    if (shown === null && !isLooking() && each.entry.isAnswered()) {
      setBusy(false);
      each.entry.show();
    }
  });
  const answered = asked.filter(({ entry }) => entry.isAnswered()).length;
  endProgress(`${answered} of ${plural(asked.length, "slice")} read.`);
  if (shown === null && !isLooking()) say("None of these slices has an answer; the list says why.");
  const later = failed.filter(({ isPassing }) => isPassing);
  if (later.length === 0) return;
  const isDown = later.some((error) => error.isDown);
  showProblem(new Problem(`${plural(later.length, "slice")} may get an answer later.`, { isDown, isPassing: true }),
    () => run((again) => classifyEach(asked, again), asked.map(({ entry }) => entry)));
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
