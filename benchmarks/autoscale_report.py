"""The plot and the numbers of a run of benchmarks/autoscale.py."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.clients import Sample
from benchmarks.extras import latencies_ms
from benchmarks.report import table

HEAD = """# Autoscaling: shown

Made by one run of the command below; do not edit. A closed loop of clients, step by step up and down; replicas as Serve
counts them. Replicas share one machine here, so more of them are not faster: what is shown is that Serve
starts and stops them with the load, and that no request is lost while it does.

![Clients, replicas and answered requests over time](autoscale.svg)
"""


@dataclass
class Record:
    """What was seen, in seconds from the start of the load."""

    start: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    replicas: list[tuple[float, int, int]] = field(default_factory=list)  # at, running, of any state
    clients: list[tuple[float, int]] = field(default_factory=list)  # from then on, so many
    failure: BaseException | None = None


def plot(record: Record, path: Path) -> None:
    """Draw clients, replicas, answers a second and failures over time."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "neuralblack", "font.size": 9}):
        figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained")
        end = record.replicas[-1][0]
        at, counts = zip(*record.clients, (end, record.clients[-1][1]), strict=True)
        upper.step(at, counts, where="post", color="tab:grey", label="clients")
        upper.set_ylabel("clients")
        beside = upper.twinx()
        beside.step(
            *zip(*((at, running) for at, running, _ in record.replicas), strict=True), where="post", label="running"
        )
        beside.step(
            *zip(*((at, every) for at, _, every in record.replicas), strict=True),
            where="post",
            linestyle=":",
            label="starting or stopping as well",
        )
        beside.set_ylabel("replicas")
        beside.set_ylim(0, max(every for _, _, every in record.replicas) + 0.5)
        beside.yaxis.get_major_locator().set_params(integer=True)
        lines = [*upper.get_lines(), *beside.get_lines()]
        upper.legend(lines, [line.get_label() for line in lines], loc="upper left")
        seconds = np.arange(int(end) + 1)
        for fine, color, label in ((True, "tab:green", "answered"), (False, "tab:red", "failed")):
            times = [s.at_s + s.latency_s - record.start for s in record.samples if (s.status == 200) == fine]
            lower.plot(
                seconds,
                np.bincount(np.array(times, int), minlength=len(seconds))[: len(seconds)],
                color=color,
                label=label,
            )
        lower.set_ylabel("requests/s")
        lower.set_xlabel("seconds")
        lower.legend(loc="upper left")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def markdown(record: Record, facts: Iterable[tuple[str, str]], deployment: dict[str, Any]) -> str:
    """Write down the steps and when the replicas changed."""
    statuses = Counter(sample.status for sample in record.samples)
    others = sum(count for status, count in statuses.items() if status != 200)
    total = f"{statuses[200]:,} requests answered, {others} failed"
    changes = [record.replicas[0][:2]] + [now[:2] for before, now in pairwise(record.replicas) if now[1] != before[1]]
    parts = [HEAD, table(("", ""), [*facts, ("requests", total)])]
    parts += ["## Replicas", table(("second", "running"), [(f"{at:.1f}", running) for at, running in changes])]
    parts += ["## Steps", table(("clients", "from second", "requests/s", "p50 ms", "p99 ms", "failed"), _steps(record))]
    chosen = {name: deployment[name] for name in ("autoscaling_config", "ray_actor_options", "max_ongoing_requests")}
    parts += ["## Configuration", "production.yaml, with", table(("", ""), [(k, f"`{v}`") for k, v in chosen.items()])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _steps(record: Record) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    ends = [at for at, _ in record.clients[1:]] + [record.replicas[-1][0]]
    for (at, clients), end in zip(record.clients, ends, strict=True):
        within = [sample for sample in record.samples if at <= sample.at_s - record.start < end]
        times = latencies_ms(within)
        failed = sum(sample.status != 200 for sample in within)
        rate = len(within) / max(1e-9, end - at)
        rows.append((clients, f"{at:.1f}", f"{rate:.1f}", f"{times['p50_ms']:.1f}", f"{times['p99_ms']:.1f}", failed))
    return rows
