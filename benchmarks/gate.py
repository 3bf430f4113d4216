"""How often the gate refuses: held-out slices, which it should not, and pictures that are none, which it should.

python -m benchmarks.gate RUN DATASET --out docs/benchmarks/gate.md [--kind "NAME=FOLDER" ...]

Everything goes the way of an upload: a file's bytes, the reader, the preprocessing, the gate, the network, the gate.
"""

import argparse
import io
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks import not_slices
from benchmarks.machine import foot
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from neuralblack.data.dataset import open_dataset
from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing, prepared
from neuralblack.data.readers import read_slice
from neuralblack.data.slices import Prepared, Slice
from neuralblack.data.splits import SPLIT_JSON, load_split
from neuralblack.inference.engines import build_engine
from neuralblack.inference.reference import load_gate
from neuralblack.labels import CLASSES
from neuralblack.registry.model_folder import model_path, open_model

BATCH = 32
VIEWS = ("axial", "coronal", "sagittal")
HEADER = """# The gate: what is refused

Model {model}, {trained}. Held-out slices are those of the test part, whose patients neither trained the
network nor set a limit. Limits are set so that each of six checks of the pixels refuses {rate:.2%} of the training and
validation slices, and the distance of the features {distance_rate:.1%} of the {fitted} validation slices; together they
refuse {refused:.1%} of validation. AUROC is of
that distance alone, of a kind against the held-out slices: 1 means that every picture of the kind lies farther out.

| {count} kinds | pictures | refused | by pixels | by features | AUROC | most frequent reason |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, eq=False)
class Measured:
    """What the gate says of N pictures: distances (N,), and refused by each stage, (N,) bool."""

    distance: NDArray[np.float32]
    by_pixels: NDArray[np.bool_]
    by_features: NDArray[np.bool_]
    reasons: Counter[str]


class Measurer:
    """A model's gate and network, every picture through both."""

    def __init__(self, model: Path, name: str) -> None:
        self.folder = open_model(model_path(model))
        self.gate, self._engine = load_gate(self.folder), build_engine(self.folder, name=name)

    def __call__(self, questions: list[Prepared]) -> Measured:
        """Ask about pictures, also in the network where their pixels are refused already."""
        pixels = np.stack([question.pixels for question in questions])
        batches = [pixels[at : at + BATCH] for at in range(0, len(pixels), BATCH)]
        features = np.concatenate([self._engine(torch.from_numpy(batch)).features.numpy() for batch in batches])
        before, behind = [self.gate.before(question) for question in questions], self.gate.behind(features)
        codes = [reason.code for one, late in zip(before, behind, strict=True) for reason in one + late]
        return Measured(
            self.gate.distance(features),
            np.array([bool(one) for one in before]),
            np.array([bool(one) for one in behind]),
            Counter(codes),
        )


def main() -> None:
    """Measure every kind and write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("dataset", type=Path)
    options.add_argument("--out", type=Path, help="the page; none given: only printed")
    options.add_argument("--kind", action="append", default=[], metavar="NAME=FOLDER", help="more pictures, as files")
    options.add_argument("--each", type=int, default=60, help="pictures of each kind but the held-out slices")
    options.add_argument("--engine", default="auto")
    given = options.parse_args()
    measure = Measurer(given.model, given.engine)
    folder = measure.folder
    dataset = open_dataset(given.dataset)
    split = load_split(folder.split, dataset, where=folder.path / SPLIT_JSON)
    slices = [Prepared(np.array(dataset.images[row])) for row in split.test]
    some = slices[:: max(1, len(slices) // given.each)][: given.each]
    held_out = measure(slices)
    rows = [row("slices of held-out patients", held_out, held_out)]
    print(rows[0], flush=True)
    for name, pictures in [*kinds(folder.spec, some, given.kind, given.each)]:
        rows.append(row(name, measure(pictures), held_out))
        print(rows[-1], flush=True)
    gate = folder.calibration["gate"]
    page = HEADER.format(
        model=folder.id,
        trained=f"trained on folds {folder.split['parts']['train']['folds']}, tested on "
        f"{folder.split['parts']['test']['folds']}",
        fitted=folder.calibration["fitted_on"]["slices"],
        rate=gate["rate"],
        distance_rate=gate["distance_rate"],
        refused=gate["refused"],
        count=len(rows),
    )
    took = f"The checks of the pixels took {milliseconds(measure, some):.2f} ms a slice (median)."
    page += "\n".join([*rows, "", took, *foot("benchmarks.gate", f"model: {folder.id}")])
    if given.out:
        given.out.write_text(page, "utf-8")
        print(f"wrote {given.out}")


def row(name: str, one: Measured, held_out: Measured) -> str:
    """Write one kind's row."""
    same = one is held_out
    inside, outside = held_out.distance, one.distance
    auroc = roc_auc_score(np.r_[np.zeros(len(inside)), np.ones(len(outside))], np.r_[inside, outside])
    shares = [(one.by_pixels | one.by_features).mean(), one.by_pixels.mean(), one.by_features.mean()]
    reason = one.reasons.most_common(1)[0][0] if one.reasons else "-"
    cells = [name, str(len(outside)), *(f"{share:.1%}" for share in shares), "-" if same else f"{auroc:.3f}", reason]
    return "| " + " | ".join(cells) + " |"


