"""Measure one GPU: its ceilings, training, its phases, inference, and what data and augmentation take of a step.

python -m benchmarks.gpu --out docs/benchmarks/gpu.md        two minutes on an H100
python -m benchmarks.gpu --smoke                             a look at every line of it on a CPU

Needs torch and torchvision (2.11 and later) and this package; no Ray.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralblack.config import TrainConfig
from neuralblack.models.execution import Execution, choose_execution, repeatable_convolutions
from neuralblack.models.folding import fold_batch_norms
from neuralblack.models.heads import cross_entropy
from neuralblack.models.inputs import to_input
from neuralblack.models.table import build_model, network_for, network_of
from neuralblack.training.batches import Batches
from neuralblack.training.pixels import Pixels
from neuralblack.training.unfreezing import set_learning, split_at, stage_groups

CLASSES, SLICES, SIDE = 4, 3_064, 256  # as figshare's archive, prepared at the default size
PHASES = {"head": 1, "layer4 and head": 2}  # besides all stages
ALL = 1_000  # stages that learn
Row = dict[str, Any]


@dataclass
class Plan:
    """How long and how large."""

    seconds: float = 1.5
    rounds: int = 3  # of which the median counts
    training: tuple[int, ...] = (64, 128, 256, 512)
    inference: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    modes: tuple[str, ...] = ("eager", "graph", "compile")
    compiled: tuple[int, ...] = (256,)  # batches that are compiled: each takes half a minute and more
    slices: int = SLICES
    size: int = 224  # pixels a side that the network sees
    matrix: int = 8_192
    copied: int = 2**30


SMOKE = Plan(
    seconds=0,
    rounds=1,
    training=(2,),
    inference=(1, 2),
    modes=("eager",),
    slices=8,
    size=64,
    matrix=256,
    copied=2**20,
)


@dataclass
class Bench:
    """The device, the data on it, and the rows measured so far."""

    execution: Execution
    plan: Plan
    rows: list[Row] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.execution.device

    def time(self, call: Callable[[], object], *, count: float = 1) -> float:
        """Run a call over and over: things a second, the median of the rounds; each call is `count` things."""
        rates = []
        for _ in range(self.plan.rounds):
            self.wait()
            start, calls = time.perf_counter(), 0
            while time.perf_counter() - start < self.plan.seconds / self.plan.rounds or not calls:
                call()
                calls += 1
                if calls % 8 == 0:
                    self.wait()  # or the queue would run ahead of the clock
            self.wait()
            rates.append(calls * count / (time.perf_counter() - start))
        return statistics.median(rates)

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def note(self, what: str, **values: Any) -> None:
        """Keep and print a row."""
        self.rows.append({"what": what, **values})
        said = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        )
        print(what, *said, flush=True)


def ceilings(bench: Bench) -> None:
    """Measure what the device can do at best: bf16 products of large matrices, and copying its memory."""
    side, device = bench.plan.matrix, bench.device
    first, second = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(first)
    rate = bench.time(lambda: torch.mm(first, second, out=out))
    bench.note("ceiling: bf16 matmul", tflops=rate * 2 * side**3 / 1e12)
    source = torch.zeros(bench.plan.copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = bench.time(lambda: target.copy_(source))
    bench.note("ceiling: copy, read and write", gigabytes_per_s=rate * 2 * bench.plan.copied / 1e9)


class Trainer:
    """ResNet-50 and its batches; a step as `fit` takes it."""

    def __init__(self, bench: Bench, batch: int, *, depth: int, mode: str) -> None:
        self._bench, self._batch = bench, batch
        self.config = TrainConfig(weights="none", size=bench.plan.size, batch_size=batch, batch_norm="eval")
        images = np.random.default_rng(0).integers(0, 256, (bench.plan.slices, SIDE, SIDE), np.uint8)
        rows = np.arange(bench.plan.slices)
        self._batches = Batches(
            Pixels(images, bench.execution),
            len(images),
            rows % CLASSES,
            rows,
            config=self.config,
            network=network_for(self.config),
            execution=bench.execution,
        )
        self.model = build_model(self.config.model, classes=CLASSES).to(bench.device)
        set_learning(self.model, depth, batch_norm="eval")
        at = max(0, len(self.model) - depth)
        self._frozen, self._learning = split_at(self.model, at)
        groups = stage_groups(self.model, lr=1e-4, decay=2.6, weight_decay=0.01)
        self._optimizer = torch.optim.AdamW(groups, capturable=mode == "graph", fused=bench.device.type == "cuda")
        self._next = self.stream()
        self._net: nn.Module = torch.compile(self._learning) if mode == "compile" else self._learning  # type: ignore[assignment]
        self._static = [each.clone() for each in next(self._next)]
        self._replay = captured(partial(self._learn, *self._static)) if mode == "graph" else None

    def stream(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield whole batches, epoch after epoch."""
        epoch = 0
        while True:
            for batch in self._batches(epoch, self._frozen):
                if len(batch.labels) == self._batch:
                    yield batch.inputs, batch.labels, batch.weights
            epoch += 1

    def data(self) -> None:
        """Make one batch, without what frozen stages do."""
        rows = torch.arange(self._batch) % self._bench.plan.slices
        self._batches.views(rows, 0)

    def step(self) -> None:
        """Take one step on the next batch."""
        batch = next(self._next)
        if self._replay is None:
            self._learn(*batch)
            return
        for static, new in zip(self._static, batch, strict=True):
            static.copy_(new)
        self._replay()

    def _learn(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        with self._bench.execution.autocast():
            logits = self._net(inputs)
        loss = (cross_entropy(logits, labels, smoothing=0.05) * weights).sum() / weights.sum()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self._learning.parameters() if p.requires_grad], 1.0)
        self._optimizer.step()


