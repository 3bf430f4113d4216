"""The leak ledger: what a record-wise split adds, and when a result is too good."""

from dataclasses import replace

import numpy as np
import pytest

from neuralblack.config import TrainConfig
from neuralblack.data.splits import make_split
from neuralblack.evaluation.baselines import known_part
from neuralblack.evaluation.leakage import ALARM, alarms, measure_ledger, measure_retrained, record_wise
from neuralblack.evaluation.record_wise import retrain_with


@pytest.fixture(scope="module")
def split(dataset):
    return make_split(dataset, train=None, validation=[4], test=[5])


@pytest.fixture(scope="module")
def ledger(dataset, split):
    train, test = (known_part(dataset, rows, split.classes) for rows in (split.train, split.test))
    return measure_ledger(train, test, split.classes)


def test_each_method_is_measured_on_the_test_part_and_record_wise(ledger, split):
    apart, together = ledger

    assert set(apart) == set(together) == {"majority class", "size only", "frame only", "1-NN on thumbnails"}
    assert all(one["slices"] == len(split.test) for one in apart.values())
    assert apart["1-NN on thumbnails"]["log_loss"] is None and apart["frame only"]["log_loss"] > 0
    assert all(set(one) == {"accuracy", "macro_f1"} for one in together.values())


def test_phantoms_are_no_giveaway_for_thumbnails_of_other_patients(ledger):
    assert ledger[0]["1-NN on thumbnails"]["accuracy"] < 0.8


def test_slices_that_are_copies_of_each_other_show_as_a_gap(dataset):
    """Twelve patients of ten all but equal slices, labels by chance: nothing to learn but who somebody is."""
    random = np.random.default_rng(0)
    heads = random.integers(0, 256, (12, 16, 16)).repeat(4, 1).repeat(4, 2)
    patients, labels = np.repeat(np.arange(12), 10), np.repeat(np.arange(12) % 4, 10)
    images = np.clip(heads[patients] + random.integers(-3, 4, (120, 64, 64)), 0, 255).astype(np.uint8)
    names = [dataset.classes[label] for label in labels]
    shapes = np.full((120, 2), 64)
    copies = replace(dataset, images=images, labels=names, ids=[str(row) for row in range(120)], shapes=shapes)
    train, test = (known_part(copies, np.flatnonzero(rows), dataset.classes) for rows in (patients < 8, patients >= 8))

    apart, together = measure_ledger(train, test, dataset.classes)

    assert together["1-NN on thumbnails"]["accuracy"] > 0.95
    assert apart["1-NN on thumbnails"]["accuracy"] < 0.6


def test_records_are_parted_at_random_into_the_same_sizes():
    train, test = record_wise(80, 20, seed=1)

    assert (len(train), len(test)) == (80, 20)
    assert sorted([*train, *test]) == list(range(100))
    assert not np.array_equal(test, record_wise(80, 20, seed=2)[1])


def test_the_same_recipe_is_trained_on_records(dataset, split, tiny):
    config = TrainConfig(model=tiny, weights="none", epochs=2, batch_size=16, precision="fp32")
    seen = []

    def retrain(*parts):
        seen.extend(parts)
        return retrain_with(config, dataset, split.classes)(*parts)

    parts = (split.train, split.validation, split.test)
    found = measure_retrained(retrain, dataset, parts, split.classes)

    assert [len(part) for part in seen] == [len(part) for part in parts]
    assert sorted(np.concatenate(seen)) == sorted(np.concatenate(parts))
    patients = [{dataset.patients[row] for row in part} for part in seen]
    assert patients[0] & patients[2], "patients are in both, which is the leak"
    assert 0 <= found["accuracy"] <= 1


def test_a_result_too_good_is_an_alarm_with_checks():
    assert alarms({"accuracy": ALARM}) == [] == alarms({"accuracy": None})
    first, *checks = alarms({"accuracy": 0.991})
    assert "99.1%" in first and "look for a leak" in first
    assert any("patient-wise" in check for check in checks)
