"""Measure training: a step beside its floor and a usual script, a search with and without sharing, and processes.

python -m benchmarks.train --out docs/benchmarks/train.md

All of one run. The floor is the same model in the same number format on tensors that are ready; the usual script is
what torchvision's reference does for a classifier: PNG files, a DataLoader, torchvision's transforms, fp32, three
channels, and stages that are "frozen" by leaving them out of the optimiser.
"""

import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from benchmarks.machine import busy_cores, describe_machine
from benchmarks.train_cluster import checkpoint_cost, kill_cost, ray_beside_ddp, trial_starts
from PIL import Image
from torch import Tensor, nn

from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.prepare import prepare
from neuralblack.data.splits import Split, make_split
from neuralblack.models import torchvision_cpu
from neuralblack.models.execution import choose_execution
from neuralblack.models.heads import cross_entropy
from neuralblack.models.table import build_model, network_for
from neuralblack.training.batches import Batches
from neuralblack.training.frozen import FrozenStages
from neuralblack.training.loop import fit
from neuralblack.training.pixels import Pixels
from neuralblack.training.unfreezing import set_learning, split_at, stage_groups

PHASES = {"head": 1, "layer4 and head": 2, "all": 1_000}
SCHEDULE = {"head": 3, "layer4 and head": 3, "all": 2}  # epochs of the whole schedule that is worked out
SEARCHED = {0: 1, 3: 2, 6: 1_000}


class Work:
    """A dataset of made-up heads, its training slices as PNG files, and the numbers of a run."""

    def __init__(self, folder: Path, *, patients: int, batch: int) -> None:
        write_phantoms(folder / "scans", patients=patients, slices=1, size=256)
        self.data = folder / "slices"
        self.dataset: Dataset = prepare([folder / "scans" / "figshare", folder / "scans" / "images"], self.data)
        self.split: Split = make_split(self.dataset, train=None, validation=(2,), test=(1,))
        self.config = TrainConfig(weights="none", batch_norm="eval", batch_size=batch, epochs=1, warmup_epochs=0)
        self.execution = choose_execution("cpu")
        self.files = []
        for row in self.split.train:
            self.files.append(folder / f"{row}.png")
            Image.fromarray(self.dataset.images[row]).save(self.files[-1])
        self.labels = class_numbers(self.dataset, self.split.train, self.split.classes)

    def batches(self) -> Batches:
        """Make the batches that `fit` takes."""
        return Batches(
            Pixels(self.dataset.images, self.execution),
            len(self.dataset),
            self.labels,
            self.split.train,
            config=self.config,
            network=network_for(self.config),
            execution=self.execution,
        )

    def model(self) -> nn.Sequential:
        """Build ResNet-50's stages with random weights."""
        return build_model(self.config.model, classes=len(self.split.classes))


def ours(work: Work, depth: int) -> float:
    """Train an epoch by `fit`; slices a second."""
    marks: list[float] = []
    config = work.config.model_copy(update={"schedule": {0: depth}})
    model, batches = work.model(), work.batches()
    start = time.perf_counter()
    fit(
        model,
        batches,
        config,
        execution=work.execution,
        batch_norm="eval",
        validate=lambda *_: marks.append(time.perf_counter()) or {},  # type: ignore[func-returns-value]
        report=lambda *_: None,
    )
    return len(work.labels) / (marks[0] - start)


def floor(work: Work, depth: int) -> float:
    """Train an epoch's steps on tensors that are ready; slices a second."""
    model, batch, side = work.model(), work.config.batch_size, network_for(work.config).size
    set_learning(model, depth, batch_norm="eval")
    at = max(0, len(model) - depth)
    frozen, learning_stages = split_at(model, at)
    behind = FrozenStages(work.execution, size=batch)
    optimizer = torch.optim.AdamW(stage_groups(model, lr=1e-3, decay=2.6, weight_decay=0.01), fused=True)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = [len(part) for part in torch.arange(len(work.labels)).split(batch)]
    ready = [torch.randn(size, 1, side, side).contiguous(memory_format=torch.channels_last) for size in sizes]
    start = time.perf_counter()
    for inputs in ready:
        maps = behind.through(frozen, inputs) if at else inputs
        with work.execution.autocast():
            logits = learning_stages(maps)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(logits, torch.zeros(len(inputs), dtype=torch.int64), smoothing=0.05).mean().backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    return len(work.labels) / (time.perf_counter() - start)


