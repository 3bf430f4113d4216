"""The measurement: every cell of every service in interleaved rounds, the floor between them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contenders import TOKEN, Service
from benchmarks.floor import Floor
from benchmarks.materials import PICTURES
from benchmarks.wrk import run_wrk

from neuralblack.errors import RunError

WARM_REQUESTS = 6


class Cell(NamedTuple):
    """What is posted, and by how many at once."""

    kind: str  # a key of PICTURES
    clients: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.clients}"


@dataclass
class Records:
    """Everything that was measured: rows as they go into the JSON beside the report."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    floors: list[dict[str, Any]] = field(default_factory=list)

    def of(self, service: str, cell: Cell, name: str) -> dict[int, float]:
        """One number of a service in a cell: round -> value."""
        return {
            row["round"]: float(row[name])
            for row in self.cells
            if row["service"] == service and (row["kind"], row["clients"]) == cell and row[name] is not None
        }

    def floor(self, cell: Cell | None, name: str) -> dict[int, float]:
        """The floor of a cell, the mean of those before and behind it: round -> value."""
        found: dict[int, list[float]] = {}
        for row in self.floors:
            if (cell is None or str(cell) in row["beside"]) and row[name] is not None:
                found.setdefault(row["round"], []).append(float(row[name]))
        return {number: sum(values) / len(values) for number, values in found.items()}


@dataclass
class Plan:
    """How long, how often, with what."""

    cells: Sequence[Cell]
    rounds: int
    seconds: float
    floor_seconds: float
    pictures: dict[str, list[Path]]
    batch: int = 1  # the floor's best
    say: Callable[[str], None] = print
    save: Callable[[], None] = lambda: None  # after every round

    def cells_of(self, service: Service) -> list[Cell]:
        """The cells that a service takes part in."""
        return [cell for cell in self.cells if cell.clients <= service.contender.most_clients]


def run_rounds(services: list[Service], plan: Plan, records: Records, floor: Floor | None) -> None:
    """Measure all rounds. Order of cells and services changes from round to round, the same in every run.

    Services that can be paused or cost little are measured one behind the other in the same cell, seconds apart; one
    that has to be stopped has all its cells in one go, at the end of the round.
    """
    present = [service for service in services if service.contender.between != "stopped"]
    for number in range(plan.rounds):
        draw = random.Random(number)
        cells = draw.sample(list(plan.cells), len(plan.cells))
        for at, cell in enumerate(cells):
            _measure_floor(floor, plan, records, number, beside=cells[max(0, at - 1) : at + 1])
            for service in draw.sample(present, len(present)):
                if cell in plan.cells_of(service):
                    service.resume()
                    records.cells.append(measure(service, cell, plan, number))
                    service.pause()
        _measure_floor(floor, plan, records, number, beside=cells[-1:])
        for service in services:
            if service.contender.between == "stopped":
                _measure_alone(service, cells, plan, records, number)
        plan.save()
        plan.say(f"round {number + 1} of {plan.rounds} is done")


def measure(service: Service, cell: Cell, plan: Plan, number: int) -> dict[str, Any]:
    """Measure one cell: warm, load, drain. CPU is that of the loaded time, for each answer that came within it."""
    media, pictures = PICTURES[cell.kind][0], plan.pictures[cell.kind]
    for _ in range(WARM_REQUESTS):  # a paused process has cold caches
        service.answer(pictures[0], kind=media)
    batches, slices = service.batches()
    cpu = service.cpu_s()
    load = run_wrk(service.url, pictures, kind=media, clients=cell.clients, seconds=plan.seconds, token=TOKEN)
    cpu = service.cpu_s() - cpu
    drained = service.drain()
    more_batches, more_slices = service.batches()
    row = {
        "round": number,
        "service": service.name,
        **cell._asdict(),
        **asdict(load),
        "cpu_ms": 1e3 * cpu / max(1, load.answered),
        "mean_batch": (more_slices - slices) / (more_batches - batches) if more_batches > batches else None,
        "drained": drained,
    }
    plan.say(
        f"  {number + 1} {service.name:9} {cell!s:9} {load.rate:7.1f}/s  p50 {load.p50_ms:7.1f}  "
        f"p99 {load.p99_ms:7.1f} ms  errors {load.errors}  CPU {row['cpu_ms']:.1f} ms"
    )
    return row


def _measure_floor(floor: Floor | None, plan: Plan, records: Records, number: int, *, beside: list[Cell]) -> None:
    if floor is None:
        return
    rate, ms = floor.measure(batch=plan.batch, seconds=plan.floor_seconds)
    one_ms = floor.measure(batch=1, seconds=plan.floor_seconds / 2)[1] if any(c.clients == 1 for c in beside) else None
    records.floors.append(
        {"round": number, "beside": [str(cell) for cell in beside], "rate": rate, "batch_ms": ms, "one_ms": one_ms}
    )
    plan.say(
        f"  {number + 1} floor     batch {plan.batch:2}  {rate:7.1f}/s" + (f"  one {one_ms:.2f} ms" if one_ms else "")
    )


def _measure_alone(service: Service, cells: list[Cell], plan: Plan, records: Records, number: int) -> None:
    first = cells[0]
    try:
        service.start(plan.pictures[first.kind][0], kind=PICTURES[first.kind][0])
        warm(service, plan)
        service.measure_idle(seconds=2)
        for cell in cells:
            if cell in plan.cells_of(service):
                records.cells.append(measure(service, cell, plan, number))
    except RunError as error:
        plan.say(f"  {number + 1} {service.name}: left out of this round: {error}")
    finally:
        service.stop()


def warm(service: Service, plan: Plan) -> None:
    """Load a service that has just started, with batches of every size; nothing of it is counted."""
    kind = plan.cells[0].kind
    for clients in (1, 8, 32):
        if clients <= service.contender.most_clients:
            run_wrk(service.url, plan.pictures[kind], kind=PICTURES[kind][0], clients=clients, seconds=1, token=TOKEN)
