"""A step of a network of depthwise convolutions on a CPU: torch's gradients in bf16, ours, and all of it in fp32.

python -m benchmarks.depthwise
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer
from benchmarks.intervals import paired_ratio
from benchmarks.machine import busy_cores, foot
from torch import Tensor, nn

from neuralblack.models.table import build_model, network_of
from neuralblack.training.depthwise import DepthwiseGradients
from neuralblack.training.unfreezing import set_learning

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "bf16, torch's gradients"
WAYS: dict[str, tuple[torch.dtype, Callable[[], AbstractContextManager[object]]]] = {
    BASELINE: (torch.bfloat16, nullcontext),
    "bf16, as `fit` does": (torch.bfloat16, DepthwiseGradients),
    "fp32": (torch.float32, nullcontext),
}


def main(
    model: Annotated[str, typer.Option(help="A key of MODELS, or timm:NAME.")] = "efficientnet_lite0",
    batch: Annotated[int, typer.Option(min=1, help="Slices of a step.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved.")] = 5,
    out: Annotated[Path, typer.Option(help="The report.")] = ROOT / "docs" / "benchmarks" / "depthwise.md",
) -> None:
    """Measure, print, and write the report."""
    busy, side = busy_cores(seconds=2), network_of(model).size
    stages = build_model(model, classes=3)
    set_learning(stages, len(stages), batch_norm="eval")
    optimizer = torch.optim.AdamW(stages.parameters(), lr=0.0, fused=True)  # every way has the same weights
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, 1, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 3, (batch,), generator=generator)
    rates: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    found: dict[str, Tensor] = {}
    for number in range(-1, rounds):  # the first round warms up
        for way, (dtype, gradients) in WAYS.items():
            seconds = _step(stages, optimizer, inputs, labels, dtype=dtype, gradients=gradients())
            found[way] = torch.cat([each.grad.flatten() for each in stages.parameters() if each.grad is not None])
            if number >= 0:
                rates[way][number] = batch / seconds
    exact = found["fp32"]
    lines = [
        "# Gradients of depthwise convolutions",
        "",
        f"A step of {model}, all stages learning, {batch} slices of {side} pixels, {torch.get_num_threads()} threads; "
        f"{rounds} interleaved rounds, {busy:.2f} cores busy with other things before them. The error is that of the "
        "whole gradient, against fp32's.",
        "",
        "| | slices/s, median | times the first row's | error of the gradient |",
        "|---|---|---|---|",
    ]
    for way, each in rates.items():
        error = float((found[way] - exact).norm() / exact.norm())
        ratio = paired_ratio(each, rates[BASELINE])
        lines.append(f"| {way} | {statistics.median(each.values()):.1f} | {ratio} | {error:.3f} |")
    report = "\n".join([*lines, *foot("benchmarks.depthwise")])
    print(report)
    out.write_text(report)


def _step(
    stages: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    dtype: torch.dtype,
    gradients: AbstractContextManager[object],
) -> float:
    """Train one step; seconds."""
    optimizer.zero_grad(set_to_none=True)
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), gradients:
        logits = stages(inputs)
    nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
