"""Quantise a trained network to int8 for OpenVINO, and keep it only where it keeps the accuracy.

neuralblack quantize RUN DATASET
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralblack.data.crops import as_shown
from neuralblack.data.dataset import Dataset, class_numbers, open_dataset, sample_of
from neuralblack.data.splits import SPLIT_JSON, Split, load_split
from neuralblack.errors import InputError, RunError
from neuralblack.files import new_folder, write_json, write_manifest
from neuralblack.inference.eager import eager
from neuralblack.inference.golden import Golden, with_margin
from neuralblack.inference.openvino_engine import INT8, Compiled, converted, import_openvino, save_int8
from neuralblack.inference.outputs import Forward
from neuralblack.inference.whole_network import whole_network
from neuralblack.metrics import summarise
from neuralblack.models.heads import probabilities
from neuralblack.registry.model_folder import ModelFolder, is_model_id, load_reference, model_path, open_model

log = logging.getLogger(__name__)

CALIBRATION = 300  # slices of the training part, nncf's own default
ALLOWED = 0.002  # of macro-F1 on the validation part, up or down: a gain says other answers, not better ones
STEM = "backbone.stem."  # in the names of its operations; every row of MODELS has this stage
GOLDEN = 32  # slices of the validation part where the folder has none of its own
BATCH = 32


def quantize(path: Path, data: str | Path, *, calibration: int = CALIBRATION) -> ModelFolder:
    """Quantise a model folder's network, measure it, and write it into the folder, which gets a new hash and id.

    Args:
        path: a run, or its model folder; not one in a registry, whose name is its hash.
        data: the dataset that it was trained on: activations are measured on slices of its training part, the
            accuracy on its validation part.
        calibration: how many slices.

    Raises:
        RunError: int8 moves macro-F1 by more than ALLOWED or changes a golden slice's top class; nothing is written.
        InputError: no nncf, another dataset, a model in a registry.
    """
    import_openvino("nncf")  # before anything takes long
    folder = open_model(model_path(path))
    dataset = as_shown(open_dataset(data), folder.config.input)
    if is_model_id(folder.path.name):
        raise InputError(
            folder.path, found="a model in a registry", expected="a run", fix="quantise the run, then promote it"
        )
    split = load_split(folder.split, dataset, where=folder.path / SPLIT_JSON)
    if not len(split.validation):
        raise InputError(
            path, found="no validation part", expected="slices to compare int8 with fp32 on", fix="train with one"
        )
    rows = np.random.default_rng(0).choice(split.train, min(calibration, len(split.train)), replace=False)
    model = quantised(folder, dataset.images[rows])
    facts = _measure(folder, Compiled(model, "int8"), dataset, split)
    said = (
        f"macro-F1 {facts['macro_f1_int8']:.4f} in int8, {facts['macro_f1_fp32']:.4f} in fp32; "
        f"{facts['golden_changed']} of {facts['golden']} golden slices changed their class"
    )
    if abs(facts["macro_f1_int8"] - facts["macro_f1_fp32"]) > ALLOWED or facts["golden_changed"]:
        raise RunError(f"int8 does not keep the accuracy, nothing is written: {said}")
    log.info("int8 keeps the accuracy: %s", said)
    with _rewritten(folder) as place:
        save_int8(model, place)
        write_json(place / "card.json", {**folder.card, "int8": {**facts, "calibration_slices": calibration}})
    return open_model(folder.path)


def quantised(folder: ModelFolder, images: NDArray[np.uint8]) -> Any:
    """Quantise a network after its training with nncf: weights to int8, activations by what they are on some slices.

    Args:
        folder: the model.
        images: (N, S, S) uint8, slices that it may have been trained on.

    Returns:
        An OpenVINO model, (?, S, S) uint8 -> logits, features.

    """
    nncf, model = import_openvino("nncf"), converted(whole_network(folder))
    logging.getLogger("nncf").setLevel(logging.WARNING)  # it would list every layer that it leaves as it is
    operations = model.get_ordered_ops()
    first = [operation.get_type_name() for operation in operations].index("Convolution")
    # The resize stays exact: its matrices are no weights, and the plugin cannot fuse their scales. The stem stays in
    # floating point: with Lite0 on 562 validation slices, 10 changed their class with it in int8, 5 without.
    outside = [op.friendly_name for op in operations[:first] if op.get_type_name() in ("MatMul", "Multiply", "Add")]
    outside += [
        op.friendly_name for op in operations if STEM in op.friendly_name and "Convolution" in op.get_type_name()
    ]
    return nncf.quantize(
        model,
        nncf.Dataset([image[None] for image in images]),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=outside),
    )


def _measure(folder: ModelFolder, int8: Forward, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Compare int8 with eager fp32 on the validation part and on the golden slices."""
    fp32 = eager(folder, dtype=torch.float32, device=torch.device("cpu"))
    validation = sample_of(split.validation, dataset)
    images = dataset.images[validation]
    labels = class_numbers(dataset, validation, split.classes)
    first, second = (run_all(run, images, classes=len(split.classes)) for run in (fp32, int8))
    golden = _golden(folder, images, first)
    answers = run_all(int8, golden.images.numpy(), classes=len(split.classes))
    scores = [summarise(labels, probabilities(logits).numpy(), split.classes)["macro_f1"] for logits in (first, second)]
    return {
        "macro_f1_fp32": scores[0],
        "macro_f1_int8": scores[1],
        "slices": len(labels),
        "agreement": float((first.argmax(1) == second.argmax(1)).float().mean()),
        "largest_difference": float((probabilities(first) - probabilities(second)).abs().max()),
        "golden": len(golden.images),
        "golden_changed": int((golden.logits.argmax(1) != answers.argmax(1)).sum()),
    }


def _golden(folder: ModelFolder, images: NDArray[np.uint8], logits: Tensor) -> Golden:
    """Take the folder's golden slices, or validation slices all over the part that fp32 is sure of."""
    kept = load_reference(folder)
    if "golden_images" in kept:
        return Golden(kept["golden_images"], kept["golden_logits"])
    sure = with_margin(logits)
    rows = sure[torch.linspace(0, len(sure) - 1, min(GOLDEN, len(sure))).long()]
    return Golden(torch.from_numpy(images[rows.numpy()]), logits[rows])


def run_all(run: Forward, images: NDArray[np.uint8], *, classes: int) -> Tensor:
    """Run any number of stored slices, (N, S, S) uint8, also none, and keep the logits, (N, `classes`)."""
    batches = (torch.from_numpy(np.array(images[at : at + BATCH])) for at in range(0, len(images), BATCH))
    return torch.cat([run(batch).logits for batch in batches] or [torch.zeros(0, classes)])


@contextmanager
def _rewritten(folder: ModelFolder) -> Iterator[Path]:
    """Fill a copy of a model folder, which takes its place whole."""
    with new_folder(folder.path) as place:
        shutil.copytree(folder.path, place, dirs_exist_ok=True)
        for old in (INT8, INT8.replace(".xml", ".bin"), "manifest.json"):
            (place / old).unlink(missing_ok=True)
        yield place
        write_manifest(place)
