import numpy as np
import pytest

from neuralblack.evaluation.baselines import BASELINES, FRAME, THUMBNAIL, frames, line, majority, nearest, nearest_size


def test_majority_gives_all_the_shares_of_training():
    shares = majority(np.zeros((3, 1)), np.array([1, 1, 0]), np.zeros((2, 1)), 3)

    assert np.allclose(shares, [[1 / 3, 2 / 3, 0]] * 2)


def test_size_only_knows_what_came_in_a_size_or_in_the_nearest_ones():
    sizes = np.array([[512.0, 512], [512, 512], [256, 256], [100, 60]])
    asked = np.array([[256.0, 256], [512, 512], [40, 60], [384, 384]])

    shares = nearest_size(sizes, np.array([0, 1, 2, 0]), asked, 3)

    assert np.allclose(shares, [[0, 0, 1], [0.5, 0.5, 0], [1, 0, 0], [1 / 3] * 3])
    assert nearest_size(sizes, np.array([0, 1, 2, 0]), asked[:0], 3).shape == (0, 3)


def test_the_nearest_answers_with_its_class():
    train = np.array([[0.0, 0], [10, 0], [0, 10]], np.float32)
    test = np.array([[1.0, 1], [9, 2], [2, 8], [8, 1]], np.float32)

    assert nearest(train, np.array([0, 1, 2]), test, 3).argmax(1).tolist() == [0, 1, 2, 1]
    assert nearest(train, np.array([0, 1, 2]), test[:0], 3).shape == (0, 3)


def test_a_line_separates_what_a_line_separates():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = np.eye(3)[labels] * 4 + rng.normal(0, 0.5, (120, 3))

    probabilities = line(features[::2], labels[::2], features[1::2], 3)

    assert probabilities.shape == (60, 3)
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == labels[1::2]).all()


def test_a_line_gives_a_class_it_never_saw_no_probability():
    probabilities = line(np.array([[0.0], [1.0]]), np.array([0, 2]), np.array([[0.5]]), 3)

    assert probabilities[0, 1] == 0
    assert probabilities.sum() == pytest.approx(1)


def test_a_frame_sees_the_edge_and_nothing_else(dataset):
    from dataclasses import replace

    rows = np.arange(4)
    inner, images = FRAME * dataset.spec.size // THUMBNAIL, dataset.images[rows].copy()
    images[:, inner:-inner, inner:-inner] = 255
    filled = replace(dataset, images=images)
    seen = frames(dataset, rows)

    assert seen.shape == (4, THUMBNAIL**2 - (THUMBNAIL - 2 * FRAME) ** 2)
    assert np.array_equal(frames(filled, rows), seen)
    images[:, 0, 0] = 255
    assert not np.array_equal(frames(filled, rows), seen)


def test_every_baseline_takes_and_gives_what_it_should(dataset):
    labels = np.arange(40) % 4

    for name, row in BASELINES.items():
        features = row.features(dataset, np.arange(60))
        shares = row.fit(features[:40], labels, features[40:], 4)
        assert shares.shape == (20, 4) and np.allclose(shares.sum(1), 1), name
        assert row.votes == (set(np.unique(shares)) <= {0, 1}), name
