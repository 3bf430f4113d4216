"""Measure the service on one GPU: replicas that share it, beside the bare engine in a loop.

python -m benchmarks.gpu_serve --registry registry --out docs/benchmarks/gpu-serve.md

The configuration is serve_configs/production.yaml's, with a fixed number of replicas. Without a GPU: on the CPU.
"""

import json
import logging
import os
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from benchmarks.contenders import ROOT, TOKEN, Service, Setting, environment
from benchmarks.floor import Floor
from benchmarks.machine import command, describe_machine
from benchmarks.materials import PICTURES, champion, untrained_registry, write_pictures
from benchmarks.rounds import Cell, Plan, measure
from benchmarks.wrk import find_wrk, run_wrk

from neuralblack.cli import run_verb

Row = dict[str, Any]
BATCH, WARM_S = 32, 3.0  # of a replica in production.yaml; of load before the first cell


def main(
    registry: Annotated[Path | None, typer.Option(help="Whose champion is served; none given: untrained.")] = None,
    model: Annotated[str, typer.Option(help="The untrained network.")] = "resnet50",
    replicas: Annotated[str, typer.Option(help="How many share the GPU, in turn.")] = "1,4",
    clients: Annotated[str, typer.Option(help="Concurrent clients.")] = "1,32,128,256",
    kinds: Annotated[str, typer.Option(help="Some of " + ", ".join(PICTURES) + ".")] = "jpeg,png",
    seconds: Annotated[float, typer.Option(min=1, help="Of load in one cell.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Markdown; the raw numbers go beside it as JSON.")] = None,
) -> None:
    """Run every cell for every number of replicas."""
    find_wrk()
    on_gpu = torch.cuda.is_available()
    unit = torch.cuda.get_device_name() if on_gpu else "no GPU"
    facts = [("date", date.today().isoformat()), ("command", command("benchmarks.gpu_serve"))]
    facts += [("GPU", unit), *describe_machine()]
    with tempfile.TemporaryDirectory(prefix="nbb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        where = (registry or untrained_registry(folder, model=model)).resolve()
        found = champion(where)
        pictures = {kind: write_pictures(folder, kind=kind) for kind in kinds.split(",")}
        cells = [Cell(kind, int(count)) for kind in pictures for count in clients.split(",")]
        plan = Plan(cells, rounds=1, seconds=seconds, floor_seconds=2, pictures=pictures)
        setting = Setting(folder, where, found.path, "auto", os.cpu_count() or 1, Path())
        floor = Floor(found.path, "auto", threads=setting.threads, environment=environment(), log=folder / "floor.log")
        try:
            facts += [("model", found.id), ("engine", f"{floor.engine['name']}, {floor.engine['reason']}")]
            rows = [floor_row(floor)]
            for count in map(int, replicas.split(",")):
                config = folder / f"{count}.yaml"
                config.write_text(yaml.safe_dump(shared(count, on_gpu=on_gpu), sort_keys=False), "utf-8")
                rows += serve(Service("ours", replace(setting, config=config)), plan, count)
            rows.append(floor_row(floor))
        finally:
            floor.close()
    text = report(facts, rows)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, "utf-8")
        out.with_suffix(".json").write_text(json.dumps({"facts": dict(facts), "rows": rows}, indent=1) + "\n", "utf-8")


def shared(replicas: int, *, on_gpu: bool) -> dict[str, Any]:
    """Make production.yaml's service one of so many replicas, which share one GPU."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "production.yaml").read_text("utf-8"))
    for application in config["applications"]:
        for deployment in application["deployments"]:
            deployment.pop("autoscaling_config")
            deployment["num_replicas"] = replicas
            deployment["ray_actor_options"]["num_gpus"] = int(100 / replicas) / 100 if on_gpu else 0
    return config


def serve(service: Service, plan: Plan, replicas: int) -> list[Row]:
    """Start the service, warm all its replicas, and measure every cell."""
    kind, (first, *_) = next(iter(plan.pictures.items()))
    media = PICTURES[kind][0]
    service.start(first, kind=media)
    try:
        service.measure_idle()
        run_wrk(service.url, plan.pictures[kind], kind=media, clients=32, seconds=WARM_S, token=TOKEN)
        return [{"replicas": replicas, **measure(service, cell, plan, 0)} for cell in plan.cells]
    finally:
        service.stop()


def floor_row(floor: Floor) -> Row:
    """Measure the bare engine in a loop."""
    rate, _ = floor.measure(batch=BATCH, seconds=2)
    _, one = floor.measure(batch=1, seconds=1)
    return {"replicas": 0, "rate": rate, "one_ms": one}


def report(facts: list[tuple[str, str]], rows: list[Row]) -> str:
    """Write the rows as a table, each beside the mean of the floor before and behind."""
    floors = [row for row in rows if not row["replicas"]]
    floor = sum(row["rate"] for row in floors) / len(floors)
    one = sum(row["one_ms"] for row in floors) / len(floors)
    lines = ["# The service on one GPU", "", "| | |", "|---|---|", *(f"| {name} | {said} |" for name, said in facts)]
    lines += [
        f"| bare engine in a loop, batch {BATCH} | {floor:,.0f} slices/s; {one:.2f} ms for one |",
        "",
        "| replicas | picture | clients | requests/s | of the bare engine | p50 ms | p99 ms | errors | CPU ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['replicas']} | {row['kind']} | {row['clients']} | {row['rate']:,.0f} | {row['rate'] / floor:.2f} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['errors']} | {row['cpu_ms']:.2f} |"
        for row in rows
        if row["replicas"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    logging.getLogger("neuralblack").setLevel(logging.WARNING)
    run_verb(lambda: typer.run(main))
