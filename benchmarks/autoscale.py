"""Show that the service follows its load: 1 -> N -> 1 replicas under a ramp of clients, and no request fails.

python -m benchmarks.autoscale --out docs/benchmarks

Writes autoscale.svg and autoscale.md. The configuration is serve_configs/production.yaml with what two cores without a
GPU need instead: fractions of a core, seconds instead of minutes between decisions, a target that a few clients reach.
"""

import asyncio
import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from benchmarks.autoscale_report import Record, markdown, plot
from benchmarks.clients import crowd
from benchmarks.contenders import ROOT, TOKEN, free_port
from benchmarks.machine import command, describe_machine
from benchmarks.materials import PICTURES, untrained_registry, write_pictures

from neuralblack.cli import run_verb
from neuralblack.errors import RunError

EACH_S = 0.25  # between two looks at the replicas


def main(
    most: Annotated[int, typer.Option("--replicas", min=2, help="N.")] = 3,
    steps: Annotated[str, typer.Option(help="Clients at each step of the ramp, up and down.")] = "1,4,12,24,12,4,1",
    seconds: Annotated[float, typer.Option(min=1, help="Of each step.")] = 12,
    patience: Annotated[float, typer.Option(help="Seconds more that the peak and the end may wait for replicas.")] = 90,
    model: Annotated[str, typer.Option(help="Untrained: lite0 or resnet50.")] = "lite0",
    engine: Annotated[str, typer.Option(help="A key of neuralblack.inference.engines.ENGINES.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of autoscale.md and autoscale.svg.")] = ROOT / "docs" / "benchmarks",
) -> None:
    """Run the ramp; ends with status 1 where a request failed or the replicas did not follow."""
    from neuralblack.cluster.serve_here import serve_here

    os.environ["NEURALBLACK_TOKEN"] = TOKEN  # production.yaml wants one; replicas inherit it
    counts = [int(step) for step in steps.split(",")]
    with tempfile.TemporaryDirectory(prefix="nbb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        config = scaled_config(most=most, engine=engine)
        path = folder / "autoscale.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        pictures = [picture.read_bytes() for picture in write_pictures(folder, kind="jpeg")]
        record, until = Record(), threading.Event()

        def go(address: str) -> None:
            threading.Thread(target=load, args=(address,), daemon=True).start()

        def load(address: str) -> None:
            try:
                ramp(f"{address}/predict", pictures, counts, record, most=most, seconds=seconds, patience_s=patience)
            except BaseException as error:  # said by the main thread, which must stop the service first
                record.failure = error
            finally:
                until.set()

        registry = untrained_registry(folder, model=model)
        serve_here(path, registry=registry, port=free_port(), ready=go, until=until, deadline_s=300)
    if record.failure:
        raise record.failure
    if not record.clients:
        raise RunError("stopped before the load began")
    finish(record, out, config=config, most=most, model=model)


def scaled_config(*, most: int, engine: str) -> dict[str, Any]:
    """Make the variant of production.yaml."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "production.yaml").read_text("utf-8"))
    (application,) = config["applications"]
    application["args"] |= {"engine": engine, "decoders": 1}
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"] = {"num_cpus": 0.5}  # a thread each
    deployment["user_config"] = {"max_batch_size": 8}
    deployment["autoscaling_config"] = {
        "min_replicas": 1,
        "max_replicas": most,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 2,
        "downscale_delay_s": 6,
        "look_back_period_s": 2,
        "metrics_interval_s": 0.5,
    }
    return config


def ramp(
    url: str, pictures: list[bytes], counts: list[int], record: Record, *, most: int, seconds: float, patience_s: float
) -> None:
    """Load the service step by step, looking at its replicas all the while."""
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(record, done), daemon=True)
    record.start = time.monotonic()
    record.replicas.append((0.0, 1, 1))  # the service is ready, with min_replicas
    watcher.start()
    try:
        for at, count in enumerate(counts):
            record.clients.append((time.monotonic() - record.start, count))
            end = time.monotonic() + seconds
            wanted = most if at == counts.index(max(counts)) else 1 if at == len(counts) - 1 else None

            def over(end: float = end, wanted: int | None = wanted) -> bool:
                """A replica takes seconds to start, on a busy machine a minute: the peak and the end wait for it."""
                now, (_, running, every) = time.monotonic(), record.replicas[-1]
                there = wanted is None or (running == wanted and every == running)
                return now >= end and (there or now >= end + patience_s)

            run = crowd(
                url,
                pictures,
                kind=PICTURES["jpeg"][0],
                clients=count,
                until=over,
                keep=record.samples.append,
                token=TOKEN,
            )
            asyncio.run(run)
    finally:
        done.set()
        watcher.join(10)


def watch(record: Record, done: threading.Event) -> None:
    """Note how many replicas run; in the process that started Ray, so `serve.status` asks the controller itself."""
    from ray import serve

    while not done.wait(EACH_S):
        deployments = next(iter(serve.status().applications.values())).deployments
        states = next(iter(deployments.values())).replica_states
        counts = {getattr(state, "value", state): count for state, count in states.items()}
        at = time.monotonic() - record.start
        record.replicas.append((at, counts.get("RUNNING", 0), sum(counts.values())))


def finish(record: Record, out: Path, *, config: dict[str, Any], most: int, model: str) -> None:
    """Write plot and numbers; raises RunError where the run shows something else than it should."""
    statuses = Counter(sample.status for sample in record.samples)
    running = [count for _, count, _ in record.replicas]
    out.mkdir(parents=True, exist_ok=True)
    plot(record, out / "autoscale.svg")
    facts = [("date", date.today().isoformat()), ("command", command("benchmarks.autoscale")), *describe_machine()]
    facts.append(("model", f"{model}, untrained"))
    (out / "autoscale.md").write_text(markdown(record, facts, config["applications"][0]["deployments"][0]), "utf-8")
    print(
        f"replicas {running[0]} -> {max(running)} -> {running[-1]}; statuses {json.dumps(statuses)}; {out}/autoscale.md"
    )
    if set(statuses) != {200}:
        raise RunError(f"not every request was answered: {dict(statuses)}")
    if max(running) < most or running[-1] != 1:
        raise RunError(f"the replicas went to {max(running)} and ended at {running[-1]}; expected {most} and 1")


if __name__ == "__main__":
    logging.getLogger("neuralblack").setLevel(logging.WARNING)
    run_verb(lambda: typer.run(main))
