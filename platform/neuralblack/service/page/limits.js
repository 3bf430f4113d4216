// What the service would refuse is said before it is sent.

import { facts } from "./door.js";
import { Problem } from "./server.js";

const MOST_SLICES = 64; // of a study, as the server counts

const mib = (bytes) => `${Number((bytes / 2 ** 20).toFixed(1))} MiB`;

export function checkSlice(chosen, words = "This file") {
  if (chosen.size === 0) throw new Problem(`${words} is empty. Export it again.`);
  if (facts && chosen.size > facts.max_bytes)
    throw new Problem(`${words} is too large: ${mib(chosen.size)}, the limit is ${mib(facts.max_bytes)}. ` +
      "Send one slice, not a volume.");
}

export function checkStudy(files) {
  const most = facts?.max_slices ?? MOST_SLICES;
  if (files.length > most)
    throw new Problem(`These are ${files.length} files; a study has at most ${most} slices. Choose fewer.`);
  files.forEach((each) => checkSlice(each, `The file ${each.name}`));
  const bytes = files.reduce((sum, each) => sum + each.size, 0);
  if (bytes > (facts?.max_study_bytes ?? Infinity))
    throw new Problem(`These slices are too large together: ${mib(bytes)}, the limit is ${mib(facts.max_study_bytes)}. ` +
      "Choose fewer.");
}
