"""What a result must beat: the most frequent class, the most similar thumbnail, a line through frozen features.

A network that is no better than these has learnt no more than where the head lies in the picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.data.shards import by_shard
from neuralblack.metrics import summarise

THUMBNAIL = 32  # pixels on each side
STRENGTH = 0.01  # of the probe's weights against its penalty (C); features outnumber slices


def measure_baselines(
    dataset: Dataset, train: NDArray[np.int64], test: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Measure the baselines that need no network, by name, each as `metrics.summarise` has it.

    Args:
        dataset: the slices.
        train, test: row numbers; a test row whose class is not in `classes` is left out, as in `evaluate`.
        classes: the names that the compared model knows.
    """
    known = np.array([row for row in test if dataset.labels[row] in classes], np.int64)
    usable = np.array([row for row in train if dataset.labels[row] in classes], np.int64)
    y_train, y_test = class_numbers(dataset, usable, classes), class_numbers(dataset, known, classes)
    return {
        "majority class": majority(y_train, y_test, classes),
        "1-NN on thumbnails": nearest_thumbnail(
            _thumbnails(dataset, usable), y_train, _thumbnails(dataset, known), y_test, classes
        ),
    }


def majority(y_train: NDArray[np.int64], y_test: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Give every slice the class that is most frequent in training, with its training frequencies as probabilities."""
    shares = np.bincount(y_train, minlength=len(classes)) / len(y_train)
    return summarise(y_test, np.tile(shares, (len(y_test), 1)), classes)


def nearest_thumbnail(
    thumbnails_train: NDArray[np.float32],
    y_train: NDArray[np.int64],
    thumbnails_test: NDArray[np.float32],
    y_test: NDArray[np.int64],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Give every slice the class of the training slice whose thumbnail is nearest; thumbnails are (N, features).

    Its log_loss and ece are None: a vote is no probability.
    """
    neighbour = KNeighborsClassifier(n_neighbors=1, algorithm="brute").fit(thumbnails_train, y_train)
    given = neighbour.predict(thumbnails_test) if len(thumbnails_test) else np.zeros(0, np.int64)
    return summarise(y_test, np.eye(len(classes))[given], classes) | {"log_loss": None, "ece": None}


def linear_probe(
    features_train: NDArray[np.floating],
    y_train: NDArray[np.int64],
    features_test: NDArray[np.floating],
    *,
    count: int,
) -> NDArray[np.float64]:
    """Fit a logistic regression on a frozen network's pooled features; return its probabilities.

    Args:
        features_train, features_test: (N, F) and (M, F).
        y_train: (N,) class indices.
        count: how many classes there are; one without a training slice gets probability 0.

    Returns:
        (M, count) float64.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    model.fit(features_train, y_train)
    probabilities = np.zeros((len(features_test), count))
    if len(features_test):
        probabilities[:, model.classes_] = model.predict_proba(features_test)
    return probabilities


def _thumbnails(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Shrink the slices of these rows: (len(rows), THUMBNAIL**2) float32."""
    small = np.empty((len(rows), THUMBNAIL**2), np.float32)
    for index in by_shard(rows, len(dataset)):
        picture = Image.fromarray(dataset.images[rows[index]]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        small[index] = np.asarray(picture, np.float32).ravel()
    return small
