"""Golden slices: what an engine must answer before it takes traffic, compared with PyTorch in float32."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from neuralblack.data.phantoms import VIEWS, Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing, preprocess
from neuralblack.errors import InputError
from neuralblack.inference.eager import eager
from neuralblack.inference.outputs import Forward
from neuralblack.inference.static_batches import SIZES
from neuralblack.labels import CLASSES
from neuralblack.models.heads import probabilities
from neuralblack.registry.model_folder import ModelFolder, load_reference

MARGIN = 0.02  # between the two likeliest classes; below it rounding may choose, so such a slice proves nothing
BOUNDS = {
    # number format: how far a probability may be off on a golden slice. The largest on 1,175 real slices, Lite0:
    "fp32": 1e-4,  # 0.0000
    "bf16": 0.3,  # 0.27; the 99th percentile 0.13, the median 0.0003
    "int8": 0.5,  # 0.46; the 99th percentile 0.15
}
AT_A_TIME = sum(SIZES)  # so that a call uses every size that was compiled, and warms it up


@dataclass(frozen=True)
class Golden:
    """G slices, (G, S, S) uint8, and what eager fp32 says of them, (G, K) logits in float32."""

    images: Tensor
    logits: Tensor


def golden_slices(folder: ModelFolder) -> Golden:
    """Take the folder's own slices; where it has none, draw heads and ask its weights in eager fp32."""
    kept = load_reference(folder)
    if "golden_images" in kept:
        return Golden(kept["golden_images"], kept["golden_logits"])
    images = drawn_slices(folder.spec)
    logits = eager(folder, dtype=torch.float32, device=torch.device("cpu"))(images).logits
    sure = with_margin(logits)
    return Golden(images[sure], logits[sure])


def with_margin(logits: Tensor) -> Tensor:
    """Find the rows, (R,) int64, whose two likeliest classes are at least MARGIN apart."""
    first, second = probabilities(logits).topk(2).values.unbind(1)
    return torch.nonzero(first - second >= MARGIN).flatten()


def repeated(golden: Golden, count: int) -> Golden:
    """Repeat golden slices, if there are any, until there are `count` of them or more."""
    given = len(golden.images)
    places = torch.arange(max(given, count)) % given if given else torch.arange(0)
    return Golden(golden.images[places], golden.logits[places])


def check_engine(name: str, run: Forward, golden: Golden, *, at_a_time: int = AT_A_TIME) -> float:
    """Compare an engine with the golden slices, so many in a call; return the largest difference of a probability.

    Raises:
        InputError: a slice changed its top class, or a probability is off by more than BOUNDS of its number format.
    """
    bound = BOUNDS[name.rpartition("-")[2]]
    if not len(golden.images):
        return 0.0
    answers = torch.cat([run(images).logits for images in golden.images.split(at_a_time)])
    expected, found = probabilities(golden.logits), probabilities(answers)
    changed = int((expected.argmax(1) != found.argmax(1)).sum())
    worst = float((expected - found).abs().max())
    if changed or not worst <= bound:  # a difference that is no number is refused too
        raise InputError(
            f"engine {name}",
            found=f"{changed} of {len(expected)} golden slices with another class, a probability off by {worst:.4f}",
            expected=f"the classes of eager-fp32, probabilities within {bound:g}",
            fix="--engine auto, which takes the next one, or --engine eager-fp32",
        )
    return worst


@cache
def drawn_slices(spec: Preprocessing) -> Tensor:
    """Draw AT_A_TIME made-up slices, the same every time: (G, S, S) uint8, prepared as a model wants them."""
    views = list(VIEWS)
    cut = [
        draw_phantom(Patient.draw(CLASSES[seed % len(CLASSES)], seed=seed), views[seed % len(views)], size=256).image
        for seed in range(AT_A_TIME)
    ]
    return torch.from_numpy(np.stack([preprocess(image, spec, where="a made-up slice") for image in cut]))
