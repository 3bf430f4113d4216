"""A replica's numbers among Ray's metrics, so that a scrape of a node sees every replica on it.

They keep their names, behind Ray's `ray_`, and are gauges there whatever they were: rates and quantiles are of the
numbers, and a histogram's buckets cannot be handed over otherwise. Serve adds the labels application, deployment and
replica.
"""

import math
import os
import threading
from collections.abc import Mapping

from prometheus_client import CollectorRegistry
from ray.serve.metrics import Gauge

from neuralblack.cluster.serve_environment import METRICS

EVERY_S = 5.0  # Ray itself hands on what it has every ten seconds


class RayMetrics:
    """Copies of a registry's numbers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}

    def copy(self) -> None:
        """Copy what the registry says now; a number that is not known yet (NaN) is left out."""
        for family in self._registry.collect():
            for sample in family.samples:
                if not sample.name.endswith("_created") and not math.isnan(sample.value):
                    self._gauge(sample.name, family.documentation, sample.labels).set(sample.value, sample.labels)

    def _gauge(self, name: str, text: str, labels: Mapping[str, str]) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, tuple(labels))
        return self._gauges[name]


def copy_for_ever(registry: CollectorRegistry) -> None:
    """Copy a registry now and then, in a thread of its own; not where Ray has been told to keep no metrics."""
    if os.environ.get(METRICS) == "0":
        return

    def run() -> None:
        metrics, stopped = RayMetrics(registry), threading.Event()
        while not stopped.wait(EVERY_S):
            metrics.copy()

    threading.Thread(target=run, name="ray-metrics", daemon=True).start()
