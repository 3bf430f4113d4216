"""What a result must beat: the most frequent class, the slice's size, its edge, the most similar thumbnail.

A network that is no better than these has learnt no more than how the scans were exported. Each is a way from slices
to features and a way from features to probabilities, so that every one of them can be asked the same things: on other
patients, and record by record (`leakage`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.data.shards import by_shard

THUMBNAIL = 32  # pixels on each side
FRAME = 3  # pixels of a thumbnail's edge, where no tumour is
STRENGTH = 0.01  # of a line's weights against its penalty (C); features outnumber slices

Rows = NDArray[np.int64]
Features = NDArray[np.floating]
Labels = NDArray[np.int64]
Fit = Callable[[Features, Labels, Features, int], NDArray[np.float64]]


class Part(NamedTuple):
    """Slices of a dataset with their classes' numbers."""

    dataset: Dataset
    rows: Rows
    labels: Labels


class Baseline(NamedTuple):
    """How to see a slice, and how to learn from what is seen.

    `features` gives (R, F) of some rows; `fit` takes (N, F) of the training part, its labels (N,), (M, F) to judge and
    the number of classes K, and gives (M, K) probabilities; where `votes` is set these are 0 or 1, and say nothing of
    certainty.
    """

    features: Callable[[Dataset, Rows], Features]
    fit: Fit
    votes: bool = False


def known_part(dataset: Dataset, rows: Rows, classes: Sequence[str]) -> Part:
    """Take those of the rows whose class is one of `classes`, numbered by them."""
    known = np.array([row for row in rows if dataset.labels[row] in classes], np.int64)
    return Part(dataset, known, class_numbers(dataset, known, classes))


def majority(features: Features, labels: Labels, asked: Features, count: int) -> NDArray[np.float64]:
    """Give every slice the classes' shares in training."""
    return np.tile(np.bincount(labels, minlength=count) / len(labels), (len(asked), 1))


def nearest_size(features: Features, labels: Labels, asked: Features, count: int) -> NDArray[np.float64]:
    """Give every slice the classes' shares among the training slices of its size, or of the nearest sizes there are."""
    sizes, of_row = np.unique(features, axis=0, return_inverse=True)
    counts = np.zeros((len(sizes), count))
    np.add.at(counts, (of_row.ravel(), labels), 1)
    different, of_asked = np.unique(asked, axis=0, return_inverse=True)
    apart = ((different[:, None] - sizes) ** 2).sum(2)
    found = (apart == apart.min(1, keepdims=True)) @ counts
    shares: NDArray[np.float64] = (found / found.sum(1, keepdims=True))[of_asked.ravel()]
    return shares


def nearest(features: Features, labels: Labels, asked: Features, count: int) -> NDArray[np.float64]:
    """Give every slice the class of the training slice whose features are nearest: a vote."""
    if not len(asked):
        return np.zeros((0, count))
    neighbour = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(features, labels)
    votes: NDArray[np.float64] = np.eye(count)[neighbour.predict(asked)]
    return votes


def line(features: Features, labels: Labels, asked: Features, count: int) -> NDArray[np.float64]:
    """Fit a logistic regression; a class without a training slice gets probability 0."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    model.fit(features, labels)
    probabilities = np.zeros((len(asked), count))
    if len(asked):
        probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def thumbnails(dataset: Dataset, rows: Rows) -> NDArray[np.float32]:
    """Shrink slices: (R, THUMBNAIL**2) float32."""
    small = np.empty((len(rows), THUMBNAIL**2), np.float32)
    for index in by_shard(rows, len(dataset)):
        picture = Image.fromarray(dataset.images[rows[index]]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        small[index] = np.asarray(picture, np.float32).ravel()
    return small


def frames(dataset: Dataset, rows: Rows) -> NDArray[np.float32]:
    """Take only the edge of each thumbnail, FRAME pixels wide, where no tumour is: (R, 348) float32."""
    edge = np.ones((THUMBNAIL, THUMBNAIL), bool)
    edge[FRAME:-FRAME, FRAME:-FRAME] = False
    return thumbnails(dataset, rows)[:, edge.ravel()]


BASELINES: Mapping[str, Baseline] = {
    "majority class": Baseline(lambda dataset, rows: np.zeros((len(rows), 1)), majority),
    "size only": Baseline(lambda dataset, rows: dataset.shapes[rows].astype(np.float64), nearest_size),
    "frame only": Baseline(frames, line),
    "1-NN on thumbnails": Baseline(thumbnails, nearest, votes=True),
}
