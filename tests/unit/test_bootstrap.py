"""Intervals: as wide as the number of patients says, whatever the number of slices, and of the numbers themselves."""

import math

import numpy as np
import pytest

from neuralblack.evaluation.bootstrap import differences, drawn_weights, intervals, scores
from neuralblack.evaluation.patients import VERDICTS, Slices
from neuralblack.metrics import summarise

CLASSES = ("glioma", "meningioma", "pituitary")


def judged(patients=100, each=10, seed=1, skill=1.0):
    """Slices of made-up patients; the slices of one are all alike, and there are ties."""
    random = np.random.default_rng(seed)
    labels = np.arange(patients) % 3
    logits = skill * np.eye(3)[labels] + np.random.default_rng(7).normal(size=(patients, 3)).round(1)
    logits += 0.05 * random.normal(size=(patients, 3)).round(1)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = [f"patient {number}" for number in np.repeat(np.arange(patients), each)]
    return Slices(np.repeat(labels, each), np.repeat(shares, each, axis=0), names)


def test_the_interval_of_a_share_is_that_of_the_patients_and_not_of_their_slices():
    slices = judged()

    low, high = intervals(slices, classes=CLASSES)["accuracy"]

    share = (slices.probabilities.argmax(1) == slices.labels).mean()
    error = math.sqrt(share * (1 - share) / 100)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < share < high


@pytest.mark.parametrize("certainty", [None, 0.1])
def test_weighted_numbers_are_those_of_slices_drawn_so_often(certainty):
    slices = judged(patients=12, each=3)
    if certainty:  # few values, so that many are equal
        rounded = (slices.probabilities / certainty).round() * certainty + 1e-3
        slices = Slices(slices.labels, rounded / rounded.sum(1, keepdims=True), slices.patients)
    (weights,) = drawn_weights(slices.patients, draws=5)

    found = scores(slices.labels, slices.probabilities, weights)

    for draw in range(5):
        rows = np.repeat(np.arange(len(slices.labels)), weights[draw].astype(int))
        expected = summarise(slices.labels[rows], slices.probabilities[rows], CLASSES)
        named = {name: value for name, value in expected.items() if name in found}
        for index, label in enumerate(CLASSES):
            named |= {f"{name}/{index}": value for name, value in expected["per_class"][label].items()}
        assert named.keys() >= found.keys()
        for name, values in found.items():
            value = math.nan if named[name] is None else named[name]
            assert values[draw] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_the_same_seed_gives_the_same_interval_in_whatever_order_the_slices_come():
    slices = judged(patients=20)
    order = np.random.default_rng(3).permutation(len(slices.labels))
    mixed = Slices(slices.labels[order], slices.probabilities[order], [slices.patients[index] for index in order])

    first, again = (intervals(one, classes=CLASSES, draws=200) for one in (slices, mixed))

    assert first["macro_f1"] == pytest.approx(again["macro_f1"])
    assert first == intervals(slices, classes=CLASSES, draws=200)


def test_what_went_wrong_nowhere_has_no_interval():
    found = intervals(judged(patients=9, skill=100.0), classes=CLASSES, draws=200)

    assert found["accuracy"] is None and found["macro_f1"] is None
    assert found["per_class"]["glioma"]["sensitivity"] is None


def test_the_interval_of_a_calibration_error_holds_the_true_one():
    random, held, error = np.random.default_rng(5), 0, 0.02
    for _ in range(60):
        top = random.uniform(0.6, 0.95, 270)
        right = random.random(270) < top - error
        shares = np.stack([top, 1 - top], 1)
        slices = Slices((~right).astype(np.int64), shares, [str(patient) for patient in np.arange(270) // 6])
        low, high = intervals(slices, classes=CLASSES[:2], draws=300)["ece"]
        held += low <= error <= high
        assert low <= summarise(slices.labels, shares, CLASSES[:2])["ece"] <= high

    assert held >= 0.85 * 60  # percentiles hold it in none: they lie above it


def test_one_patient_shows_no_interval():
    assert intervals(judged(patients=1), classes=CLASSES)["accuracy"] is None


def test_a_class_that_few_draws_can_show_has_no_interval():
    slices = judged(patients=3, each=2)
    one_class = Slices(np.zeros(6, np.int64), slices.probabilities, slices.patients)

    found = intervals(one_class, classes=CLASSES, draws=100)

    assert found["per_class"]["glioma"]["specificity"] is None
    assert found["per_class"]["glioma"]["sensitivity"] is not None


def test_two_models_are_compared_on_the_same_patients():
    ours, theirs = judged(seed=1), judged(seed=2)  # nearly the same mistakes

    paired = differences((ours, theirs))["accuracy"]
    alone = intervals(ours, classes=CLASSES)["accuracy"]

    assert paired[1] - paired[0] < 0.5 * (alone[1] - alone[0])
    assert differences((ours, ours))["accuracy"] == [0, 0]
    assert differences((ours, theirs), (theirs, ours))["accuracy"] == [0, 0]  # of two seeds the mean
    better = differences((judged(skill=3.0), theirs))
    assert better["accuracy"][0] > 0 > better["log_loss"][1]


def test_one_patient_shows_no_difference():
    one = judged(patients=1)

    assert set(differences((one, one)).values()) == {None}


def test_each_verdict_joins_a_patients_slices_as_it_says():
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    slices = Slices(np.zeros(3, np.int64), shares, ["a"] * 3)

    found = {name: slices.by_patient(name).probabilities[0, 0] for name in VERDICTS}

    odds = (0.9 * 0.4 * 0.35 / (0.1 * 0.6 * 0.65)) ** (1 / 3)
    assert found == pytest.approx(
        {"mean logit": odds / (1 + odds), "mean probability": 0.55, "vote": 1 / 3, "surest slice": 0.9}
    )
