"""A step of training, measured: `fit` beside its floor and a usual script, and the optimizer's own step.

The floor is the same model in the same number format on tensors that are ready; the usual script is what torchvision's
reference does for a classifier: PNG files, a DataLoader, torchvision's transforms, fp32, three channels, and stages
that are "frozen" by leaving them out of the optimizer.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from benchmarks.intervals import paired_ratio
from benchmarks.train_work import Work
from PIL import Image
from torch import Tensor, nn

from neuralblack.models import torchvision_cpu
from neuralblack.models.heads import cross_entropy
from neuralblack.models.table import build_model, network_for
from neuralblack.training.frozen import FrozenStages
from neuralblack.training.loop import fit
from neuralblack.training.unfreezing import set_learning, split_at, stage_groups

PHASES = {"head": 1, "layer4 and head": 2, "all": 1_000}
SCHEDULE = {"head": 3, "layer4 and head": 3, "all": 2}  # epochs of the whole schedule that is worked out
WARM = 1  # epochs before the one that is timed


def ours(work: Work, depth: int) -> float:
    """Train an epoch by `fit`; slices a second."""
    marks: list[float] = []
    config = work.config.model_copy(update={"schedule": {0: depth}, "epochs": 1 + WARM})
    model, batches = work.model(), work.batches()
    fit(
        model,
        batches,
        config,
        execution=work.execution,
        batch_norm="eval",
        validate=lambda *_: marks.append(time.perf_counter()) or {},  # type: ignore[func-returns-value]
        report=lambda *_: None,
    )
    return len(work.labels) / (marks[-1] - marks[-2])


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
    start = 0.0
    for _ in range(1 + WARM):
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
    start = 0.0
    for _ in range(1 + WARM):
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
    """Measure every phase by every contender, in rounds whose order changes, the same in every run."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    cells = [(phase, name) for phase in PHASES for name in CONTENDERS]
    for number in range(rounds):
        for phase, name in random.Random(number).sample(cells, len(cells)):
            rate = CONTENDERS[name](work, PHASES[phase])
            found.setdefault((phase, name), {})[number] = rate
            print(f"round {number + 1}, {phase}, {name}: {rate:.2f} slices/s", flush=True)
    data = statistics.median(data_alone(work) for _ in range(rounds))
    rate = {key: statistics.median(values.values()) for key, values in found.items()}
    yield "| learning | floor | `fit` | share of the floor | usual script | times the usual script |"
    yield "|---|---|---|---|---|---|"
    for phase in PHASES:
        bare, own, other = (rate[phase, name] for name in CONTENDERS)
        share, times = (paired_ratio(found[phase, "fit"], found[phase, name]) for name in ("floor", "usual script"))
        yield f"| {phase} | {bare:.2f}/s | {own:.2f}/s | {share} | {other:.2f}/s | {times} |"
    whole = [
        {at: sum(epochs / found[phase, name][at] for phase, epochs in SCHEDULE.items()) for at in range(rounds)}
        for name in ("usual script", "fit")
    ]
    yield ""
    words = ", ".join(f"{epochs} epochs {phase}" for phase, epochs in SCHEDULE.items())
    yield (
        f"A whole schedule ({words}), worked out from these rates: {paired_ratio(*whole)} times as fast as the usual "
        f"script. Data and augmentation alone: {data:.0f} slices/s, {100 * rate['all', 'fit'] / data:.1f}% of a full "
        "step's time."
    )
