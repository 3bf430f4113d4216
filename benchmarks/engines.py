"""How fast each engine is, and how far from eager fp32. python -m benchmarks.engines --model-folder RUN

Add --random resnet50 for a network of random weights too.

Writes docs/benchmarks/engines.md. All engines are loaded first and then measured in turn, round by round, so that a
slow minute of the machine hits all of them; a cell is the median over the rounds. Ratios are to eager-fp32
(channels_last, BatchNorm folded) of the same model, threads, batch and run. No golden check: errors are in the table.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmarks.machine import foot
from torch import Tensor

from neuralblack.config import TrainConfig
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.inference.engines import ENGINES
from neuralblack.inference.golden import drawn_slices
from neuralblack.inference.openvino_engine import Compiled, converted, installed
from neuralblack.inference.outputs import Forward
from neuralblack.inference.quantize import quantised
from neuralblack.inference.whole_network import whole_network
from neuralblack.models.table import build_model
from neuralblack.registry.aliases import CHAMPION, resolve
from neuralblack.registry.model_folder import ModelFolder, model_path, open_model, save_model

CPU = torch.device("cpu")
ON_A_CPU = [name for name in ENGINES if name.startswith(("eager", "openvino"))]
CELL_S = 0.1  # a cell repeats its batch for so long in a round
TOGETHER_S = 3.0  # two processes measure at the same time for so long
PAIRS = 2  # such pairs with pinning, and without


def main(
    model_folder: Annotated[list[Path], typer.Option(help="A run or a model folder; may be given again.")] = [],
    registry: Annotated[Path | None, typer.Option(help="Measure this registry's champion.")] = None,
    random: Annotated[list[str], typer.Option(help="A key of MODELS, with random weights; may be given again.")] = [],
    engine: Annotated[list[str], typer.Option(help="Engines; compile-* takes minutes to load.")] = ON_A_CPU,
    batch: Annotated[list[int], typer.Option(help="Batch sizes.")] = [1, 4, 8, 16, 32],
    threads: Annotated[list[int], typer.Option(help="Threads.")] = [1, 2],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; cells are medians over them.")] = 5,
    out: Annotated[Path, typer.Option(help="The table.")] = Path("docs/benchmarks/engines.md"),
) -> None:
    """Measure every engine and write a table."""
    with tempfile.TemporaryDirectory() as place:
        folders = [open_model(model_path(path)) for path in model_folder]
        folders += [resolve(registry, CHAMPION)] if registry else []
        folders += [untrained(name, Path(place) / name) for name in random]
        text = [head(rounds)]
        for folder in folders:
            for count in threads:
                text += table(folder, engine, batch, count, rounds)
            if installed() and len(threads) > 1:
                text += pinning(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    text += foot("benchmarks.engines", f"models: {', '.join(folder.id for folder in folders)}")
    out.write_text("\n".join(text))
    print(f"wrote {out}")


def untrained(name: str, path: Path) -> ModelFolder:
    """Write a model folder of random weights: speed does not depend on them, accuracy would."""
    card = {
        "classes": ["glioma", "meningioma", "pituitary"],
        "config": TrainConfig(model=name, weights="none").model_dump(mode="json"),
        "untrained": True,
    }
    state = build_model(name, classes=3).state_dict()
    return save_model(path, state, card=card, spec=Preprocessing(), split={}, history=[])


def table(folder: ModelFolder, names: list[str], batches: list[int], threads: int, rounds: int) -> list[str]:
    """Measure one model with one number of threads."""
    torch.set_num_threads(threads)
    images = drawn_slices(folder.spec).repeat(4, 1, 1)
    engines, loads, absent = load(folder, names, images)
    expected = engines["eager-fp32"](images).logits
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in engines for batch in batches}
    for _ in range(rounds):
        for name, size in times:
            times[name, size].append(seconds(lambda e=engines[name], s=size: e(images[:s])))  # type: ignore[misc]
    rates = {cell: cell[1] / statistics.median(values) for cell, values in times.items()}
    kind = "random weights" if folder.card.get("untrained") else "trained"
    rows = [
        f"\n## {folder.config.model} ({kind}), {threads} thread{'s' * (threads > 1)}\n",
        "| engine | " + " | ".join(f"batch {size}" for size in batches) + " | largest logit error | loads in |",
        "|---|" + "---|" * (len(batches) + 2),
    ]
    for name, run in engines.items():
        cells = [
            f"{rates[name, size]:.1f}/s ({rates[name, size] / rates['eager-fp32', size]:.2f}x)" for size in batches
        ]
        error = float((run(images).logits - expected).abs().max() / expected.abs().max())
        rows.append(f"| {name} | {' | '.join(cells)} | {error:.1e} | {loads[name]:.1f} s |")
        print(rows[-1], flush=True)
    return rows + [f"\nNot measured: {line}" for line in absent]


def load(
    folder: ModelFolder, names: list[str], images: Tensor
) -> tuple[dict[str, Forward], dict[str, float], list[str]]:
    """Load engines and warm them up; eager-fp32 is always among them. Also: seconds, and why some are not there."""
    engines: dict[str, Forward] = {}
    loads: dict[str, float] = {}
    absent: list[str] = []
    for name in dict.fromkeys(["eager-fp32", *names]):
        start = time.perf_counter()
        try:
            engines[name] = build(folder, name)
        except InputError as error:
            absent.append(f"{name}: {error.found}")
            continue
        loads[name] = time.perf_counter() - start
        engines[name](images)
    return engines, loads, absent


def build(folder: ModelFolder, name: str) -> Forward:
    """Load one engine without the golden check; random weights are quantised here, for the speed alone."""
    if name == "openvino-int8" and folder.card.get("untrained"):
        return Compiled(quantised(folder, drawn_slices(folder.spec).numpy()), "int8")
    make = ENGINES.get(name)
    if make is None:
        raise InputError("engine", found=name, expected="one of " + ", ".join(ENGINES), fix="--engine NAME")
    return make(folder, CPU)


def seconds(call: Callable[[], Any]) -> float:
    """Time one call, the mean over CELL_S."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < CELL_S:
        call()
        count += 1
    return (time.perf_counter() - start) / count