class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """PNG files with torchvision's transforms."""

    def __init__(self, work: Work) -> None:
        torchvision_cpu.declare_missing_operators()
        from torchvision import transforms

        self._files, self._labels = work.files, work.labels
        self._transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomAffine(15, translate=(0.06, 0.06), scale=(0.9, 1.1)),
                transforms.ColorJitter(brightness=0.15, contrast=0.15),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.open(self._files[index]).convert("RGB")), int(self._labels[index])


def usual(work: Work, depth: int) -> float:
    """Train an epoch as the usual script does; slices a second."""
    torchvision_cpu.declare_missing_operators()
    from torchvision.models import resnet50

    model = resnet50(weights=None, num_classes=len(work.split.classes)).train()
    parts = {1: [model.fc], 2: [model.layer4, model.fc]}.get(depth, [model])
    optimizer = torch.optim.AdamW([parameter for part in parts for parameter in part.parameters()], lr=1e-3)
    loader = torch.utils.data.DataLoader(Pictures(work), work.config.batch_size, shuffle=True, num_workers=2)
    start = time.perf_counter()
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return len(work.labels) / (time.perf_counter() - start)


def data_alone(work: Work) -> float:
    """Draw every training view once; slices a second."""
    batches, start = work.batches(), time.perf_counter()
    for part in torch.as_tensor(work.split.train).split(work.config.batch_size):
        batches.views(part, 0)
    return len(work.labels) / (time.perf_counter() - start)


def optimizer_cost(rounds: int) -> str:
    """Time AdamW's step on all of ResNet-50 in torch's three ways, in turn."""
    made = {}
    for name, options in (
        ("for each tensor", {"foreach": False}),
        ("foreach", {"foreach": True}),
        ("fused", {"fused": True}),
    ):
        model = build_model("resnet50", classes=4)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
        made[name] = torch.optim.AdamW(stage_groups(model, lr=1e-3, decay=2.6, weight_decay=0.01), **options)
        made[name].step()  # makes the moments
    found: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(2 * rounds + 1):
        for name, optimizer in made.items():
            start = time.perf_counter()
            optimizer.step()
            found[name].append(time.perf_counter() - start)
    times = ", ".join(f"{name} {1000 * statistics.median(seconds):.0f} ms" for name, seconds in found.items())
    return f"AdamW's step alone, on all of ResNet-50: {times}. `fit` and the floor take the fused one."


CONTENDERS: dict[str, Callable[[Work, int], float]] = {"floor": floor, "fit": ours, "usual script": usual}


