"""Say whose each slice is and which fold it is in, also where the files do not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import hashed
from neuralblack.data.duplicates import groups, near_duplicates
from neuralblack.data.sources import FOLDER
from neuralblack.errors import InputError

FOLDS = 5
GROUP, BETWEEN = "group-", "between-"  # open the names of groups, of one fold or of none


@dataclass(frozen=True)
class Known:
    """What is known of one slice: `patient` None where neither its file nor a folder names one, `fold` None without a
    fold file, 0 in no fold.
    """

    id: str
    hash: str
    label: str
    patient: str | None
    fold: int | None
    source: str = ""


@dataclass
class Assignment:
    """Patient and fold of every slice, and what the manifest says of near-duplicates (ids, patients as hashes).

    `other_names` has the other names of each patient of several, who share pictures.
    """

    patients: list[str]
    folds: list[int]
    notes: dict[str, object] = field(default_factory=dict)
    other_names: dict[str, list[str]] = field(default_factory=dict)


def assign(slices: Sequence[Known], images: NDArray[np.uint8]) -> Assignment:
    """Give every slice a patient and a fold, so that no patient and no picture is in two folds.

    A slice with a patient keeps it, but patients who share a picture are one under one of their names: those whose ids
    one source has in its files share the same pixels (their near-duplicates are other people's), all others a
    near-duplicate, also those that folders name: collections keep copies in folders of their own. Of
    slices without an id, near-duplicates are one group, and a group is a patient; where it also resembles a slice of a
    known patient, it is that patient's. A group that resembles patients of two folds is in no fold (0).

    Folds are the author's where there is a fold file; for the others a hash of the patient, so that they stay when
    slices are added. Where fold files put joined patients into two folds, the fold of most of their slices holds, and
    the slices of another are in no fold: no file is contradicted, nobody is in two folds, and fewest slices are lost.
    Where patients are named and there is no fold file, all get 0: `splits` makes folds then, as large as each other;
    but not where a group resembles several of them.

    Args:
        slices: N slices in any order; the outcome for each does not depend on it.
        images: (N, S, S) uint8, preprocessed.

    Raises:
        InputError: a fold file puts one patient into two folds.
    """
    _known_folds(slices)  # what a fold file says is checked before patients are joined
    pairs = _pairs(slices, images)
    slices, other_names, moved = _joined(slices, pairs)
    fold_of = _known_folds(slices)
    with_id = [slice_.patient is not None for slice_ in slices]
    patients = [slice_.patient or "" for slice_ in slices]
    group_of = groups(len(slices), [pair for pair in pairs if not (with_id[pair[0]] or with_id[pair[1]])])
    members: dict[int, list[int]] = {}
    for index, group in enumerate(group_of):
        if not with_id[index]:
            members.setdefault(group, []).append(index)
    resembled: dict[int, set[str]] = {}
    for left, right in pairs:
        for without, other in ((left, right), (right, left)):
            if not with_id[without] and (patient := slices[other].patient) is not None:
                resembled.setdefault(group_of[without], set()).add(patient)

    between = moved
    for group, indices in members.items():
        known = sorted(resembled.get(group, ()))
        name = known[0] if known else f"{GROUP}{min(slices[index].hash for index in indices)[:12]}"
        if len({fold_of[patient] for patient in known}) > 1:
            name = f"{BETWEEN}{min(slices[index].hash for index in indices)[:12]}"
            fold_of[name] = 0
            between += [slices[index].id for index in indices]
        for index in indices:
            patients[index] = name
    together = ([name, *others] for name, others in other_names.items())
    notes: dict[str, object] = {
        "groups": len(members),
        "largest_group": max(map(len, members.values()), default=0),
        "joined_patients": sorted(sorted(map(hashed, each)) for each in together),
        "took_a_patient": sorted(slices[i].id for group in resembled for i in members[group]),
        "between_folds": sorted(between),
        "under_two_labels": _under_two_labels(slices, pairs),
    }
    # A group that resembles several patients is in the fold of all of them, or in none, of which a split knows nothing.
    apart = all(len(known) < 2 for known in resembled.values())
    by_split = any(with_id) and apart and all(slice_.fold is None for slice_ in slices)
    folds = [0] * len(slices) if by_split else _folds(slices, patients, fold_of)
    return Assignment(patients, folds, notes, other_names)


def is_named(patient: str) -> bool:
    """Tell a patient that a file or a folder named from a group of near-duplicates that stands in for one."""
    return not patient.startswith((GROUP, BETWEEN))


def has_id(patient: str | None) -> bool:
    """Tell a patient whose id is in a file from one whom a folder or a group stands for, or None."""
    return patient is not None and is_named(patient) and not patient.startswith(FOLDER)


def hash_fold(patient: str) -> int:
    """Choose a fold, 1 to 5, by the patient's name alone.

    >>> [hash_fold(name) for name in ("group-a", "group-b", "group-c")]
    [5, 4, 4]
    """
    return 1 + int.from_bytes(sha256(f"fold of {patient}".encode()).digest()) % FOLDS


def pixel_hashes(images: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    """Hash each image's pixels: equal where all of them are."""
    return (sha256(image.tobytes()).digest() for image in images)


def _pairs(slices: Sequence[Known], images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Find pairs of slices that are of one patient by what they show, the smaller index first, in order."""
    first: dict[bytes, int] = {}
    pairs = {(first.setdefault(pixels, index), index) for index, pixels in enumerate(pixel_hashes(images))}
    pairs = {(left, right) for left, right in pairs if left < right}
    told_apart_by = [slice_.source if has_id(slice_.patient) else None for slice_ in slices]
    if len({*told_apart_by, None}) > 2 or None in told_apart_by:  # else all have ids in the files of one source
        near = near_duplicates(images).tolist()
        pairs |= {(a, b) for a, b in near if told_apart_by[a] is None or told_apart_by[a] != told_apart_by[b]}
    return sorted(pairs)


def _joined(
    slices: Sequence[Known], pairs: Sequence[tuple[int, int]]
) -> tuple[list[Known], dict[str, list[str]], list[str]]:
    """Give patients whom pairs connect one name and one fold.

    Returns:
        the slices, the other names of each such patient, and the ids of slices that are in no fold for it.

    """
    names = sorted({slice_.patient for slice_ in slices if slice_.patient is not None})
    names.sort(key=lambda name: not has_id(name))  # the first of a group names it
    number = {name: index for index, name in enumerate(names)}
    of_patients = [(slices[left].patient, slices[right].patient) for left, right in pairs]
    group_of = groups(len(names), [(number[a], number[b]) for a, b in of_patients if a is not None and b is not None])
    votes: dict[int, Counter[int]] = {group: Counter() for group in group_of}
    together = [None if slice_.patient is None else group_of[number[slice_.patient]] for slice_ in slices]
    for slice_, group in zip(slices, together, strict=True):
        if group is not None and slice_.fold:
            votes[group][slice_.fold] += 1
    fold_of = {group: min(folds, key=lambda fold: (-folds[fold], fold)) for group, folds in votes.items() if folds}
    found, moved = [], []
    for slice_, group in zip(slices, together, strict=True):
        if group is not None:
            otherwise = slice_.fold and slice_.fold != fold_of[group]
            moved += [slice_.id] if otherwise else []
            slice_ = replace(slice_, patient=names[group], fold=0 if otherwise else slice_.fold)
        found.append(slice_)
    others: dict[str, list[str]] = {}
    for name, group in zip(names, group_of, strict=True):
        if name != names[group]:
            others.setdefault(names[group], []).append(name)
    return found, others, moved


def _known_folds(slices: Sequence[Known]) -> dict[str, int]:
    """Give each known patient the author's fold, else a hash; a slice in no fold (0) says nothing of the others."""
    seen: dict[str, tuple[int, str]] = {}
    for slice_ in slices:
        if slice_.patient is None or slice_.fold is None:
            continue
        fold, first = seen.get(slice_.patient, (0, slice_.id))
        if fold and slice_.fold and fold != slice_.fold:
            raise InputError(
                "cvind.mat",
                found=f"{first} in fold {fold} and {slice_.id} of the same patient in fold {slice_.fold}",
                expected="each patient in one fold",
                fix="use the cvind.mat of this archive, or take it away to have folds made by patient",
            )
        seen[slice_.patient] = (fold or slice_.fold, first if fold else slice_.id)
    hashed = {slice_.patient: hash_fold(slice_.patient) for slice_ in slices if slice_.patient is not None}
    return hashed | {patient: fold for patient, (fold, _) in seen.items()}


def _folds(slices: Sequence[Known], patients: Sequence[str], fold_of: dict[str, int]) -> list[int]:
    return [
        slice_.fold if slice_.fold is not None else fold_of.get(patient, hash_fold(patient))
        for slice_, patient in zip(slices, patients, strict=True)
    ]


def _under_two_labels(slices: Sequence[Known], pairs: Sequence[Sequence[int]]) -> list[list[str]]:
    """List near-duplicates that do not agree on the class: one of the two is wrong, or both are the same scan."""
    return [[slices[left].id, slices[right].id] for left, right in pairs if slices[left].label != slices[right].label]
