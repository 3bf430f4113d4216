"""The slices that a report shows, with what the model said of them."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuralblack.data.crops import box_at
from neuralblack.data.dataset import Dataset
from neuralblack.evaluation.closer import Explain

SHOWN = 224  # pixels, the widest a slice is shown


def choose_examples(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    patients: Sequence[str],
    *,
    right: bool,
    count: int,
) -> list[int]:
    """Choose slices worth showing, at most one of a patient; indices into `labels`.

    Of the wrong ones those the model was surest of. Of the right ones, class by class in turn, those nearest the median
    of its confidence: the surest would flatter.
    """
    given, sure = probabilities.argmax(1), probabilities.max(1)
    if not right:
        wrong = np.flatnonzero(given != labels)
        return _one_a_patient(wrong[np.argsort(-sure[wrong], kind="stable")], patients)[:count]
    queues = []
    for label in np.unique(labels):
        mine = np.flatnonzero((given == labels) & (labels == label))
        distance = np.abs(sure[mine] - np.median(sure[mine])) if len(mine) else sure[mine]
        queues.append(_one_a_patient(mine[np.argsort(distance, kind="stable")], patients))
    turns = max((len(queue) for queue in queues), default=0)
    return [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)][:count]


def _one_a_patient(indices: NDArray[np.int64], patients: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for index in indices:
        first.setdefault(patients[index], int(index))
    return list(first.values())


def example(
    dataset: Dataset,
    row: int,
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    kind: str,
    explain: Explain | None = None,
) -> str:
    """Show one slice with its true class, what the model said, and the tumour's box: a <figure> element.

    With `explain` the slice is there once more, under the heat map of the class that the model said.
    """
    pixels, side = dataset.images[row], dataset.spec.size
    given = int(probabilities.argmax())
    shown = _image(Image.fromarray(pixels), f"MRI slice, {dataset.labels[row]}")
    heated = ""
    if explain:
        warm = explain(pixels, classes[given], box_at(dataset.boxes[row]))
        heat = _image(_under_heat(pixels, warm), f"the same under heat for {classes[given]}")
        heated = f'<div class="view">{heat}</div>'
    true = dataset.labels[row]
    says = f"{classes[given]} {100 * probabilities[given]:.0f}%"
    title = true if kind == "right" else f"{true}, taken for {classes[given]}"
    others = ", ".join(
        f"{classes[index]} {100 * probabilities[index]:.0f}%" for index in np.argsort(-probabilities)[1:]
    )
    box = ""
    x0, y0, x1, y1 = (100 * int(edge) / side for edge in dataset.boxes[row])
    if x0 >= 0:
        place = f"left: {x0:.1f}%; top: {y0:.1f}%; width: {x1 - x0:.1f}%; height: {y1 - y0:.1f}%"
        box = f'<div class="box" style="{place}"></div>'
    return (
        f'<figure class="{kind}"><div class="pair"><div class="view">{shown}{box}</div>{heated}</div>'
        f"<figcaption><b>{escape(title)}</b>{escape(says)}; {escape(others)}<br>"
        f"{escape(dataset.ids[row])}</figcaption></figure>"
    )


def _image(picture: Image.Image, words: str) -> str:
    if picture.width > SHOWN:
        picture = picture.resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{b64encode(file.getvalue()).decode()}">'


def _under_heat(pixels: NDArray[np.uint8], heat: NDArray[np.uint8]) -> Image.Image:
    """Colour a slice by a heat map of its size: from black-body red to yellow, the warmer the less of the slice."""
    share = heat[..., None] / 255
    colour = np.stack([np.full(heat.shape, 255.0), 60 + 195.0 * heat / 255, 20 + 60.0 * heat / 255], -1)
    mixed = pixels[..., None] * (1 - 0.6 * share) + 0.6 * share * colour
    return Image.fromarray(mixed.astype(np.uint8))