def steps(work: Work, rounds: int) -> Iterator[str]:
    """Measure every phase by every contender, in turn."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for phase, depth in PHASES.items():
            for name, run in CONTENDERS.items():
                rate = run(work, depth)
                found.setdefault((phase, name), []).append(rate)
                print(f"round {number + 1}, {phase}, {name}: {rate:.2f} slices/s", flush=True)
    data = statistics.median(data_alone(work) for _ in range(rounds))
    rate = {key: statistics.median(values) for key, values in found.items()}
    yield "| learning | floor | `fit` | share of the floor | usual script | times the usual script |"
    yield "|---|---|---|---|---|---|"
    for phase in PHASES:
        bare, own, other = (rate[phase, name] for name in CONTENDERS)
        shares = [a / b for a, b in zip(found[phase, "fit"], found[phase, "floor"], strict=True)]
        times = [a / b for a, b in zip(found[phase, "fit"], found[phase, "usual script"], strict=True)]
        yield (
            f"| {phase} | {bare:.2f}/s | {own:.2f}/s | {statistics.median(shares):.2f} | {other:.2f}/s | "
            f"{statistics.median(times):.2f} |"
        )
    whole = {
        name: sum(epochs / rate[phase, name] for phase, epochs in SCHEDULE.items()) for name in ("fit", "usual script")
    }
    yield ""
    words = ", ".join(f"{epochs} epochs {phase}" for phase, epochs in SCHEDULE.items())
    yield (
        f"A whole schedule ({words}), worked out from these rates: {whole['usual script'] / whole['fit']:.2f} times as "
        f"fast as the usual script. Data and augmentation alone: {data:.0f} slices/s, "
        f"{100 * rate['all', 'fit'] / data:.1f}% of a full step's time."
    )


def search(work: Work, folder: Path, *, trials: int, model: str, rungs: bool) -> Iterator[str]:
    """Run a search without and with sharing, and compare time and weights; with rungs, or each trial to its end."""
    from neuralblack.cluster.space import DEFAULT_SPACE
    from neuralblack.cluster.tune import tune_on_cluster
    from neuralblack.files import sha256
    from neuralblack.training.checkpoints import load_metrics

    space = {name: DEFAULT_SPACE[name] for name in ("lr", "weight_decay", "label_smoothing")}
    config = work.config.model_copy(
        update={
            "model": model,
            "schedule": SEARCHED,
            "epochs": 8,
            "weights": "none" if model == "resnet50" else "imagenet",
        }
    )
    seconds, kept, shared = {}, {}, 0.0
    folder = folder / ("rungs" if rungs else "whole")
    folder.mkdir()
    os.environ["NEURALBLACK_CACHE"] = str(folder / "cache")  # an empty one, which Ray's workers inherit
    for name, gib in (("without sharing", 0.0), ("with sharing", 16.0)):
        run = folder / name.replace(" ", "-")
        start = time.perf_counter()
        with nullcontext() if rungs else patch("neuralblack.cluster.tune.rungs_of", lambda *_, epochs: [epochs]):
            _, rows = tune_on_cluster(config, data=work.data, run=run, space=space, trials=trials, share_gib=gib)
        seconds[name] = time.perf_counter() - start
        kept[name] = {
            (path.parent.parent.name.rpartition("_")[2], load_metrics(path.parent)["epoch"]): sha256(path)
            for path in sorted((run / "search").rglob("model.safetensors"))
        }
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
        shared = statistics.mean(epoch["shared"] for row in rows for epoch in row["history"])
    first, second = kept.values()
    both = first.keys() & second.keys()  # which trials are stopped depends on who comes to a rung first
    same = [name for name in both if first[name] == second[name]]
    ratio = seconds["without sharing"] / seconds["with sharing"]
    yield (
        f"{trials} trials of {model}, {{0: 1, 3: 2, 6: all}}, 8 epochs, "
        f"{'rungs at the unfreeze points in both' if rungs else 'every trial to its end'}: "
        f"{seconds['without sharing']:.0f} s without, {seconds['with sharing']:.0f} s with sharing: {ratio:.2f} times. "
        f"{100 * shared:.0f}% of all epochs' slices were shared. Of {len(both)} checkpoints that both searches kept, "
        f"{len(same)} have the same weights, to the bit."
    )


def main(
    out: Annotated[Path | None, typer.Option(help="Markdown.")] = None,
    patients: Annotated[int, typer.Option(min=8, help="Made-up heads.")] = 40,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    trials: Annotated[int, typer.Option(min=2, help="Of each search.")] = 8,
    searched: Annotated[int, typer.Option(min=8, help="Made-up heads of the searches.")] = 120,
    model: Annotated[str, typer.Option(help="Of the searches.")] = "efficientnet_lite0",
) -> None:
    """Measure and write."""
    command = shlex.join(["python", "-m", "benchmarks.train", *sys.argv[1:]])
    lines = ["# Training: measured", "", f"Made by one run of `{command}`; do not edit.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in describe_machine())]
    lines += [f"| before the start | {busy_cores(seconds=2):.2f} cores busy with other things |", ""]
    with tempfile.TemporaryDirectory(prefix="nbb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        work = Work(folder, patients=patients, batch=16)
        lines += [f"## A step of ResNet-50, {len(work.labels)} slices, medians of {rounds} interleaved rounds", ""]
        lines += [*steps(work, rounds), "", optimizer_cost(rounds), ""]
        larger = Work(folder / "searched", patients=searched, batch=16)
        lines += [f"## A search over {len(larger.labels)} slices", ""]
        for rungs in (False, True):
            lines += [*search(larger, folder / "searched", trials=trials, model=model, rungs=rungs), ""]
        lines += ["## Processes", ""]
        config = larger.config.model_copy(update={"model": model, "precision": "fp32"})
        lines += [*ray_beside_ddp(config, larger.data, folder, rounds=rounds), ""]
        lines += [checkpoint_cost(folder / "checkpoint"), "", kill_cost(config, larger.data, folder / "killed"), ""]
        lines += trial_starts(config, larger.data, folder)
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text, "utf-8")


if __name__ == "__main__":
    typer.run(main)
