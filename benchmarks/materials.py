"""What a benchmark needs before it starts: a registry with a model, and pictures to post."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from neuralblack.config import TrainConfig
from neuralblack.data.phantoms import VIEWS, Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.files import write_json, write_manifest
from neuralblack.inference.golden import drawn_slices
from neuralblack.inference.openvino_engine import save_int8
from neuralblack.inference.quantize import quantised
from neuralblack.labels import CLASSES
from neuralblack.models.table import build_model
from neuralblack.registry.aliases import CHAMPION, resolve
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import ModelFolder, open_model, save_model
from neuralblack.registry.promotion import promote

MODELS = {"lite0": "efficientnet_lite0", "resnet50": "resnet50"}
PICTURES = {
    # name in a cell: media type, pixels a side, arguments of Pillow's save
    "jpeg": ("image/jpeg", 224, {"format": "JPEG", "quality": 90}),
    "png": ("image/png", 512, {"format": "PNG"}),
}


def untrained_registry(folder: Path, *, model: str, int8: bool = False) -> Path:
    """Make a registry whose champion has random weights: it takes the same time as a trained one.

    With `int8` the network is quantised as well, for its speed: `neuralblack quantize` would keep no such network,
    because it has no accuracy to keep.
    """
    if model not in MODELS:
        raise InputError("--model", found=model, expected="one of " + ", ".join(MODELS), fix="or --registry DIR")
    config = TrainConfig(model=MODELS[model], weights="none")
    save_model(
        folder / "untrained",
        build_model(config.model, classes=len(CLASSES), seed=3).state_dict(),
        card={"classes": list(CLASSES), "config": config.model_dump(mode="json")},
        spec=Preprocessing(size=256),
        split={},
        history=[],
    )
    if int8:
        _quantise(open_model(folder / "untrained"))
    promote(folder / "untrained", folder / "registry", Judgement(forced="a benchmark"))
    return folder / "registry"


def _quantise(folder: ModelFolder) -> None:
    save_int8(quantised(folder, drawn_slices(folder.spec).numpy()), folder.path)
    write_json(folder.path / "card.json", {**folder.card, "int8": "random weights, never measured"})
    (folder.path / "manifest.json").unlink()
    write_manifest(folder.path)


def champion(registry: Path) -> ModelFolder:
    """Find the model that the registry serves; raises InputError."""
    return resolve(registry.resolve(), CHAMPION)


def write_pictures(folder: Path, *, kind: str, count: int = 8) -> list[Path]:
    """Write made-up slices, as a picture of `kind` (a key of PICTURES); returns their paths."""
    _, side, options = PICTURES[kind]
    paths = []
    for seed in range(count):
        patient, view = Patient.draw(CLASSES[seed % len(CLASSES)], seed=seed), sorted(VIEWS)[seed % len(VIEWS)]
        image = draw_phantom(patient, view, size=side).image
        buffer = io.BytesIO()
        Image.fromarray((image / image.max() * 255).astype(np.uint8)).save(buffer, **options)
        paths.append(folder / f"{seed}.{kind}")
        paths[-1].write_bytes(buffer.getvalue())
    return paths
