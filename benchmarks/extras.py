"""Rows besides the rounds: paced arrivals at 70% of capacity, a crowd of 512, memory."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.aims import OURS, median_of
from benchmarks.clients import Sample, run_crowd, run_paced
from benchmarks.contenders import TOKEN, Service
from benchmarks.materials import PICTURES
from benchmarks.processes import memory_mib, role
from benchmarks.rounds import Plan, Records

SHARE = 0.7  # of capacity
CROWD = 512


def paced_row(
    service: Service, pictures: Sequence[Path], *, kind: str, capacity: float, seconds: float, even: bool
) -> dict[str, Any]:
    """Offer 70% of what it can, whether it keeps up or not: latencies from the time a request was due.

    wrk is a closed loop, which slows down with the service; so this client is paced. Evenly is how wrk2 and most load
    tools pace; at random (Poisson) is how independent users come, and queues arise from chance alone.
    """
    rate = SHARE * capacity
    bodies = [path.read_bytes() for path in pictures]
    samples = run_paced(service.url, bodies, kind=PICTURES[kind][0], rate=rate, seconds=seconds, even=even, token=TOKEN)
    service.drain()
    return {
        "service": service.name,
        "arrivals": "evenly" if even else "at random",
        "offered": rate,
        **latencies_ms(samples),
        "statuses": statuses(samples),
    }


def crowd_row(service: Service, pictures: Sequence[Path], *, kind: str, seconds: float) -> dict[str, Any]:
    """Let 512 clients come at once, each again as soon as it is answered, or when a 429 says so."""
    bodies = [path.read_bytes() for path in pictures]
    samples = run_crowd(service.url, bodies, kind=PICTURES[kind][0], clients=CROWD, seconds=seconds, token=TOKEN)
    service.drain()
    refused = [sample.latency_s for sample in samples if sample.status == 429]
    return {
        "service": service.name,
        "clients": CROWD,
        "statuses": statuses(samples),
        "longest_429_s": max(refused, default=0.0),
        **latencies_ms([sample for sample in samples if sample.status == 200]),
    }


def latencies_ms(samples: Sequence[Sample]) -> dict[str, float]:
    """p50, p99 and the longest, in milliseconds; zeros where there are none."""
    values = [1e3 * sample.latency_s for sample in samples] or [0.0]
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": max(values), "count": len(samples)}


def statuses(samples: Sequence[Sample]) -> dict[str, int]:
    """How often each status came; 0 is a broken connection."""
    return {str(status): count for status, count in sorted(Counter(sample.status for sample in samples).items())}


def memory_rows(service: Service) -> list[dict[str, Any]]:
    """Memory of a service behind its load, by what its processes are; the last row is the sum."""
    totals: dict[str, list[float]] = {}
    for pid in service.pids():
        rss, pss = memory_mib(pid)
        row = totals.setdefault(role(pid), [0, 0, 0])
        totals[role(pid)] = [row[0] + 1, row[1] + rss, row[2] + pss]
    totals["all"] = [sum(column) for column in zip(*totals.values(), strict=True)] if totals else [0, 0, 0]
    return [
        {"service": service.name, "part": part, "processes": int(count), "rss_mib": rss, "pss_mib": pss}
        for part, (count, rss, pss) in totals.items()
    ]


def answers_to(service: Service, plan: Plan) -> dict[str, int]:
    """Post every picture once: how often each status was answered. A gate that refuses them would make it easy."""
    found = Counter[str]()
    for kind, paths in plan.pictures.items():
        for path in paths:
            answer = service.answer(path, kind=PICTURES[kind][0])
            found["none" if answer is None else str(answer.get("status", "ok"))] += 1
    return dict(found)


def measure_extras(services: Sequence[Service], plan: Plan, records: Records) -> dict[str, Any]:
    """Measure what needs another client than wrk, of those that are not stopped between the rounds."""
    few = [cell for cell in plan.cells if cell.clients <= 32]
    cell = max(few or plan.cells, key=lambda cell: (cell.kind == "jpeg", cell.clients))
    rows: dict[str, Any] = {"paced": [], "crowd": [], "memory": [], "capacity": str(cell), "answers": {}}
    pictures = plan.pictures[cell.kind]
    for service in services:
        capacity = median_of(records.of(service.name, cell, "rate"))
        if service.contender.between == "stopped" or not capacity:
            continue
        service.resume()
        rows["answers"][service.name] = answers_to(service, plan)
        rows["memory"] += memory_rows(service)
        if service.name != "eager":
            for even in (True, False):
                seconds = 3 * plan.seconds
                row = paced_row(service, pictures, kind=cell.kind, capacity=capacity, seconds=seconds, even=even)
                rows["paced"].append(row)
                plan.say(
                    f"  {service.name} at 70%, {row['arrivals']}: p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f} ms"
                )
        if service.name == OURS:
            row = crowd_row(service, pictures, kind=cell.kind, seconds=2 * plan.seconds)
            rows["crowd"].append(row)
            plan.say(f"  {service.name} with {row['clients']} clients: {row['statuses']}")
        service.pause()
    return rows
