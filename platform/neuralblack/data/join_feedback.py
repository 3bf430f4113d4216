"""Join what readers said to a dataset: slices that are learnt from, and never validated or tested on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import LEARNT_ONLY, NO_BOX, Dataset, Row, open_dataset, write_dataset
from neuralblack.data.duplicates import groups, near_duplicates
from neuralblack.data.feedback import Feedback, check_key, keyed, list_feedback, pixels_hash, read_feedback
from neuralblack.data.patients import GROUP, has_id, is_named
from neuralblack.data.shards import by_shard
from neuralblack.errors import InputError
from neuralblack.files import new_folder

SOURCE = "feedback"
OTHERWISE = "prepared otherwise than the dataset"
DISAGREE = "of which readers say different things"
REPLACED = "said anew by the same reader, or of the same slice"
KNOWN = "of a patient of the dataset"
COPY = "that are copies of slices of the dataset"
PIECE = 1024  # slices read at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Opinion:
    """One reader's of one slice."""

    name: str
    feedback: Feedback
    pixels: NDArray[np.uint8]
    hash: str


def join_feedback(folder: Path, dataset: Dataset, out: Path, *, key: bytes) -> Dataset:
    """Write a dataset of all slices of another and of those that readers said something about.

    The other's slices keep their ids, folds and order, so a model trained on the new one is judged by the same slices.
    Left out, and listed in the manifest: slices of a patient of the dataset, called as in its file or as its folder is,
    and copies of its slices, because either could have the same patient learnt from and tested on, whoever sent such a
    picture and however that one named the patient; those on which readers disagree; those of another size.

    Args:
        folder: what the service kept.
        dataset: to which they are joined.
        out: a new folder.
        key: the service's, of patients' hashes.

    Raises:
        InputError: a file there is not the service's, or was kept by another key; no slice is left, or `out` exists.
    """
    check_key(folder, key)
    if out.exists():
        raise InputError(out, found="something there", expected="a new folder", fix="choose another --out")
    if "feedback" in dataset.manifest:
        raise InputError(
            dataset.path,
            found="a dataset with feedback in it",
            expected="the one that it was joined to",
            fix="join everything anew: the folder has all that was ever said",
        )
    joined_patients = dataset.manifest["duplicates"].get("joined_patients")
    if joined_patients and not dataset.other_names:
        raise InputError(
            dataset.path,
            found=f"{len(joined_patients)} patients who have several names, of which it holds one each",
            expected="all names, so that each is found whatever readers call them",
            fix="prepare it again by the same command, and write its shards elsewhere",
        )
    opinions = [Opinion(path.stem, *_read(path)) for path in list_feedback(folder)]
    kept, left_out = choose(opinions, dataset, key)
    for reason, names in left_out.items():
        if names:
            log.info("left out: %d %s", len(names), reason)
    if not kept:
        raise InputError(
            folder,
            found=f"{len(opinions)} slices, none of which can be learnt from",
            expected="at least one of a new patient on which readers agree",
            fix="see the lines above",
        )
    facts = {
        "sources": [
            *dataset.manifest["sources"],
            {"name": SOURCE, "kind": SOURCE, "files": len(kept), "fold_file_sha256": None, "ignored": []},
        ],
        "rejected": dataset.manifest["rejected"],
        "duplicates": dataset.manifest["duplicates"],
        "feedback": {"to": dataset.hash, "joined": len(kept), "left_out": left_out},
    }
    with new_folder(out) as target:
        with (target / "pixels").open("wb") as file:
            order = _by_shard(dataset)
            for at in range(0, len(order), PIECE):
                rows = order[at : at + PIECE]
                for row, pixels in zip(rows.tolist(), dataset.images[rows], strict=True):
                    file.seek(row * pixels.nbytes)
                    file.write(pixels.tobytes())
            file.seek(dataset.images.nbytes)
            for opinion in kept:
                file.write(opinion.pixels.tobytes())
        table, other_names = [*_rows(dataset), *map(_row, kept)], dataset.other_names
        write_dataset(target, table, target / "pixels", dataset.spec, facts, other_names=other_names)
    return open_dataset(out)


