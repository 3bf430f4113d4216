"""Counts what comes in the bins of what the model learnt from, as metrics that replicas can be added up by."""

from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from neuralblack.data.drift import (
    CONFIDENCE,
    LABEL,
    LEAST,
    REFUSED,
    bin_of,
    stability_index,
    statistics_of,
)
from neuralblack.service.answers import Prediction, pixels_of
from neuralblack.service.meter import Meter

WINDOW = 1000  # slices that the index is of


class Drift:
    """Hears every classified slice: a listener of `build_app`."""

    def __init__(self, reference: Mapping[str, Any], meter: Meter) -> None:
        """Show what is expected.

        Args:
            reference: as `data.drift.fit_reference` describes it.
            meter: gets the counts, the expected shares, and the index of the last WINDOW slices of each statistic.
        """
        self._reference, self._meter = reference, meter
        self._last: dict[str, deque[str]] = {name: deque(maxlen=WINDOW) for name in reference}
        for name, each in reference.items():
            shares = dict(zip(each["bins"], each["shares"], strict=True))
            meter.expect(name, shares, slices=each["slices"], index=partial(self.index, name))

    def __call__(self, question: object, prediction: Prediction) -> None:
        """Count a slice and its answer, a tenth of a millisecond."""
        values: dict[str, float] = statistics_of(pixels_of(question))
        label = prediction.label
        if label and prediction.probabilities:
            values[CONFIDENCE] = prediction.probabilities[label]
        for name, value in values.items():
            if name in self._reference:
                self._count(name, bin_of(value, self._reference[name]["bins"]))
        self._count(LABEL, label or REFUSED)

    def index(self, name: str) -> float:
        """Compute a statistic's stability index over the last slices; NaN while there are fewer than LEAST."""
        last = self._last[name]
        if len(last) < LEAST:
            return float("nan")
        each, counts = self._reference[name], Counter(last)
        return stability_index(each["shares"], [counts[bin_] for bin_ in each["bins"]])

    def _count(self, name: str, bin_: str) -> None:
        self._last[name].append(bin_)
        self._meter.input(name, bin_)
