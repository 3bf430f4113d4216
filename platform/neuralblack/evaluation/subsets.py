"""The same numbers on parts of the judged slices: tumours alone, and each source by itself.

"No tumour" slices come from collections of their own, which a model can tell by their look: they flatter the numbers
over all classes. So a model that knows the class is also measured where it is not the answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset
from neuralblack.evaluation.bootstrap import intervals
from neuralblack.evaluation.patients import Slices
from neuralblack.labels import NO_TUMOUR
from neuralblack.metrics import ratio, summarise


def tumour_only(slices: Slices, classes: Sequence[str]) -> dict[str, Any] | None:
    """Measure on the slices with a tumour; "no tumour" stays a possible, and wrong, answer. None without that class.

    Returns:
        slices, called_no_tumour (how many of them), accuracy, balanced_accuracy, macro_f1 over the tumours' classes,
        and intervals of the accuracies.

    """
    if NO_TUMOUR not in classes:
        return None
    none = classes.index(NO_TUMOUR)
    rows = np.flatnonzero(slices.labels != none)
    part = Slices(slices.labels[rows], slices.probabilities[rows], [slices.patients[row] for row in rows])
    found = part.summary(classes)
    f1 = [one["f1"] for name, one in found["per_class"].items() if name != NO_TUMOUR and one["f1"] is not None]
    bounds = intervals(part, classes=classes) if len(rows) else {}
    accuracies = ("accuracy", "balanced_accuracy")
    return {
        "slices": len(rows),
        "called_no_tumour": sum(row[none] for row in found["confusion"]),
        "macro_f1": ratio(sum(f1), len(f1)),
        **{name: found[name] for name in accuracies},
        "intervals": {name: bounds.get(name) for name in accuracies},
    }


def by_source(
    slices: Slices, sources: Sequence[str], classes: Sequence[str], *, learnt: Mapping[str, int] | None
) -> dict[str, dict[str, Any]]:
    """Count each source by itself: slices, accuracy, and the sensitivity to each class that it has slices of.

    Also `learnt`, the slices of the same source that the model learnt from (`learnt_of_sources`); None: not known. The
    sensitivity to "no tumour" in a source with none is the one that another hospital may hope for.
    """
    found = {}
    for source in sorted(set(sources)):
        rows = np.flatnonzero(np.array(sources) == source)
        one = summarise(slices.labels[rows], slices.probabilities[rows], classes)
        sensitivity = {name: each["sensitivity"] for name, each in one["per_class"].items() if each["slices"]}
        found[source] = {
            "slices": len(rows),
            "learnt": None if learnt is None else learnt.get(source, 0),
            "accuracy": one["accuracy"],
            "sensitivity": sensitivity,
        }
    return found


def learnt_of_sources(
    source: Dataset, learnt: NDArray[np.int64], judged: Dataset, rows: NDArray[np.int64]
) -> dict[str, int]:
    """Count for each source of the judged dataset how many slices of the same source were learnt from.

    Sources of two datasets are the same where they share a file, by its hash, whatever they are called.

    Args:
        source, learnt: the dataset that the model learnt from, and which rows of it.
        judged, rows: a dataset, the same or another, and which of its rows are judged.

    """
    counts = Counter(source.sources[row] for row in learnt)
    owners: dict[str, set[str]] = {}
    for name, digest in zip(source.sources, source.source_hashes, strict=True):
        owners.setdefault(digest, set()).add(name)
    same: dict[str, set[str]] = {}
    for row in rows:
        digest = judged.source_hashes[row]
        same.setdefault(judged.sources[row], set()).update(owners.get(digest, ()) if digest else ())
    return {name: sum(counts[each] for each in theirs) for name, theirs in same.items()}