def choose(opinions: Sequence[Opinion], dataset: Dataset, key: bytes) -> tuple[list[Opinion], dict[str, list[str]]]:
    """Choose what is learnt from, one opinion for each slice; the names of the others by reason."""
    left_out: dict[str, list[str]] = {reason: [] for reason in (OTHERWISE, DISAGREE, REPLACED, KNOWN, COPY)}
    opinions = sorted(opinions, key=lambda each: (each.feedback.at, each.name))
    copies, known = _of_dataset(opinions, dataset, key)
    slices: dict[str, dict[str, Opinion]] = {}  # hash of the pixels -> reader -> newest opinion
    for index, opinion in enumerate(opinions):
        if opinion.feedback.preprocessing != dataset.spec:
            left_out[OTHERWISE].append(opinion.name)
        elif index in copies:
            left_out[COPY].append(opinion.name)
        elif index in known:
            left_out[KNOWN].append(opinion.name)
        else:
            of_slice = slices.setdefault(opinion.hash, {})
            if (older := of_slice.pop(opinion.feedback.reader, None)) is not None:
                left_out[REPLACED].append(older.name)
            of_slice[opinion.feedback.reader] = opinion
    agreed: list[Opinion] = []
    for of_slice in slices.values():
        *others, newest = of_slice.values()
        if len({each.feedback.label for each in of_slice.values()}) > 1:
            left_out[DISAGREE] += [each.name for each in of_slice.values()]
        else:
            left_out[REPLACED] += [each.name for each in others]
            agreed.append(newest)
    return agreed, left_out


def _of_dataset(opinions: Sequence[Opinion], dataset: Dataset, key: bytes) -> tuple[set[int], set[int]]:
    """Find which opinions are of copies of the dataset's slices, and which of its patients, those copies included.

    Of one patient are slices that are called so, and near-duplicates, whoever sent them: who is known by one slice is
    known by all. Opinions that are prepared otherwise say so, too.
    """
    pixels = [each.pixels for each in opinions]
    copied = near_duplicates((dataset.images[row] for row in _by_shard(dataset).tolist()), pixels)
    copies = {int(index) for index in copied[:, 1]}
    named = {keyed(key, name) for name in _names(dataset)}
    first: dict[str, int] = {}  # patient -> the first opinion of them
    called = [
        (first.setdefault(each.feedback.patient, index), index)
        for index, each in enumerate(opinions)
        if each.feedback.patient
    ]
    person = groups(len(opinions), [*called, *near_duplicates(pixels)])
    known = {person[i] for i, each in enumerate(opinions) if i in copies or each.feedback.patient in named}
    return copies, {index for index in range(len(opinions)) if person[index] in known}


def _by_shard(dataset: Dataset) -> NDArray[np.int64]:
    """Order all rows so that each shard is fetched once."""
    return by_shard(np.arange(len(dataset)), len(dataset))


def _read(path: Path) -> tuple[Feedback, NDArray[np.uint8], str]:
    feedback, pixels = read_feedback(path)
    return feedback, pixels, pixels_hash(pixels)


def _names(dataset: Dataset) -> set[str]:
    """Collect all names that readers may know the patients by: ids in files, and names of patients' folders.

    Readers don't name source and class, so folders of one name are one here: too many are left out, and nobody too few.
    """
    names = {name for patient in set(dataset.patients) for name in (patient, *dataset.other_names.get(patient, ()))}
    return {name if has_id(name) else name.rpartition("/")[2] for name in names if is_named(name)}


def _rows(dataset: Dataset) -> list[Row]:
    return [
        Row(
            dataset.ids[row],
            dataset.patients[row],
            dataset.labels[row],
            int(dataset.folds[row]),
            dataset.sources[row],
            dataset.source_hashes[row],
            None if tuple(dataset.boxes[row]) == NO_BOX else tuple(dataset.boxes[row].tolist()),
            (int(dataset.shapes[row, 0]), int(dataset.shapes[row, 1])),
        )
        for row in range(len(dataset))
    ]


def _row(opinion: Opinion) -> Row:
    feedback = opinion.feedback
    patient = f"{SOURCE}-{feedback.patient}" if feedback.patient else f"{GROUP}{SOURCE}-{opinion.hash[:12]}"
    side = feedback.preprocessing.size  # the size that it came in was not kept
    name, label = f"{SOURCE}/{opinion.name}", feedback.label
    return Row(name, patient, label, LEARNT_ONLY, SOURCE, opinion.hash, None, (side, side))
