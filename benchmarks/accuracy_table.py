"""The accuracy benchmark's table, put together from parts: all test slices of a seed pooled, seeds averaged."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.accuracy_part import FIRST, MARKED, REFITTED, SECOND, WINNER
from benchmarks.aims import Aim
from benchmarks.report import aims_table, table

from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import DRAWS, differences
from neuralblack.evaluation.crossval_table import averaged
from neuralblack.evaluation.patients import Slices
from neuralblack.metrics import error_of

Part = Mapping[str, Any]
RARE = "meningioma"  # the class that simpler means miss most
PROBE = "linear probe"
ACCURACY, MACRO_F1, RECALL, ECE, BEYOND_PROBE = 0.96, 0.95, 0.90, 0.03, 0.10  # the aims

OUTLINES = (
    "The network is shown the tumour alone, cut by what a human has drawn around it, also on the tested slices. Who "
    "draws it has found it already; so this model is in no search, has no aim, and is never the champion."
)


class Pooled:
    """A method's answers over all parts of a table: `slices` of all folds, once for each seed, and what they come to.

    A fold that has fewer seeds than another is there again with those that it has, so that every fold counts once.

    `answers` and `patients` are what `crossval_table.averaged` says of slices, and of patients by their verdicts.
    """

    def __init__(self, parts: Sequence[Part], block: str, name: str) -> None:
        self.name, self.classes = name, parts[0]["classes"]
        rows = [(part, row) for part in parts for row in part["rows"] if (row["block"], row["name"]) == (block, name)]
        by_fold: dict[int, list[tuple[Part, Mapping[str, Any]]]] = {}
        for part, row in rows:
            by_fold.setdefault(part["fold"], []).append((part, row))
        seeds = max(map(len, by_fold.values()))
        by_seed = [[of[seed % len(of)] for of in by_fold.values()] for seed in range(seeds)]
        self.slices = [Slices.together([_slices(*each) for each in some]) for some in by_seed]
        patients = [Slices.together([_verdicts(*each) for each in some]) for some in by_seed]
        self.answers, self.patients = averaged(self.slices, self.classes), averaged(patients, self.classes)
        self._rows = [row for some in by_seed for _, row in some]
        known = [row["minutes"] for _, row in rows if row["minutes"] is not None]
        self.minutes = float(np.mean(known)) if known else None
        self.learnt = round(float(np.mean([row["learnt"] for row in self._rows])))

    def ece(self, when: str) -> float | None:
        """Average the models' calibration errors `before` or `after` temperature, by how many slices each judged.

        Not of all slices together: there a model that is too sure and one that is not sure enough come out calibrated.
        None where nothing is a probability.
        """
        gaps = [row["gaps"][when] for row in self._rows]
        if None in gaps:
            return None
        slices = sum(sum(counts) for row in self._rows for _, counts, *_ in row["patients"])
        return error_of(np.array(gaps), slices)

    def beyond(self, other: "Pooled") -> list[float] | None:
        """Bound how much more accurate it is than another, the mean over seeds, over the same patients."""
        return differences(*zip(self.slices, other.slices, strict=True))["accuracy"]


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
        f"`{' '.join(settings['overrides'])}`. Test slices of all folds are pooled and seeds averaged, each fold "
        "counting once; in brackets 95% intervals, bootstrap over patients as the dataset tells them apart, "
        f"{DRAWS:,} draws. ECE is the calibration error before and behind the temperature, which is fitted on the fold "
        "that chose: of each fold's model by itself, then averaged (of some 600 slices it lies above the true one). "
        "Minutes are of one worker, per part; the search's are of all its trials.",
    ]
    for block, methods in blocks.items():
        lines += ["", f"## Learnt from {block}", "", _table(methods, classes)]
    if marked := _methods(parts, MARKED):
        lines += ["", "## With a human's outline: no comparison with the tables above", "", OUTLINES, ""]
        lines += [_table(marked, classes)]
    aims = _aims(blocks[SECOND][REFITTED], _probe_of(blocks[SECOND]))
    lines += ["", "## Aims, for the winner's recipe", "", aims_table(aims)]
    lines += ["", "## What the searches chose", "", _winners(parts)]
    lines += ["", "## Where and when each part came to its end", "", *map(_made, parts)]
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
        answers, bounds = method.answers, method.answers["intervals"]
        recalls = [_cell(answers["sensitivity"][one], bounds["per_class"][one]["sensitivity"]) for one in classes]
        rows.append(
            [
                f"**{name}**" if name in (WINNER, REFITTED) else name,
                f"{method.learnt:,}",
                _cell(answers["accuracy"], bounds["accuracy"]),
                _cell(answers["macro_f1"], bounds["macro_f1"]),
                *recalls,
                _cell(method.patients["accuracy"], method.patients["intervals"]["accuracy"]),
                _cell(method.ece("before")),
                _cell(method.ece("after")),
                None if method.minutes is None else f"{method.minutes:.1f}",
            ]
        )
    return table([*head, "ECE before", "ECE behind", "minutes"], rows)


def _aims(ours: Pooled, probe: Pooled) -> list[Aim]:
    accuracy, macro_f1 = ours.answers["accuracy"], ours.answers["macro_f1"]
    beyond, bounds = accuracy - probe.answers["accuracy"], ours.beyond(probe)
    around = f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})" if bounds else ""
    aims = [
        Aim(f"at least {ACCURACY:.0%} of the slices right", f"{accuracy:.1%}", accuracy >= ACCURACY),
        Aim(f"macro-F1 at least {MACRO_F1}", f"{macro_f1:.3f}", macro_f1 >= MACRO_F1),
    ]
    if RARE in ours.classes:
        recall = ours.answers["sensitivity"][RARE]
        aims.append(Aim(f"recall of {RARE} at least {RECALL}", f"{recall:.3f}", recall >= RECALL))
    aims.append(
        Aim(
            f"at least {100 * BEYOND_PROBE:.0f} points above the {PROBE} that learnt from the same slices",
            f"{100 * beyond:.1f} points{around}",
            beyond >= BEYOND_PROBE,
        )
    )
    error = ours.ece("after")
    assert error is not None, "a network's answers are probabilities"
    aims.append(Aim(f"calibration error at most {ECE} behind temperature", f"{error:.3f}", error <= ECE))
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


def _made(part: Part) -> str:
    facts = part.get("made")  # not there in parts measured before 2026-12-01
    said = "; ".join(f"{name}: {value}" for name, value in facts.items()) if facts else "not recorded"
    return f"- fold {part['fold']}, seed {part['seed']}: {said}"


def _slices(part: Part, row: Mapping[str, Any]) -> Slices:
    """Make a slice of each count again: of its patient, and sure of the class that was given."""
    labels, given, patients = [], [], []
    for (label, counts, *_), patient in zip(row["patients"], _patients(part, row), strict=True):
        for answer, count in enumerate(counts):
            labels += [label] * count
            given += [answer] * count
            patients += [patient] * count
    return _votes(part, labels, given, patients)


def _verdicts(part: Part, row: Mapping[str, Any]) -> Slices:
    labels, given = [each[0] for each in row["patients"]], [each[2] for each in row["patients"]]
    return _votes(part, labels, given, _patients(part, row))


def _votes(part: Part, labels: Sequence[int], given: Sequence[int], patients: Sequence[str]) -> Slices:
    return Slices(np.array(labels, np.int64), np.eye(len(part["classes"]))[np.array(given, np.int64)], patients)


def _patients(part: Part, row: Mapping[str, Any]) -> list[str]:
    """Name the patient of each verdict, so that one with slices of two classes is drawn with both.

    Parts measured before 2026-12-01 kept no numbers: there each verdict is taken for a patient's only one.
    """
    numbers = [each[3] if len(each) > 3 else index for index, each in enumerate(row["patients"])]
    return [f"{part['fold']}/{number:05}" for number in numbers]


def _cell(value: float | None, bounds: Sequence[float] | None = None) -> str | None:
    if value is None:
        return None
    return f"{value:.3f}" + (f" ({bounds[0]:.3f}–{bounds[1]:.3f})" if bounds else "")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
