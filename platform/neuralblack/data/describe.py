"""What is in a dataset, as rows of words for a table."""

from collections import Counter

import numpy as np

from neuralblack.data.dataset import LEARNT_ONLY, Dataset
from neuralblack.data.sources import ABOVE, FOLDER, NO_PATIENTS, NO_SITES, in_several_classes


def describe_dataset(dataset: Dataset) -> list[tuple[str, str]]:
    """List name and value of what a reader wants to know first; no patient's id is among them."""
    spec, facts = dataset.spec, dataset.manifest
    rows = [
        ("dataset", str(dataset.path)),
        ("hash", dataset.hash[:12]),
        ("slices", f"{len(dataset):,} of {spec.size} x {spec.size} pixels, {dataset.images.nbytes / 2**20:.0f} MiB"),
        ("patients", f"{len(set(dataset.patients)):,}"),
    ]
    rows += _by_folder(dataset)
    for name in dataset.classes:
        counts = facts["classes"][name]
        rows.append((name, f"{counts['slices']:,} slices of {counts['patients']:,} patients"))
    rows.append(("folds", _folds(dataset)))
    rows.append(("tumour boxes", f"{np.count_nonzero(dataset.boxes[:, 0] >= 0):,}"))
    rows.append(("preprocessing", f"version {spec.version}, {spec.clip_percent:g}% clipped, {spec.digest[:12]}"))
    for source in facts["sources"]:
        ignored = f", {len(source['ignored'])} other files ignored" if source["ignored"] else ""
        fold_file = source["fold_file_sha256"]
        folds = f", fold file {fold_file[:12]}" if fold_file else ""
        rows.append((f"source {source['name']}", f"{source['files']:,} files ({source['kind']}){folds}{ignored}"))
    rows += [("rejected", rejected["reason"]) for rejected in facts["rejected"]]
    notes = facts["duplicates"]
    if notes.get("groups"):
        text = f"{notes['groups']:,} groups stand in for patients, the largest of {notes['largest_group']:,} slices"
        rows.append(("near-duplicates", text))
    if joined := notes.get("joined_patients"):
        people = sum(map(len, joined))
        rows.append(("near-duplicates", f"{people:,} patients share pictures and are counted as {len(joined):,}"))
    if notes:
        for key, words in (
            ("took_a_patient", "slices resemble one of a known patient and are counted as theirs"),
            ("between_folds", "slices resemble those of patients of another fold and are in no fold"),
            (
                "under_two_labels",
                "near-duplicate pairs have different classes (under_two_labels in manifest.json)",
            ),
        ):
            if notes[key]:
                rows.append(("near-duplicates", f"{len(notes[key]):,} {words}"))
    if feedback := facts.get("feedback"):
        rows.append(("feedback", f"{feedback['joined']:,} slices, joined to the dataset {feedback['to'][:12]}"))
        rows += [("feedback left out", f"{len(ids):,} {reason}") for reason, ids in feedback["left_out"].items() if ids]
    return rows


def _by_folder(dataset: Dataset) -> list[tuple[str, str]]:
    """Say how many patients are known by their folders only, and how many of those names need a look."""
    named = [patient for patient in set(dataset.patients) if patient.startswith(FOLDER)]
    above = sum(ABOVE in patient for patient in named)
    said = []
    if below := len(named) - above:
        said.append(f"{below:,}, named by folders below class folders; {NO_PATIENTS}")
    if above:
        said.append(f"{above:,}, named by folders above class folders; {NO_SITES}")
    if several := in_several_classes(named):
        said.append(
            f"names in several class folders, which count as a patient in each: {several:,}; if these are the same "
            "people, they may be learnt from and tested on: put class folders below theirs, PATIENT/CLASS/slice.png"
        )
    return [("patients by folder", words) for words in said]


def _folds(dataset: Dataset) -> str:
    counts = sorted(Counter(dataset.folds.tolist()).items())
    words = {0: "in no fold", LEARNT_ONLY: "only learnt from"}
    if max(counts)[0] <= 0:
        words[0] = "none stored; made by patient when splitting"
    return ", ".join(f"{words.get(fold, fold)}: {count:,}" for fold, count in counts)
