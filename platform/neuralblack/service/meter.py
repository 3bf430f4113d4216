"""What one replica counts about itself, as Prometheus reads it. Numbers only: nothing here comes from a user's words.

Behind a load balancer each scrape of /metrics meets one replica. On a cluster, `cluster/ray_metrics.py` copies all of
it into Ray's own metrics, where a scrape of a node sees every replica on it.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import ClientDisconnect

from neuralblack.service.answers import Prediction
from neuralblack.service.problems import as_problem

MEDIA_TYPE = CONTENT_TYPE_LATEST
OUR_FAULT = 500  # and the statuses above it
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meter:
    """The counters of one app; hand `batch` to its batcher as well."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()  # its own: two apps in a process don't mix
        self._requests = Counter(
            "neuralblack_requests",
            "Requests by what came of them: ok, refused, or the code of the error.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self._failed = Gauge(
            "neuralblack_last_failure_timestamp_seconds",
            "When a request last failed by our fault, by the code of the error.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self._labels = Counter("neuralblack_labels", "Slices by predicted class.", ["label"], registry=self.registry)
        self._confidence = Histogram(
            "neuralblack_confidence", "Probability of the predicted class.", buckets=SHARES, registry=self.registry
        )
        self._refusals = Counter(
            "neuralblack_refusals", "Refused slices by the code of each reason.", ["reason"], registry=self.registry
        )
        self._decode = Histogram(
            "neuralblack_decode_seconds", "Reading a slice.", buckets=SECONDS, registry=self.registry
        )
        self._model = Histogram(
            "neuralblack_model_seconds",
            "Waiting for the model and its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batches = Summary("neuralblack_batch_slices", "Slices in a forward pass.", registry=self.registry)
        self._batch_seconds = Summary("neuralblack_batch_seconds", "A forward pass.", registry=self.registry)
        self._pending = Gauge("neuralblack_pending", "Slices that are worked on.", registry=self.registry)
        self._shadow = Counter(
            "neuralblack_shadow_slices",
            "Slices by whether the challenger behind this model agrees: agree, differ, dropped, failed.",
            ["outcome"],
            registry=self.registry,
        )
        names = ["statistic", "bin"]
        self._inputs = Counter(
            "neuralblack_input_slices", "Slices in the bins of what was learnt from.", names, registry=self.registry
        )
        self._expected = Gauge(
            "neuralblack_input_expected_share", "Share of what was learnt from.", names, registry=self.registry
        )
        self._reference = Gauge(
            "neuralblack_input_reference", "Slices that the shares are of.", ["statistic"], registry=self.registry
        )
        self._drift = Gauge(
            "neuralblack_drift_psi",
            "Population stability index of the last slices of this replica; NaN while they are few.",
            ["statistic"],
            registry=self.registry,
        )
        self.pending: Callable[[], float] = float  # slices that are worked on; none before `describe`
        self._info = Gauge(
            "neuralblack_model_info", "The model that answers; always 1.", ["name", "version"], registry=self.registry
        )

    def describe(self, *, name: str, version: str, pending: Callable[[], float]) -> None:
        """Say which model this is, and how to look up the slices that are worked on."""
        self._info.labels(name, version).set(1)
        self._pending.set_function(pending)
        self.pending = pending

    def request(self, route: str, outcome: str) -> None:
        """Count a request."""
        self._requests.labels(route, outcome).inc()

    @contextmanager
    def trouble(self, route: str) -> Generator[None, None, None]:
        """Count the request by the error that ends it, if one does."""
        try:
            yield
        except (asyncio.CancelledError, ClientDisconnect):
            self.request(route, "hung_up")
            raise
        except Exception as error:
            problem = as_problem(error)
            self.request(route, problem.code)
            if problem.status >= OUR_FAULT:
                self._failed.labels(route, problem.code).set_to_current_time()
            raise

    def slice(self, prediction: Prediction, *, started: float, decoded: float, again: bool = False) -> None:
        """Count an answered slice; both times are of `perf_counter`, the end is now. Asked `again`, only they count."""
        self._decode.observe(decoded - started)
        self._model.observe(perf_counter() - decoded)
        if again:
            return
        if prediction.label is not None and prediction.probabilities is not None:
            self._labels.labels(prediction.label).inc()
            self._confidence.observe(prediction.probabilities[prediction.label])
        for reason in prediction.reasons:
            self._refusals.labels(reason.code).inc()

    def expect(self, statistic: str, shares: Mapping[str, float], *, slices: int, index: Callable[[], float]) -> None:
        """Show what is expected of a statistic, bin by bin, of how many slices, and how to compute its index."""
        for bin_, share in shares.items():
            self._expected.labels(statistic, bin_).set(share)
        self._reference.labels(statistic).set(slices)
        self._drift.labels(statistic).set_function(index)

    def input(self, statistic: str, bin_: str) -> None:
        """Count a slice in a statistic's bin."""
        self._inputs.labels(statistic, bin_).inc()

    def shadow(self, outcome: str) -> None:
        """Count a slice that the challenger was to answer; called from its thread as well."""
        self._shadow.labels(outcome).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Count a forward pass; called from the model's thread."""
        self._batches.observe(size)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Write all of it down."""
        return generate_latest(self.registry)
