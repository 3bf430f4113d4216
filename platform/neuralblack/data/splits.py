"""Split a dataset by patient, and write down which patients went where so that no later step can mix them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import LEARNT_ONLY, Dataset, hashed
from neuralblack.data.sources import ABOVE, FOLDER, NO_PATIENTS, NO_SITES
from neuralblack.errors import InputError
from neuralblack.labels import CLASSES

VERSION = 1
PARTS = ("train", "validation", "test")
SPLIT_JSON = "split.json"  # in a run's folder and in a model's
AGAIN = "train again in a new run folder: neuralblack train DATA RUN"


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a dataset in three parts, each (n,) int64 in ascending order, with no patient in two of them.

    `classes` are those of the training part, in the order of CLASSES; rows of other classes are in no part. `manifest`
    is JSON and rebuilds the split (`load_split`); its patients are hashed. `learnt_only`, where it is there, says
    how many slices of the training part are in no fold; `earlier` whom the weights that a run starts from have seen;
    `other_names` what else patients of each part are called, where pictures they share made several one.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    classes: tuple[str, ...]
    manifest: dict[str, Any]


def folds_of(dataset: Dataset, *, seed: int = 0, count: int = 5) -> NDArray[np.int64]:
    """Return each row's fold, (N,) from 1; 0 is in no fold, LEARNT_ONLY is learnt from whichever folds are.

    The stored folds are the author's or those of near-duplicate groups. Where no row has one, `count` are made by
    scikit-learn's StratifiedGroupKFold: by patient, with the classes' shares kept as well as that allows, from `seed`;
    rows that are only learnt from have no influence on them.

    Raises InputError where there are fewer patients than folds, or fewer slices of every class.
    """
    if _has_folds(dataset):
        return dataset.folds
    rows = np.flatnonzero(dataset.folds != LEARNT_ONLY)
    labels, names = ([values[row] for row in rows] for values in (dataset.labels, dataset.patients))
    patients = len(set(names))
    if patients < count:
        by_folder = [name for name in names if name.startswith(FOLDER)]
        why = [NO_SITES] if any(ABOVE in name for name in by_folder) else [NO_PATIENTS] if by_folder else []
        raise InputError(
            dataset.path,
            found=f"{patients} patients",
            expected=f"at least {count}, one for each fold",
            fix="; ".join(["add scans", *why]),
        )
    most = max(Counter(labels).values())
    if most < count:
        raise InputError(
            dataset.path,
            found=f"at most {most} slices of a class",
            expected=f"at least {count} of one, to make {count} folds",
            fix="add scans",
        )
    from sklearn.model_selection import StratifiedGroupKFold  # half a second, and most datasets bring their folds

    folds = dataset.folds.copy()
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, members) in enumerate(splitter.split(rows, labels, names), start=1):
        folds[rows[members]] = number
    return folds


def make_split(
    dataset: Dataset, *, train: Sequence[int] | None, validation: Sequence[int], test: Sequence[int], seed: int = 0
) -> Split:
    """Split by folds: `train` None takes every fold that is in neither of the others. A part but train may be empty.

    Rows that are only learnt from are in the training part, whichever folds are.

    Raises InputError where parts share a fold or a patient, a fold has no slices, or train has fewer than two classes.
    """
    folds = folds_of(dataset, seed=seed)
    present = sorted(set(folds[folds > 0].tolist()))
    if train is None:
        train = [fold for fold in present if fold not in (*validation, *test)]
    wanted = {"train": sorted(set(train)), "validation": sorted(set(validation)), "test": sorted(set(test))}
    _check_folds(wanted, present)
    chosen = wanted | {"train": [*wanted["train"], LEARNT_ONLY]}
    rows = {part: np.flatnonzero(np.isin(folds, numbers)) for part, numbers in chosen.items()}
    people = {part: {dataset.patients[row] for row in rows[part]} for part in PARTS}
    _check_apart(people, where=dataset.path, fix="prepare the dataset anew: neuralblack prepare SCANS --out DATA")
    classes = _classes(dataset, rows["train"])
    kept = {part: _of_classes(dataset, rows[part], classes) for part in PARTS}
    manifest = {
        "version": VERSION,
        "dataset": dataset.hash,
        "seed": seed,
        "classes": list(classes),
        "parts": {part: {"folds": wanted[part], **_facts(dataset, kept[part])} for part in PARTS},
        "left_out": {
            "in_no_fold": int(np.count_nonzero(folds == 0)),
            **{f"{part}_of_other_classes": len(rows[part]) - len(kept[part]) for part in PARTS[1:]},
        },
    }
    if others := {part: names for part in PARTS if (names := _other_names(dataset, kept[part]))}:
        manifest["other_names"] = others
    learnt_only = int(np.count_nonzero(folds[kept["train"]] == LEARNT_ONLY))
    if learnt_only:
        manifest["learnt_only"] = learnt_only
    return Split(kept["train"], kept["validation"], kept["test"], classes, manifest)


def load_split(manifest: Mapping[str, Any], dataset: Dataset, *, where: object = SPLIT_JSON) -> Split:
    """Rebuild a split from its manifest; `where` is its file, for errors.

    Raises InputError for another dataset, a shared patient, or a changed file.
    """
    parts = _patients(manifest, where=where)
    if manifest.get("dataset") != dataset.hash:
        raise InputError(
            dataset.path,
            found=f"dataset {dataset.hash[:12]}",
            expected=f"dataset {str(manifest.get('dataset'))[:12]}, of which the split was made",
            fix=f"use that dataset, or {AGAIN}",
        )
    _check_apart(parts, where=where, fix=AGAIN)
    names = [hashed(patient) for patient in dataset.patients]
    in_a_fold = dataset.folds != 0 if _has_folds(dataset) else np.ones(len(dataset), bool)
    classes = tuple(name for name in CLASSES if name in manifest["classes"])
    rows = {}
    for part, patients in parts.items():
        mine = np.flatnonzero(in_a_fold & np.array([name in patients for name in names]))
        rows[part] = _of_classes(dataset, mine, classes)
        if len(rows[part]) != manifest["parts"][part].get("slices"):
            raise InputError(
                f"{where}, {part}",
                found=f"{len(rows[part])} slices of its patients",
                expected=f"{manifest['parts'][part].get('slices')} as it says",
                fix=f"the file was changed: {AGAIN}",
            )
    return Split(rows["train"], rows["validation"], rows["test"], classes, dict(manifest))


def start_behind(split: Split, dataset: Dataset, earlier: Mapping[str, Any], *, weights: str) -> Split:
    """Let a run start from a model that learnt before: whom that one has seen counts as seen by the run, too.

    Args:
        split: of the run.
        dataset: of the split.
        earlier: the manifest of the split that the model was trained on.
        weights: where the model's are, for errors.

    Raises:
        InputError: a patient that the model learnt from would be validated or tested on, or one that it was chosen by
            tested on.
    """
    seen = _seen(earlier, where=f"the split of weights {weights}")
    for part, of in (("validation", ("train",)), ("test", ("train", "validation"))):
        asked = _called(dataset, getattr(split, part))
        shared = _known(asked, set().union(*(seen[name] for name in of)))
        if shared:
            raise InputError(
                f"weights {weights}",
                found=f"a model that has seen {len(shared)} of the {len(asked)} patients of the {part} part",
                expected="validation and test folds without a patient that it learnt from, test without one it was "
                "chosen by",
                fix="--set validation_folds and test_folds to those of its run, or start from other weights",
            )
    kept = {part: sorted(seen[part]) for part in ("train", "validation")}
    return replace(split, manifest=split.manifest | {"earlier": kept})


def refuse_overlap(
    manifest: Mapping[str, Any],
    dataset: Dataset,
    rows: Sequence[int] | NDArray[np.int64],
    *,
    where: object = SPLIT_JSON,
) -> None:
    """Refuse to evaluate on patients a model was trained on or chosen by; raises InputError with how many.

    Patients are told by their hashed ids, all that each has, so this works for another dataset of the same people too.

    Args:
        manifest: of the model's split.
        dataset, rows: what shall be evaluated on.
        where: the manifest's file, for errors.
    """
    seen = _seen(manifest, where=where)
    asked = _called(dataset, rows)
    for part in ("train", "validation"):
        shared = _known(asked, seen[part])
        if shared:
            raise InputError(
                dataset.path,
                found=f"{len(shared)} of {len(asked)} patients that are in the model's {part} part",
                expected="patients the model has not seen and was not chosen by",
                fix="evaluate on the test fold of its split, or on another dataset",
            )


def _has_folds(dataset: Dataset) -> bool:
    return bool((dataset.folds > 0).any())


def _check_folds(wanted: Mapping[str, Sequence[int]], present: Sequence[int]) -> None:
    known = ", ".join(map(str, present)) or "none"
    for index, part in enumerate(PARTS):
        unknown = sorted(set(wanted[part]) - set(present))
        if unknown:
            raise InputError(
                f"{part} folds",
                found=f"{', '.join(map(str, unknown))}, in which there is no slice",
                expected=f"of the folds {known}",
                fix=f"choose among these: --set {part}_folds=[{present[0] if present else ''}]",
            )
        for other in PARTS[index + 1 :]:
            shared = sorted(set(wanted[part]) & set(wanted[other]))
            if shared:
                raise InputError(
                    f"{part} and {other} folds",
                    found=f"fold {', '.join(map(str, shared))} in both",
                    expected="parts that do not overlap",
                    fix="take it from one of them",
                )
    if not wanted["train"]:
        raise InputError(
            "train folds", found="none", expected=f"at least one of the folds {known}", fix="leave some for training"
        )


def _check_apart(patients: Mapping[str, Collection[str]], *, where: object, fix: str) -> None:
    for index, part in enumerate(PARTS):
        for other in PARTS[index + 1 :]:
            shared = len(set(patients[part]) & set(patients[other]))
            if shared:
                raise InputError(
                    f"{where}, {part} and {other}",
                    found=f"{shared} patients in both",
                    expected="parts that do not overlap",
                    fix=fix,
                )


def _classes(dataset: Dataset, train: NDArray[np.int64]) -> tuple[str, ...]:
    there = {dataset.labels[row] for row in train}
    if len(there) < 2:
        raise InputError(
            "the training part",
            found=f"only {', '.join(there)}",
            expected="at least two classes to tell apart",
            fix="train on more folds, or prepare more classes",
        )
    return tuple(name for name in CLASSES if name in there)


def _of_classes(dataset: Dataset, rows: NDArray[np.int64], classes: Collection[str]) -> NDArray[np.int64]:
    return np.array([row for row in rows if dataset.labels[row] in classes], np.int64)


def _facts(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, object]:
    labels = [dataset.labels[row] for row in rows]
    return {
        "slices": len(rows),
        "patients": sorted(_whose(dataset, rows)),
        "per_class": {name: labels.count(name) for name in CLASSES if name in labels},
    }


def _whose(dataset: Dataset, rows: Sequence[int] | NDArray[np.int64]) -> set[str]:
    return {hashed(dataset.patients[row]) for row in rows}


def _called(dataset: Dataset, rows: Sequence[int] | NDArray[np.int64]) -> dict[str, set[str]]:
    """Say whose rows are, hashed, and under which hashed names each is known, this one among them."""
    together = dataset.manifest.get("duplicates", {}).get("joined_patients", ())
    joined = {name: set(names) for names in together for name in names}
    return {patient: joined.get(patient, {patient}) for patient in _whose(dataset, rows)}


def _other_names(dataset: Dataset, rows: NDArray[np.int64]) -> list[str]:
    called = _called(dataset, rows)
    return sorted(set().union(*called.values()) - called.keys())


def _known(called: Mapping[str, set[str]], seen: set[str]) -> list[str]:
    return [patient for patient, names in called.items() if names & seen]


def _seen(manifest: Mapping[str, Any], *, where: object) -> dict[str, set[str]]:
    """List the hashed names of each part's patients, those of the weights that the run started from among them."""
    more = (manifest.get("earlier", {}), manifest.get("other_names", {}))
    patients = _patients(manifest, where=where)
    return {part: mine.union(*(each.get(part, ()) for each in more)) for part, mine in patients.items()}


def _patients(manifest: Mapping[str, Any], *, where: object) -> dict[str, set[str]]:
    """Read a manifest's hashed patients by part; raises InputError where it is none of this version."""
    try:
        if manifest["version"] != VERSION:
            raise KeyError("version")
        return {part: set(manifest["parts"][part]["patients"]) for part in PARTS}
    except (KeyError, TypeError):
        raise InputError(
            where,
            found=f"version {manifest.get('version')} or missing parts",
            expected=f"a split of version {VERSION} with {', '.join(PARTS)}",
            fix=AGAIN,
        ) from None
