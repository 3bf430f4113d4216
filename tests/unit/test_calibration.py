"""Calibration: a temperature that is known is found, sets hold the truth as often as they promise."""

import numpy as np
import pytest

from neuralblack.inference.calibration import cross_fitted_error, fit_sets, fit_temperature, in_set, softmax
from neuralblack.metrics import calibration_error


def drawn(count, *, classes=3, spread=2.0, seed=0, patients=None):
    """Logits, labels that are drawn from their softmax, so that T = 1 is right, and patients."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (count, classes))
    shares = softmax(logits)
    labels = (shares.cumsum(1) < rng.random((count, 1))).sum(1).clip(0, classes - 1)
    names = np.array([f"p{index % (patients or count)}" for index in range(count)])
    return logits, labels, names


@pytest.mark.parametrize("known", [0.5, 1.0, 3.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(known):
    logits, labels, _ = drawn(20_000)

    assert fit_temperature(logits * known, labels, patients=20_000) == pytest.approx(known, rel=0.05)


def test_the_fitted_temperature_has_the_lowest_loss():
    logits, labels, _ = drawn(300, seed=1)

    def loss(temperature):
        return -np.log(softmax(logits * 2, temperature)[np.arange(300), labels]).mean()

    best = fit_temperature(logits * 2, labels, patients=10**9)
    assert loss(best) <= min(loss(best * 0.98), loss(best * 1.02))


def test_a_network_without_an_error_is_as_sure_as_so_many_patients_allow():
    logits = np.array([[4.0, 0.0], [0.0, 4.0]])

    for patients, share in ((2, 0.875), (18, 0.975), (198, 0.9975)):  # (n + 1) / (n + 2), and half of the rest
        temperature = fit_temperature(logits, np.array([0, 1]), patients=patients)
        assert softmax(logits, temperature)[0, 0] == pytest.approx(share, abs=1e-4)


def test_a_network_that_is_always_wrong_gets_a_bounded_temperature():
    assert fit_temperature(np.array([[4.0, 0.0]]), np.array([1]), patients=1) == pytest.approx(20, rel=1e-3)


def test_the_error_of_calibration_is_the_one_worked_out_by_hand():
    # two slices at 0.9, one right: |0.5 - 0.9|; two at 0.6, both right: |1 - 0.6|; the mean of four slices
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])

    assert calibration_error(np.array([0, 1, 0, 1]), shares) == pytest.approx(0.4)
    assert calibration_error(np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]])) == 0


def test_temperature_lowers_the_error_of_a_network_that_is_too_sure_also_on_other_patients():
    logits, labels, patients = drawn(4_000, patients=100)
    sure = logits * 4

    before = calibration_error(labels, softmax(sure))
    assert cross_fitted_error(sure, labels, patients) < before / 3
    assert cross_fitted_error(sure, labels, np.array(["one"] * 4_000)) is None


def test_sets_hold_the_truth_as_often_as_promised_for_new_patients_with_slices_alike():
    """Slices of a patient share their difficulty, and patients have different numbers of slices."""
    rng = np.random.default_rng(3)

    def some(patients):
        sizes = rng.integers(1, 9, patients)
        hard = rng.random(patients) ** 2
        group = np.repeat(np.arange(patients), sizes)
        truth = rng.integers(0, 3, len(group))
        logits = rng.normal(0, 1, (len(group), 3))
        logits[np.arange(len(group)), truth] += 4 * (1 - hard[group])
        return softmax(logits), truth, group.astype(str)

    def held_by_patient(least):
        shares, truth, names = some(300)
        held = in_set(shares, least)[np.arange(len(truth)), truth]
        return np.mean([held[names == name].mean() for name in np.unique(names)])

    found = np.mean([held_by_patient(fit_sets(*some(60), coverage=0.9)) for _ in range(30)])

    assert 0.89 <= found <= 0.94


def test_too_few_patients_promise_nothing_but_the_set_of_all_classes():
    logits, labels, patients = drawn(400, patients=8)

    least = fit_sets(softmax(logits), labels, patients, coverage=0.9)

    assert least == 0
    assert in_set(softmax(logits), least).all()


def test_a_set_is_never_empty():
    held = in_set(np.array([[0.4, 0.35, 0.25]]), 0.9)

    assert held.tolist() == [[True, False, False]]
