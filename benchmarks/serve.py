"""Measure the service against the bare engine and against other ways to serve the same model, all in one run.

python -m benchmarks.serve --model resnet50 --out docs/benchmarks/serve.md
python -m benchmarks.serve --registry registry --engine openvino-int8 --services eager,uvicorn,ours
"""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from benchmarks.aims import Aim, check_aims
from benchmarks.contenders import CONTENDERS, ROOT, Service, Setting, environment
from benchmarks.empty import EMPTY
from benchmarks.extras import answers_to, measure_extras
from benchmarks.floor import Floor
from benchmarks.machine import Disturbance, busy_cores, command, describe_machine
from benchmarks.materials import MODELS, PICTURES, champion, untrained_registry, write_pictures
from benchmarks.report import markdown
from benchmarks.rounds import Cell, Plan, Records, run_rounds, warm
from benchmarks.wrk import find_wrk

from neuralblack.cli import run_verb
from neuralblack.errors import InputError

CELLS = "jpeg:1,jpeg:8,jpeg:32,jpeg:128,png:8,png:32"
START_S, WARM_S, DRAIN_S = 15, 4, 1.2  # of one service, for the estimate


def main(
    model: Annotated[str, typer.Option(help="Untrained: " + " or ".join(MODELS) + ".")] = "resnet50",
    registry: Annotated[Path | None, typer.Option(help="Serve the champion of this registry instead.")] = None,
    engine: Annotated[str, typer.Option(help="A key of neuralblack.inference.engines.ENGINES.")] = "auto",
    config: Annotated[Path, typer.Option(help="Of the real service.")] = ROOT / "serve_configs" / "local.yaml",
    services: Annotated[str, typer.Option(help="Some of " + ", ".join(CONTENDERS) + ".")] = ",".join(CONTENDERS),
    cells: Annotated[str, typer.Option(help="What is posted and by how many at once.")] = CELLS,
    rounds: Annotated[int, typer.Option(min=1, help="Five or more for intervals that mean something.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, help="Of load in one cell.")] = 5,
    floor_seconds: Annotated[float, typer.Option(min=0.2, help="Of each measurement of the floor.")] = 2,
    empty: Annotated[bool, typer.Option(help="Afterwards all services again, with an empty engine.")] = True,
    empty_cells: Annotated[str, typer.Option(help="Cells of that part.")] = "jpeg:1,jpeg:8,jpeg:32",
    extra: Annotated[bool, typer.Option(help="Also paced arrivals, 512 clients, memory.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Of the floor and the compared services.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Markdown; the raw numbers go beside it as JSON.")] = None,
) -> None:
    """Run everything and print the aims, reached or not."""
    find_wrk()
    sys.stdout.reconfigure(line_buffering=True)  # somebody may be watching a file grow
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services are stopped then, too
    names, wanted, wanted_empty = _names(services), _cells(cells), _cells(empty_cells) if empty else []
    stopped = sum(CONTENDERS[name].between == "stopped" for name in names)
    print(_estimate(names, stopped, wanted, wanted_empty, rounds, seconds, floor_seconds, extra))
    facts = [("date", date.today().isoformat()), ("command", command("benchmarks.serve")), *describe_machine()]
    facts.append(("before the start", f"{busy_cores(seconds=2):.2f} cores busy with other things"))
    disturbance = Disturbance()
    with tempfile.TemporaryDirectory(prefix="nbb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        where = (registry or untrained_registry(folder, model=model, int8="int8" in engine)).resolve()
        found = champion(where)
        setting = Setting(folder, where, found.path, engine, threads, config.resolve())
        facts.append(("model", f"{found.id}{'' if registry else ', untrained'}, engine {engine}, {threads} threads"))
        pictures = {kind: write_pictures(folder, kind=kind) for kind in PICTURES}
        records, nothing, extras = Records(), Records(), dict[str, Any]()

        def save() -> None:
            rows = [*facts, ("services", _idle(extras)), ("meanwhile", disturbance.describe())]
            rows += [(f"{name}'s answers to the pictures", found) for name, found in extras.get("answers", {}).items()]
            if out:
                text = markdown(rows, records, nothing, wanted, wanted_empty, extras, aims_of())
                _write(out, text, {"facts": dict(rows), **asdict(records), "empty": nothing.cells, **extras})

        def aims_of() -> list[Aim]:
            return check_aims(records, wanted, extras, int8="int8" in engine)

        # Saved after every round: what a later one breaks costs no earlier one.
        _measure(
            names, setting, Plan(wanted, rounds, seconds, floor_seconds, pictures, save=save), records, extras, extra
        )
        save()
        if empty:
            bare = untrained_registry(folder / "empty", model=model) if registry else where  # no golden slices to miss
            setting = Setting(folder, bare, champion(bare).path, EMPTY, threads, setting.config)
            print("with an empty engine:")
            plan = Plan(wanted_empty, rounds, min(seconds, 3), 0, pictures, save=save)
            _run([Service(name, setting) for name in names], plan, nothing)
        facts.append(("after the end", f"{busy_cores(seconds=2):.2f} cores busy with other things"))
        save()
        aims = aims_of()
    if out:
        print(f"report {out}")
    for aim in aims:
        print(f"{'reached' if aim.reached else 'MISSED '}  {aim.sentence}: {aim.measured}")


def _write(out: Path, text: str, raw: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, "utf-8")
    out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")


def _measure(
    names: list[str], setting: Setting, plan: Plan, records: Records, extras: dict[str, Any], extra: bool
) -> None:
    """Measure rounds and extras with the real engine."""
    log = setting.folder / "floor.log"
    floor = Floor(setting.model, setting.engine, threads=setting.threads, environment=environment(), log=log)
    try:
        plan.batch, batches = floor.best_batch(seconds=plan.floor_seconds / 4)
        extras |= {"engine": floor.engine["name"], "reason": floor.engine["reason"], "batch": plan.batch}
        extras["batches"] = batches
        print(f"the floor: {floor.engine['name']}, " + ", ".join(f"batch {b} {r:.1f}/s" for b, r in batches.items()))

        services = [Service(name, setting) for name in names]

        def besides() -> None:
            extras["idle"] = {service.name: service.idle_cores for service in services}
            extras["start_s"] = {service.name: service.started_s for service in services}
            if extra:
                extras.update(measure_extras(services, plan, records))

        _run(services, plan, records, floor=floor, besides=besides)
    finally:
        floor.close()


def _run(
    services: list[Service],
    plan: Plan,
    records: Records,
    *,
    floor: Floor | None = None,
    besides: Callable[[], None] | None = None,
) -> None:
    """Start what may run all the time, measure, stop everything whatever happens."""
    kind = plan.cells[0].kind
    try:
        for service in services:
            if service.contender.between == "stopped":
                continue
            service.start(plan.pictures[kind][0], kind=PICTURES[kind][0])
            warm(service, plan)
            service.drain()
            service.measure_idle()
            print(
                f"{service.name}: up after {service.started_s:.0f} s, {service.idle_cores:.2f} cores when idle; "
                f"its answers to the pictures: {answers_to(service, plan)}"
            )
            service.pause()
        run_rounds(services, plan, records, floor)
        if besides:
            besides()
    finally:
        for service in services:
            service.stop()


def _estimate(
    names: Sequence[str],
    stopped: int,
    cells: Sequence[Cell],
    empty_cells: Sequence[Cell],
    rounds: int,
    seconds: float,
    floor_seconds: float,
    extra: bool,
) -> str:
    def part(cells: Sequence[Cell], seconds: float, floor: float) -> float:
        pairs = sum(cell.clients <= CONTENDERS[name].most_clients for name in names for cell in cells)
        each = pairs * (seconds + DRAIN_S) + (len(cells) + 1) * floor + stopped * (START_S + WARM_S)
        return rounds * each + len(names) * (START_S + WARM_S)

    total = part(cells, round(seconds + 0.49), 1.2 * floor_seconds) + 5 * floor_seconds
    total += part(empty_cells, min(3, seconds), 0) if empty_cells else 0
    total += 6 * (3 * seconds + 3) + 3 * seconds if extra else 0
    return f"about {total / 60:.0f} minutes on an idle machine with 2 cores: {rounds} rounds of {len(cells)} cells"


def _names(services: str) -> list[str]:
    names = services.split(",")
    for name in names:
        if name not in CONTENDERS:
            raise InputError("--services", found=name, expected="some of " + ", ".join(CONTENDERS), fix="correct it")
    return names


def _cells(cells: str) -> list[Cell]:
    found = []
    for word in cells.split(","):
        kind, _, clients = word.partition(":")
        if kind not in PICTURES or not clients.isdecimal() or not int(clients):
            expected = f"{' or '.join(PICTURES)}, a colon, a number of clients"
            raise InputError("--cells", found=word, expected=expected, fix=f"--cells {CELLS}")
        found.append(Cell(kind, int(clients)))
    return found


def _idle(extras: dict[str, Any]) -> str:
    return "; ".join(
        f"{name} {cores:.2f} cores when idle, {CONTENDERS[name].between} while others are measured"
        for name, cores in extras.get("idle", {}).items()
    )


if __name__ == "__main__":
    logging.getLogger("neuralblack").setLevel(logging.WARNING)
    run_verb(lambda: typer.run(main))