def pinning(folder: ModelFolder) -> list[str]:
    """Run two processes of one thread at the same time, as two replicas do, with OpenVINO's pinning on and off."""
    rates: dict[bool, list[list[float]]] = {True: [], False: []}
    for _ in range(PAIRS):
        for pinned in rates:  # in turn, and each pair anew: pinning holds for a process
            rates[pinned].append(pair(folder.path, pinned))
    rows = [
        "\nTwo processes at once, one thread each, batch 8, openvino-fp32:\n",
        "| pinning | slices/s |",
        "|---|---|",
    ]
    for pinned, pairs in rates.items():
        said = "; ".join(" + ".join(f"{rate:.1f}" for rate in both) for both in pairs)
        rows.append(f"| {'on' if pinned else 'off'} | {said} |")
        print(rows[-1], flush=True)
    return rows


def pair(path: Path, pinned: bool) -> list[float]:
    """Start two replicas and hear how many slices a second each answered."""
    context = multiprocessing.get_context("spawn")
    start, said = context.Barrier(2), context.Queue()
    processes = [context.Process(target=replica, args=(path, pinned, start, said)) for _ in range(2)]
    for process in processes:
        process.start()
    rates = [said.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return rates


def replica(path: Path, pinned: bool, start: Any, said: Any) -> None:
    """Answer batches of 8 for TOGETHER_S and say how many slices a second that was."""
    torch.set_num_threads(1)
    folder = open_model(path)
    engine = Compiled(converted(whole_network(folder)), "fp32", options={"ENABLE_CPU_PINNING": pinned})
    images, count = drawn_slices(folder.spec)[:8], 0
    engine(images)
    start.wait()
    began = time.perf_counter()
    while time.perf_counter() - began < TOGETHER_S:
        count += len(engine(images).logits)
    said.put(count / (time.perf_counter() - began))


def head(rounds: int) -> str:
    """Say what the numbers are."""
    return "\n".join(
        [
            "# Engines\n",
            f"Slices a second, medians of {rounds} interleaved rounds; in brackets the ratio to eager-fp32 of the same",
            "run. The error is the largest difference of a logit on made-up slices, over the largest logit.",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
