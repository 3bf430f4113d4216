"""What costs more than one look at each slice: how a model bears disturbances, and whether it looks at the tumour.

Measured on some of the judged slices, spread over the classes and patients, because each of them is classified some
thirty times more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.crops import box_at
from neuralblack.data.dataset import Dataset
from neuralblack.data.slices import Box
from neuralblack.evaluation.disturbances import DISTURBANCES, disturb
from neuralblack.metrics import calibration_error

Rows = NDArray[np.int64]
Classify = Callable[[NDArray[np.uint8]], NDArray[np.floating]]  # (N, S, S) -> (N, K)
# A slice (S, S), a class, the box of its tumour -> (S, S), 255 where most
Explain = Callable[[NDArray[np.uint8], str, Box | None], NDArray[np.uint8]]


def sample_of_classes(labels: NDArray[np.int64], patients: Sequence[str], *, most: int, seed: int = 0) -> Rows:
    """Choose `most` slices at most, class by class in turn, of each a patient's first before another's second.

    Returns:
        (M,) indices, ascending.

    """
    order = np.random.default_rng(seed).permutation(len(labels))
    turn_of: dict[str, int] = {}
    turns = np.zeros(len(labels), np.int64)  # which of its patient's slices one is, in the order drawn
    for index in order:
        turns[index] = turn_of[patients[index]] = turn_of.get(patients[index], -1) + 1
    place = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        place[mine[np.argsort(turns[mine], kind="stable")]] = np.arange(len(mine))
    return np.sort(order[np.argsort(place[order], kind="stable")][:most])


def measure_robustness(classify: Classify, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Classify slices as they are, and disturbed by every row of DISTURBANCES at every strength.

    Args:
        classify: the model.
        images: (N, S, S).
        labels: (N,) class numbers.

    Returns:
        slices: N; undisturbed: {accuracy, ece}; disturbed: name -> strength -> {accuracy, ece}.

    """
    passes = [(name, strength) for name, row in DISTURBANCES.items() for strength in row.strengths]
    disturbed: dict[str, dict[str, Any]] = {name: {} for name in DISTURBANCES}
    found = {"slices": len(labels), "undisturbed": _worth(classify(images), labels), "disturbed": disturbed}
    for name, strength in passes:
        changed = np.stack([disturb(image, name, strength, seed=index) for index, image in enumerate(images)])
        disturbed[name][strength] = _worth(classify(changed), labels)
    return found


def measure_pointing(explain: Explain, dataset: Dataset, rows: Rows) -> dict[str, dict[str, Any]]:
    """Ask of slices with an outlined tumour whether the heat map of their true class points into its box.

    The pointing game counts maps whose largest value lies in the box (Zhang et al., 2018, "Top-down neural attention by
    excitation backprop"); the mass is the share of the heat that does. The box's share of the picture is what a map
    that knows nothing would have of both.

    Returns:
        class -> slices, pointing, mass, box (all shares); only classes with a box among the rows.

    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in (int(row) for row in rows if dataset.boxes[row][0] >= 0):
        heat = explain(dataset.images[row], dataset.labels[row], box_at(dataset.boxes[row])).astype(np.float64)
        found.setdefault(dataset.labels[row], []).append(pointing(heat, dataset.boxes[row]))
    return {
        label: {"slices": len(each), **dict(zip(("pointing", "mass", "box"), np.mean(each, 0).tolist(), strict=True))}
        for label, each in sorted(found.items())
    }


def pointing(heat: NDArray[np.floating], box: Sequence[int] | NDArray[np.int64]) -> tuple[float, float, float]:
    """Compare one map (S, S) with a box (x0, y0, x1, y1), half-open: hit (0 or 1), mass inside, share of the picture.

    A map of zeros hits nothing.

    >>> heat = np.zeros((4, 4))
    >>> heat[1, 2], heat[3, 3] = 3, 1
    >>> pointing(heat, (2, 1, 4, 3))
    (1.0, 0.75, 0.25)
    """
    x0, y0, x1, y1 = (int(edge) for edge in box)
    whole = float(heat.sum())
    inside = np.zeros(heat.shape, bool)
    inside[y0:y1, x0:x1] = True
    if not whole:
        return 0.0, 0.0, float(inside.mean())
    return float(inside.ravel()[heat.argmax()]), float(heat[inside].sum() / whole), float(inside.mean())


def _worth(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> Mapping[str, float]:
    right = probabilities.argmax(1) == labels
    return {"accuracy": float(right.mean()), "ece": calibration_error(labels, probabilities)}
