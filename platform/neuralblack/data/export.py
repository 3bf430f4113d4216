"""A prepared dataset as an image database that other tools read: a folder for each class, a PNG for each slice."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from neuralblack.data.crops import MARGIN, around
from neuralblack.data.dataset import Dataset, refuse_inside
from neuralblack.data.shards import by_shard
from neuralblack.errors import InputError
from neuralblack.files import new_folder

TABLE = "slices.csv"
LONGEST = 200  # bytes of an id in a file's name, which may have 255 with number and suffix
COLUMNS = ("file", "id", "label", "patient", "fold", "source")


def export(
    dataset: Dataset,
    out: Path,
    *,
    roi: bool = False,
    margin: float = MARGIN,
    progress: Callable[[int, int], None] | None = None,
) -> Counter[str]:
    """Write every slice as OUT/<class>/<id>.png, (S, S) or the crop's shape, 8 bit grey, and OUT/slices.csv of all.

    Args:
        dataset: what to write, as it was prepared: upright, square, grey values stretched.
        out: a new folder; it appears when it is whole.
        roi: cut to the outlined tumour, a square no smaller than its box with `margin`; slices without a box are left
            out, and with them all of "no tumour".
        margin: around the box, as a share of its longer side.
        progress: called with slices done and slices in all.

    Returns:
        How many slices were written of each class.

    Raises:
        InputError: `out` is there already, or lies in the dataset's folder; or no slice has a box to cut to.

    """
    refuse_inside(out, dataset)
    if out.exists():
        raise InputError(out, found="something there already", expected="a new folder", fix="choose another name")
    rows = np.flatnonzero(dataset.boxes[:, 0] >= (0 if roi else -1))
    if not len(rows):
        raise InputError(
            dataset.path, found="no slice with an outlined tumour", expected="some to cut to", fix="leave --crop out"
        )
    names = _names(dataset)
    with new_folder(out) as folder:
        for label in {dataset.labels[row] for row in rows}:
            (folder / _plain(label)).mkdir()
        for done, row in enumerate(rows[by_shard(rows, len(dataset))].tolist(), start=1):
            pixels = np.asarray(dataset.images[row])
            if roi:
                x0, y0, x1, y1 = around(tuple(dataset.boxes[row].tolist()), margin, side=len(pixels))
                pixels = pixels[y0:y1, x0:x1]
            Image.fromarray(np.ascontiguousarray(pixels)).save(folder / names[row])
            if progress:
                progress(done, len(rows))
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in rows.tolist():
                about = (dataset.labels[row], dataset.patients[row], dataset.folds[row], dataset.sources[row])
                writer.writerow([names[row], dataset.ids[row], *about])
    return Counter(dataset.labels[row] for row in rows)


def _names(dataset: Dataset) -> list[str]:
    """Name each slice's file after its id, with its number where two ids are spelt alike or one is cut."""
    whole = [_plain(id_) for id_ in dataset.ids]
    short = [name.encode()[:LONGEST].decode(errors="ignore") for name in whole]
    plain = [f"{_plain(label)}/{name}" for label, name in zip(dataset.labels, short, strict=True)]
    counts = Counter(name.casefold() for name in plain)  # some file systems know no capitals
    numbered = [counts[name.casefold()] > 1 or short[row] != whole[row] for row, name in enumerate(plain)]
    return [f"{name}{f'~{row}' if numbered[row] else ''}.png" for row, name in enumerate(plain)]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "slice"