@repeatable_convolutions()
def training(bench: Bench) -> None:
    """Measure whole steps over batch sizes and modes, then the phases of a schedule at the fastest batch."""
    best: tuple[float, int, str] = (0.0, bench.plan.training[0], "eager")
    for mode in bench.plan.modes:
        for batch in bench.plan.compiled if mode == "compile" else bench.plan.training:
            rate = attempt(bench, f"training, {mode}, batch {batch}", batch, mode=mode)
            best = max(best, (rate, batch, mode))
    rate, batch, mode = best
    for phase, depth in PHASES.items():
        attempt(bench, f"phase: {phase} learns, {mode}, batch {batch}", batch, mode=mode, depth=depth)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        attempt(
            bench, f"training, eager, batch {batch}, cuDNN tries its algorithms and may not repeat", batch, mode="eager"
        )
    trainer = Trainer(bench, batch, depth=ALL, mode="eager")
    data = bench.time(trainer.data, count=batch)
    bench.note(f"data and augmentation alone, batch {batch}", images_per_s=data, share_of_a_step=rate / data)


def attempt(bench: Bench, what: str, batch: int, *, mode: str, depth: int = ALL) -> float:
    """Measure one kind of step; a batch that does not fit is a row that says so."""
    try:
        trainer = Trainer(bench, batch, depth=depth, mode=mode)
        trainer.step()
        rate = bench.time(trainer.step, count=batch)
    except torch.cuda.OutOfMemoryError:
        bench.note(what, images_per_s="out of memory")
        return 0.0
    bench.note(what, images_per_s=rate)
    return rate


@torch.inference_mode()
def inference(bench: Bench) -> None:
    """Measure the forward pass, BatchNorm folded, and compare it with fp32."""
    network = replace(network_of("resnet50"), size=bench.plan.size)
    model = build_model("resnet50", classes=CLASSES, seed=1).eval().to(bench.device)
    pixels = torch.randint(0, 256, (max(bench.plan.inference), SIDE, SIDE), dtype=torch.uint8, device=bench.device)
    spread = model(to_input(pixels[:16], network)).std(0).mean()
    model[-1][-1].weight.data.mul_(2 / spread)  # random weights say the same of every slice: any rounding would pass
    folded = fold_batch_norms(model, to_input(pixels[:1], network)).to(torch.bfloat16)

    def forward(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return net(to_input(images, network).to(torch.bfloat16)).float().softmax(1)

    few = pixels[: min(64, len(pixels))]
    exact = model(to_input(few, network)).softmax(1)
    difference = float((forward(folded, few) - exact).abs().max())
    bench.note("inference: bf16, BatchNorm folded, against fp32", largest_difference_of_a_probability=difference)
    for mode in bench.plan.modes:
        net = torch.compile(folded) if mode == "compile" else folded
        for batch in bench.plan.compiled if mode == "compile" else bench.plan.inference:
            run: Callable[[], object] = partial(forward, net, pixels[:batch])
            if mode == "graph":
                run = captured(run)
            run()
            bench.note(f"inference, {mode}, batch {batch}", images_per_s=bench.time(run, count=batch))


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """Capture a call in a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def loader(bench: Bench) -> None:
    """Measure how fast slices come from this machine's memory to the device."""
    images = torch.randint(0, 256, (min(512, bench.plan.slices), SIDE, SIDE), dtype=torch.uint8)
    if bench.device.type == "cuda":
        images = images.pin_memory()
    rate = bench.time(lambda: images.to(bench.device, non_blocking=True), count=len(images))
    bench.note("slices from the host's memory to the device", images_per_s=rate)


def report(bench: Bench, unit: str) -> str:
    """Write the rows as a table."""
    lines = [
        "# One GPU: measured",
        "",
        f"`python -m benchmarks.gpu`, {unit}, torch {torch.__version__}, Python {sys.version.split()[0]}; "
        f"{bench.execution.reason}. ResNet-50 at {bench.plan.size} with random weights on {bench.plan.slices:,} random "
        f"slices of {SIDE} x {SIDE}, the dataset resident on the device, every view drawn there.",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    for row in bench.rows:
        values = "; ".join(
            f"{name.replace('_', ' ')} {value:,.4g}" if isinstance(value, float) else str(value)
            for name, value in row.items()
            if name != "what"
        )
        lines.append(f"| {row['what']} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything and write it down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--smoke", action="store_true", help="tiny sizes on a CPU: that it runs, not how fast")
    options.add_argument("--out", type=Path, help="the table; the numbers go beside it as JSON")
    given = options.parse_args()
    # A CPU without bf16 takes 20 s for a slice in it, and what it takes is not the point of a smoke run.
    execution = choose_execution("cpu") if given.smoke else choose_execution("cuda", precision="bf16")
    bench = Bench(execution, SMOKE if given.smoke else Plan())
    unit = torch.cuda.get_device_name() if execution.device.type == "cuda" else "a CPU, smoke mode"
    start = time.monotonic()
    for part in (ceilings, training, inference, loader):
        part(bench)
    bench.note("all of this took", seconds=time.monotonic() - start)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(report(bench, unit), "utf-8")
        given.out.with_suffix(".json").write_text(json.dumps(bench.rows, indent=1) + "\n", "utf-8")
        print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
