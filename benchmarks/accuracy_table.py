"""The accuracy benchmark's table, put together from parts: all test slices of a seed pooled, seeds averaged."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.accuracy_part import FIRST, REFITTED, SECOND, WINNER
from benchmarks.aims import Aim
from benchmarks.report import aims_table, table

from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import DRAWS, differences, intervals
from neuralblack.evaluation.patients import Slices

Part = Mapping[str, Any]
RARE = "meningioma"  # the class that simpler means miss most
PROBE = "linear probe"
ACCURACY, MACRO_F1, RECALL, ECE, BEYOND_PROBE = 0.96, 0.95, 0.90, 0.03, 0.10  # the aims


class Pooled:
    """A method's answers over all parts of a table: for each seed the slices, and the patients, of all folds."""

    def __init__(self, parts: Sequence[Part], block: str, name: str) -> None:
        self.name, self.classes = name, parts[0]["classes"]
        rows = [(part, row) for part in parts for row in part["rows"] if (row["block"], row["name"]) == (block, name)]
        by_seed: dict[int, list[tuple[Part, Mapping[str, Any]]]] = {}
        for part, row in rows:
            by_seed.setdefault(part["seed"], []).append((part, row))
        self.slices = [Slices.together([_slices(*each) for each in some]) for some in by_seed.values()]
        self.patients = [Slices.together([_verdicts(*each) for each in some]) for some in by_seed.values()]
        self._gaps = {when: [_gaps(some, when) for some in by_seed.values()] for when in ("before", "after")}
        known = [row["minutes"] for _, row in rows if row["minutes"] is not None]
        self.minutes = float(np.mean(known)) if known else None
        self.learnt = round(float(np.mean([row["learnt"] for _, row in rows])))
        self.bounds = intervals(*self.slices, classes=self.classes)

    def number(self, read: Callable[[Mapping[str, Any]], float | None]) -> float | None:
        """Average a number of `metrics.summarise` over seeds."""
        found = [read(one.summary(self.classes)) for one in self.slices]
        return _mean(found)

    def recall(self, name: str) -> float | None:
        """Average the sensitivity to a class over seeds."""
        return self.number(lambda summary: summary["per_class"][name]["sensitivity"])

    def ece(self, when: str) -> float | None:
        """Average the calibration error `before` or `after` temperature; None where nothing is a probability."""
        errors = [
            None if gaps is None else float(np.abs(gaps).sum() / len(one.labels))
            for gaps, one in zip(self._gaps[when], self.slices, strict=True)
        ]
        return _mean(errors)

    def of_patients(self) -> tuple[float | None, list[float] | None]:
        """Average the share of patients whose slices' mean is right, with its interval."""
        found = _mean([one.summary(self.classes)["accuracy"] for one in self.patients])
        return found, intervals(*self.patients, classes=self.classes)["accuracy"]

    def beyond(self, other: "Pooled") -> list[float] | None:
        """Bound how much more accurate it is than another, over the same patients of the first seed."""
        return differences(self.slices[0], other.slices[0])["accuracy"]


