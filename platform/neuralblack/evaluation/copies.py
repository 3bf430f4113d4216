"""Copies of learnt slices among those to be judged: the same file, or a near-duplicate of it, under another name.

Patient ids tell apart people of one archive, and `data.splits` keeps them apart. They say nothing where a slice names
no patient, and little between archives: 2,345 of the 2,764 tumour images of one popular set are Cheng's own slices.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset
from neuralblack.data.duplicates import near_duplicates
from neuralblack.data.patients import has_id, pixel_hashes
from neuralblack.data.shards import by_shard
from neuralblack.errors import InputError

NAMED = 5  # copies that an error names

Rows = NDArray[np.int64]


def find_copies(learnt: Dataset, learnt_rows: Rows, judged: Dataset, judged_rows: Rows) -> Rows:
    """Find rows to be judged that are copies of slices that were learnt from; ascending.

    Within one dataset near-duplicates whose patients both have ids in the files of one source, and so are known to be
    two people, are no copies, unless they are the same pixels: at the threshold of `data.duplicates` 26 of two million
    such pairs of the figshare archive look alike. Between sources, as between datasets, all count.
    """
    hashes = {learnt.source_hashes[row] for row in learnt_rows} - {""}
    same = {int(row) for row in judged_rows if judged.source_hashes[row] in hashes}
    learnt_rows, judged_rows = _in_order(learnt, learnt_rows), _in_order(judged, judged_rows)
    pixels = set(pixel_hashes(_images(learnt, learnt_rows)))
    found = zip(judged_rows, pixel_hashes(_images(judged, judged_rows)), strict=True)
    same |= {int(row) for row, hash_ in found if hash_ in pixels}

    def who_says(dataset: Dataset, row: int) -> str | None:
        return dataset.sources[row] if learnt.hash == judged.hash and has_id(dataset.patients[row]) else None

    sayers = {
        who_says(dataset, row) for dataset, rows in ((learnt, learnt_rows), (judged, judged_rows)) for row in rows
    }
    if sayers and (len(sayers) > 1 or None in sayers):
        for left, right in near_duplicates(_images(learnt, learnt_rows), _images(judged, judged_rows)):
            sayer = who_says(learnt, learnt_rows[left])
            if sayer is None or sayer != who_says(judged, judged_rows[right]):
                same.add(int(judged_rows[right]))
    return np.array(sorted(same), np.int64)


def refuse_copies(judged: Dataset, copies: Rows, asked: int) -> None:
    """Raise InputError where there are copies, naming some."""
    if len(copies):
        names = ", ".join(judged.ids[row] for row in copies[:NAMED]) + (", ..." if len(copies) > NAMED else "")
        raise InputError(
            judged.path,
            found=f"{len(copies)} of {asked} slices that are copies of slices the model learnt from: {names}",
            expected="slices that the model has not seen under another name",
            fix="--skip-copies leaves them out and lists them; or remove them and prepare again",
        )


def _in_order(dataset: Dataset, rows: Rows) -> Rows:
    """Sort rows so that those of a shard come together."""
    return rows[by_shard(rows, len(dataset))]


def _images(dataset: Dataset, rows: Rows) -> Iterator[NDArray[np.uint8]]:
    return (dataset.images[int(row)] for row in rows)
