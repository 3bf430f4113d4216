"""Intervals: as wide as the number of patients says, whatever the number of slices."""

import numpy as np
import pytest

from neuralblack.evaluation.bootstrap import interval


def test_an_interval_of_a_mean_is_that_of_the_patients_and_not_of_their_slices():
    random = np.random.default_rng(1)
    values = np.repeat(random.normal(size=100), 10)  # ten equal slices of each patient
    patients = [str(number // 10) for number in range(1000)]

    low, high = interval(lambda rows: float(values[rows].mean()), patients)

    error = values[::10].std() / 10
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < values.mean() < high


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(20.0)
    patients = [str(number // 2) for number in range(20)]

    assert interval(lambda rows: values[rows].mean(), patients) == interval(lambda rows: values[rows].mean(), patients)