def kinds(
    spec: Preprocessing, slices: list[Prepared], folders: list[str], each: int
) -> Iterator[tuple[str, list[Prepared]]]:
    """Yield every kind by name, its pictures prepared as uploads are."""
    rng = np.random.default_rng(0)
    for name, change in {
        "the same, as a JPEG of 224 x 224": as_jpeg,
        "the same, of gamma 0.8": lambda image: (255 * (image / 255) ** 0.8).astype(np.uint8),
        "the same, with noise of 2 of 255": lambda image: noisy(image, rng, 2),
        "the same, with noise of 4 of 255": lambda image: noisy(image, rng, 4),
        "the same, upside down": lambda image: image[::-1, ::-1],
        "the same, transposed": lambda image: image.T,
        "the same, negative": lambda image: 255 - image,
        "the same, left half only": lambda image: image[:, : len(image) // 2],
        "the same, in 16 shuffled tiles": lambda image: shuffled(image, rng),
    }.items():
        yield name, [upload(change(one.pixels), spec) for one in slices]
    heads = [Patient.draw(CLASSES[index % len(CLASSES)], seed=1000 + index) for index in range(each)]
    drawn = [draw_phantom(head, VIEWS[index % 3], size=256).image for index, head in enumerate(heads)]
    yield "this project's made-up heads", [prepared(Slice(image), spec, where="head") for image in drawn]
    yield "matplotlib's MRI slice of a head", [upload(not_slices.other_mri(), spec)]
    for text in folders:
        name, _, folder = text.partition("=")
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        chosen = files[:: max(1, len(files) // each)][:each]
        yield name, [prepared(read_slice(path, where=path, labelled=False), spec, where=path) for path in chosen]
    for name, draw in not_slices.KINDS.items():
        yield name, [upload(draw(rng), spec) for _ in range(each)]


def upload(picture: NDArray[np.uint8], spec: Preprocessing) -> Prepared:
    """Send a picture, (H, W) or (H, W, 3), the way of a PNG that somebody uploads."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return prepared(read_slice(buffer.getvalue(), where="upload", labelled=False), spec, where="upload")


def shuffled(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a slice into 4 x 4 tiles and mix them."""
    side = len(image) // 4
    tiles = [image[y * side : (y + 1) * side, x * side : (x + 1) * side] for y in range(4) for x in range(4)]
    order = rng.permutation(16)
    return np.block([[tiles[order[4 * y + x]] for x in range(4)] for y in range(4)])


def as_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a slice and lose what JPEG loses at Pillow's default quality, as slices travel in documents."""
    buffer = io.BytesIO()
    Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return np.asarray(Image.open(buffer))


def noisy(image: NDArray[np.uint8], rng: np.random.Generator, sigma: float) -> NDArray[np.uint8]:
    """Add a scanner's noise, which is Rician, of this standard deviation in units of 1/255."""
    return (
        np.hypot(image + rng.normal(0, sigma, image.shape), rng.normal(0, sigma, image.shape))
        .clip(0, 255)
        .astype(np.uint8)
    )


def milliseconds(measure: Measurer, slices: list[Prepared]) -> float:
    """Time the checks that every request pays, in the median of some slices."""
    times = []
    for question in slices * 5:
        start = time.perf_counter()
        measure.gate.before(question)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000


if __name__ == "__main__":
    main()
