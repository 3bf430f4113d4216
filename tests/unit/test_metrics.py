import json

import numpy as np
import pytest

from neuralblack.metrics import summarise

CLASSES = ("cat", "dog", "owl")


def sure_of(given, count=3, certainty=0.8):
    """Probabilities whose largest is at `given`."""
    rest = (1 - certainty) / (count - 1)
    return np.where(np.arange(count) == np.array(given)[:, None], certainty, rest)


def test_rows_of_the_confusion_matrix_are_true_and_columns_predicted():
    summary = summarise(np.array([0, 0, 0, 1]), sure_of([0, 1, 1, 1]), CLASSES)

    assert summary["confusion"] == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


def test_every_number_is_the_one_worked_out_by_hand():
    # true      0 0 0 0 1 1 1 2 2 2
    # predicted 0 0 0 1 1 1 2 2 2 0
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    summary = summarise(labels, sure_of([0, 0, 0, 1, 1, 1, 2, 2, 2, 0]), CLASSES)

    assert summary["accuracy"] == pytest.approx(7 / 10)
    assert summary["macro_f1"] == pytest.approx((3 / 4 + 2 / 3 + 2 / 3) / 3)
    assert summary["log_loss"] == pytest.approx(-(7 * np.log(0.8) + 3 * np.log(0.1)) / 10)
    cat = summary["per_class"]["cat"]
    assert {key: cat[key] for key in ("slices", "tp", "fp", "fn", "tn")} == {
        "slices": 4,
        "tp": 3,
        "fp": 1,
        "fn": 1,
        "tn": 5,
    }
    assert cat["sensitivity"] == pytest.approx(3 / 4)
    assert cat["specificity"] == pytest.approx(5 / 6)
    assert cat["precision"] == pytest.approx(3 / 4)
    assert cat["f1"] == pytest.approx(3 / 4)
    assert cat["auroc"] == pytest.approx((3 * 5 + 0.5 * 3 * 1 + 0.5 * 1 * 5) / 24)  # pairs in order, ties half


@pytest.mark.parametrize("order", [1, -1])
def test_of_slices_that_a_model_is_equally_sure_of_none_comes_first(order):
    labels = np.array([0] * 50 + [1] * 50)[::order]

    assert summarise(labels, sure_of([0] * 100), CLASSES)["accuracy_at_90"] == pytest.approx(0.5)


def test_auroc_counts_the_pairs_in_the_right_order():
    scores = np.array([0.9, 0.6, 0.7, 0.2])
    summary = summarise(np.array([0, 0, 1, 1]), np.stack([scores, 1 - scores], axis=1), ("cat", "dog"))

    assert summary["per_class"]["cat"]["auroc"] == pytest.approx(3 / 4)
    assert summary["per_class"]["dog"]["auroc"] == pytest.approx(3 / 4)


def test_what_no_slice_can_show_is_none_and_not_zero():
    summary = summarise(np.array([0, 0, 1]), sure_of([0, 1, 1]), CLASSES)
    owl = summary["per_class"]["owl"]

    assert (owl["sensitivity"], owl["precision"], owl["f1"], owl["auroc"]) == (None, None, None, None)
    assert owl["specificity"] == 1.0
    assert summary["macro_f1"] == pytest.approx(2 / 3)  # of the two classes that were there


def test_a_class_that_is_never_found_has_sensitivity_zero():
    summary = summarise(np.array([0, 1]), sure_of([0, 0]), CLASSES)

    assert summary["per_class"]["dog"]["sensitivity"] == 0.0
    assert summary["per_class"]["dog"]["precision"] is None


def test_only_one_class_present_leaves_no_specificity_of_it():
    cat = summarise(np.array([0, 0]), sure_of([0, 0]), CLASSES)["per_class"]["cat"]

    assert (cat["sensitivity"], cat["specificity"], cat["auroc"]) == (1.0, None, None)


def test_no_slices_give_no_numbers():
    summary = summarise(np.zeros(0, np.int64), np.zeros((0, 3)), CLASSES)

    assert (summary["slices"], summary["accuracy"], summary["macro_f1"], summary["log_loss"]) == (0, None, None, None)


@pytest.mark.parametrize("labels", [[], [0], [0, 0, 1], [2, 2]])
def test_result_is_strict_json(labels):
    summary = summarise(np.array(labels, np.int64), sure_of(np.zeros(len(labels), int)), CLASSES)

    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_certain_mistake_costs_much_but_not_infinity():
    loss = summarise(np.array([0]), np.array([[0.0, 1.0, 0.0]]), CLASSES)["log_loss"]

    assert 10 < loss < 1000