def markdown(parts: Sequence[Part]) -> str:
    """Write the whole page; raises InputError for parts that do not belong together."""
    check_parts(parts)
    first, classes = parts[0], parts[0]["classes"]
    folds, seeds = sorted({part["fold"] for part in parts}), sorted({part["seed"] for part in parts})
    blocks = {block: _methods(parts, block) for block in (FIRST, SECOND)}
    settings = first["settings"]
    lines = [
        "# Accuracy: measured",
        "",
        f"Fold {_listed(folds)} tested, seed {_listed(seeds)}, {len(parts)} parts; each with a search of "
        f"{settings['trials']} trials of at most {settings['epochs']} epochs inside its training part. "
        f"`{' '.join(settings['overrides'])}`. Test slices of all folds are pooled and seeds averaged; in brackets "
        f"95% intervals, bootstrap over patients, {DRAWS:,} draws. ECE is the calibration error before and behind the "
        "temperature, which is fitted on the fold that chose. Minutes are of one worker, per part; the search's are of "
        "all its trials.",
    ]
    for block, methods in blocks.items():
        lines += ["", f"## Learnt from {block}", "", _table(methods, classes)]
    aims = _aims(blocks[SECOND][REFITTED], _probe_of(blocks[SECOND]))
    lines += ["", "## Aims, for the winner's recipe", "", aims_table(aims)]
    lines += ["", "## What the searches chose", "", _winners(parts)]
    return "\n".join(lines) + "\n"


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts of several datasets or settings, or none."""
    for name in ("version", "dataset", "settings", "classes"):
        different = {str(part[name]) for part in parts}
        if len(different) != 1:
            raise InputError(
                "the results",
                found=f"{len(different)} kinds of {name}" if parts else "no part",
                expected="parts of one dataset and one setting",
                fix="another --results for another setting",
            )


def _methods(parts: Sequence[Part], block: str) -> dict[str, Pooled]:
    names = dict.fromkeys(row["name"] for row in parts[0]["rows"] if row["block"] == block)
    return {name: Pooled(parts, block, name) for name in names}


def _probe_of(methods: Mapping[str, Pooled]) -> Pooled:
    return next(method for name, method in methods.items() if name.startswith(PROBE))


def _table(methods: Mapping[str, Pooled], classes: Sequence[str]) -> str:
    head = ["", "slices learnt", "accuracy", "macro-F1", *(f"recall {name}" for name in classes), "patients right"]
    rows = []
    for name, method in methods.items():
        bounds, (right, around) = method.bounds, method.of_patients()
        recalls = [_cell(method.recall(one), bounds["per_class"][one]["sensitivity"]) for one in classes]
        rows.append(
            [
                f"**{name}**" if name in (WINNER, REFITTED) else name,
                f"{method.learnt:,}",
                _cell(method.number(lambda summary: summary["accuracy"]), bounds["accuracy"]),
                _cell(method.number(lambda summary: summary["macro_f1"]), bounds["macro_f1"]),
                *recalls,
                _cell(right, around),
                _cell(method.ece("before")),
                _cell(method.ece("after")),
                None if method.minutes is None else f"{method.minutes:.1f}",
            ]
        )
    return table([*head, "ECE before", "ECE behind", "minutes"], rows)


def _aims(ours: Pooled, probe: Pooled) -> list[Aim]:
    accuracy, f1 = (ours.number(lambda summary, name=name: summary[name]) for name in ("accuracy", "macro_f1"))  # type: ignore[misc]
    base = probe.number(lambda summary: summary["accuracy"])
    assert accuracy is not None and base is not None
    low_high = ours.beyond(probe)
    aims = [
        Aim(f"at least {ACCURACY:.0%} of the slices right", f"{accuracy:.1%}", accuracy >= ACCURACY),
        Aim(f"macro-F1 at least {MACRO_F1}", _cell(f1) or "–", f1 is not None and f1 >= MACRO_F1),
        Aim(
            f"at least {100 * BEYOND_PROBE:.0f} points above the {PROBE} that learnt from the same slices",
            f"{100 * (accuracy - base):.1f} points"
            + (f" ({100 * low_high[0]:.1f} to {100 * low_high[1]:.1f})" if low_high else ""),
            accuracy - base >= BEYOND_PROBE,
        ),
    ]
    error = ours.ece("after")
    aims.append(
        Aim(
            f"calibration error at most {ECE} behind temperature",
            _cell(error) or "–",
            error is not None and error <= ECE,
        )
    )
    if RARE in ours.classes:
        recall = ours.recall(RARE)
        aims.insert(
            2, Aim(f"recall of {RARE} at least {RECALL}", _cell(recall) or "–", recall is not None and recall >= RECALL)
        )
    return aims


def _winners(parts: Sequence[Part]) -> str:
    names = list(parts[0]["trials"][0]["params"])
    rows = []
    for part in parts:
        best = part["trials"][0]
        values = [f"{value:.2g}" if isinstance(value, float) else value for value in best["params"].values()]
        minutes = part["minutes"]
        clock = ", ".join(f"{name} {minutes[name]:.0f}" for name in minutes)
        rows.append([f"{part['fold']}, {part['seed']}", *values, f"{best['macro_f1']:.3f}", clock])
    return table(["fold, seed", *names, "macro-F1, where it was chosen", "minutes on the clock"], rows)


def _slices(part: Part, row: Mapping[str, Any]) -> Slices:
    """Make a slice of each count again: of its patient, and sure of the class that was given."""
    labels, given, patients = [], [], []
    for index, (label, counts, _) in enumerate(row["patients"]):
        for answer, count in enumerate(counts):
            labels += [label] * count
            given += [answer] * count
            patients += [_patient(part, index)] * count
    return _votes(part, labels, given, patients)


def _verdicts(part: Part, row: Mapping[str, Any]) -> Slices:
    labels, given = [each[0] for each in row["patients"]], [each[2] for each in row["patients"]]
    return _votes(part, labels, given, [_patient(part, index) for index in range(len(labels))])


def _votes(part: Part, labels: Sequence[int], given: Sequence[int], patients: Sequence[str]) -> Slices:
    return Slices(np.array(labels, np.int64), np.eye(len(part["classes"]))[np.array(given, np.int64)], patients)


def _patient(part: Part, index: int) -> str:
    return f"{part['fold']}/{index:05}"


def _gaps(some: Sequence[tuple[Part, Mapping[str, Any]]], when: str) -> Any:
    found = [row["gaps"][when] for _, row in some]
    return None if None in found else np.sum(found, axis=0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _cell(value: float | None, bounds: Sequence[float] | None = None) -> str | None:
    if value is None:
        return None
    return f"{value:.3f}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
