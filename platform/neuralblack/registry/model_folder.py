"""A model folder: weights, card, preprocessing, calibration, split, history; hashes last, checked at every load.

weights.safetensors    the bare network's state dict
card.json              what people should know: configuration, classes, the network's input, validation, calibration
preprocessing.json     how slices must be prepared for it
calibration.json       numbers behind its answers: temperature, prediction sets, refusal
reference.safetensors  what an engine and the gate are compared with (golden slices, features); may be missing
split.json, history.json, manifest.json
"""

import re
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import load, save_file
from torch import Tensor, nn

from neuralblack.config import TrainConfig, checked
from neuralblack.data.dataset import is_dataset
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.shards import MANIFEST as SHARDS
from neuralblack.data.splits import SPLIT_JSON
from neuralblack.errors import InputError
from neuralblack.files import MANIFEST, check_manifest, new_folder, read_json, write_json, write_manifest
from neuralblack.models.heads import scoring
from neuralblack.models.network import Network
from neuralblack.models.table import build_model, is_ours, network_for

WEIGHTS, REFERENCE = "weights.safetensors", "reference.safetensors"
ID_DIGITS = 12  # of the hash, at the end of a model's id


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says, every file checked against its hash."""

    path: Path
    hash: str  # of the manifest, 64 hex digits
    card: dict[str, Any]
    spec: Preprocessing
    calibration: dict[str, Any]  # as `inference.calibration` writes it; {} where the run did not calibrate
    split: dict[str, Any]  # the split's manifest
    history: list[dict[str, Any]]  # one row an epoch
    files: dict[str, str]  # name -> SHA-256, as checked

    @property
    def id(self) -> str:
        """The name in a registry, in addresses and in metrics: the network and the first 12 digits of the hash.

        What a file's name or a label might not hold, as in `timm:resnet18.a1_in1k`, is an underscore there.
        """
        return f"{re.sub(r'[^a-z0-9_]', '_', self.config.model.lower())}-{self.hash[:ID_DIGITS]}"

    @property
    def config(self) -> TrainConfig:
        """The configuration that it was trained with."""
        return checked(TrainConfig, self.card["config"], where=self.path / "card.json")

    @property
    def network(self) -> Network:
        """Its network, with the input that it was trained with, whatever a later version of timm says of it."""
        return replace(network_for(self.config), **self.card.get("network_input", {}))

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of its training part, in the order of its outputs."""
        return tuple(self.card["classes"])


def save_model(
    path: Path,
    state: dict[str, Tensor],
    *,
    card: dict[str, Any],
    spec: Preprocessing,
    split: dict[str, Any],
    history: list[dict[str, Any]],
    calibration: dict[str, Any] | None = None,
    reference: dict[str, Tensor] | None = None,
) -> ModelFolder:
    """Write a model folder in one step; what was at `path` before is replaced whole.

    Args:
        path: the folder.
        state: the bare model's state dict, any device.
        card: holds `classes` and `config`, and whatever else is worth knowing.
        spec: how slices must be prepared for it.
        split: the manifest of the split that it was trained on.
        history: metrics of each epoch.
        calibration: temperature, prediction sets and refusal, as `inference.calibration` measures them.
        reference: tensors that engines and the gate are compared with.

    """
    with new_folder(path) as folder:
        save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, folder / WEIGHTS)
        write_json(folder / "card.json", card)
        write_json(folder / "preprocessing.json", spec.model_dump())
        write_json(folder / "calibration.json", calibration or {})
        if reference:
            save_file(reference, folder / REFERENCE)
        write_json(folder / SPLIT_JSON, split)
        write_json(folder / "history.json", history)
        write_manifest(folder)
    return open_model(path)


def open_model(path: Path) -> ModelFolder:
    """Check a model folder and read all but its weights.

    Raises InputError where something else is there, naming it, or a file that is missing or differs.
    """
    _refuse_another_kind(path)
    hash_ = check_manifest(path)
    wanted = {WEIGHTS, *(f"{name}.json" for name in ("card", "preprocessing", "calibration", "split", "history"))}
    files = read_json(path / MANIFEST)["files"]
    missing = sorted(wanted - set(files))
    if missing:
        raise InputError(
            path, found="no " + ", ".join(missing), expected="a model folder", fix="give RUN/model or a registry"
        )
    card = read_json(path / "card.json")
    spec = checked(Preprocessing, read_json(path / "preprocessing.json"), where=path / "preprocessing.json")
    calibration, split, history = (read_json(path / f"{name}.json") for name in ("calibration", "split", "history"))
    return ModelFolder(path, hash_, card, spec, calibration, split, history, files)


def what_is_at(path: Path) -> str:
    """Say for a message what lies at a path where something else was expected."""
    if not path.exists():
        return "nothing"
    if not path.is_dir():
        return "a file"
    if is_dataset(path) or (path / SHARDS).is_file():
        return "a prepared dataset"
    return "a folder of runs" if _runs_in(path) else "a folder of another kind"


def _refuse_another_kind(path: Path) -> None:
    """Raise InputError where a path is no model folder, not even one that a kill or a damage left incomplete."""
    ours = path.is_dir() and any((path / name).is_file() for name in (MANIFEST, "card.json", WEIGHTS))
    if ours and not is_dataset(path):
        return
    if path.name == "model" and not path.exists() and (path.parent / "run.json").is_file():
        fix = "the same command again goes on with it; of a cross-validation, name one of the runs in it"
        raise InputError(path.parent, found="a run without a model", expected="one that is through", fix=fix)
    runs = _runs_in(path)
    fix = f"name one of them, such as {runs[0]}" if runs else "check the path"
    raise InputError(path, found=what_is_at(path), expected="a run or a model folder", fix=fix)


def _runs_in(path: Path) -> list[Path]:
    return sorted(each.parent for each in path.glob("*/run.json"))


def load_weights(folder: ModelFolder) -> nn.Sequential:
    """Build the network of a checked folder with its weights, in eval mode, on the CPU; it gives `heads.scores`.

    Raises InputError where the network is not what it was (timm's may change from version to version), or the folder
    is no more what was opened.
    """
    model = build_model(folder.config.model, classes=len(folder.classes))
    weights = _tensors(folder, WEIGHTS)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            folder.path,
            found=f"weights of another {folder.config.model} than the one here ({str(error).splitlines()[-1].strip()})",
            expected="those of the same network",
            fix=f"install what it was made with: {folder.card.get('made_with', 'see its card')}",
        ) from None
    model[-1] = scoring(model[-1], loss=folder.config.loss)
    return model.eval()


def load_reference(folder: ModelFolder) -> dict[str, Tensor]:
    """Read the tensors that engines and the gate are compared with; {} where the run kept none.

    Raises InputError where the folder is no more what was opened.
    """
    return _tensors(folder, REFERENCE) if REFERENCE in folder.files else {}


def _tensors(folder: ModelFolder, name: str) -> dict[str, Tensor]:
    """Read tensors, their bytes checked anew: a service may read them long after it opened the folder."""
    try:
        data = (folder.path / name).read_bytes()
    except OSError as error:
        found = f"no readable file ({type(error).__name__})"
    else:
        hash_ = sha256(data).hexdigest()
        if hash_ == folder.files[name]:
            return load(data)
        found = hash_[:ID_DIGITS]
    raise InputError(
        folder.path / name,
        found=found,
        expected=f"SHA-256 {folder.files[name][:ID_DIGITS]}, as when the model was opened",
        fix="restore the file from a good copy, or start the program again where another model came there",
    )


def split_behind(config: TrainConfig) -> dict[str, Any] | None:
    """Read the split of the model that a configuration's `weights` are of; None for published ones.

    It lies beside a model folder's weights, and in the folder of the run that a checkpoint belongs to. Raises
    InputError where a file of this platform has neither: then nobody can say whom the model has seen.
    """
    path = Path(config.weights)
    if path.name == WEIGHTS and (path.parent / SPLIT_JSON).exists():
        return open_model(path.parent).split
    if config.weights in ("imagenet", "none") or not is_ours(config.model, config.weights):
        return None
    beside, *above = path.resolve().parents
    for folder in (beside, *(each for each in above if (each / "run.json").exists())):
        if (folder / SPLIT_JSON).exists():
            split: dict[str, Any] = read_json(folder / SPLIT_JSON)
            return split
    raise InputError(
        f"weights {path}",
        found="a model of this platform without its split",
        expected="one that says which patients it has seen",
        fix="give RUN/model/weights.safetensors",
    )


def model_path(path: Path) -> Path:
    """Let people name a run where a model is meant: RUN stands for RUN/model."""
    return path / "model" if (path / "run.json").exists() else path


def is_model_id(name: str) -> bool:
    """Tell a model's id from an alias.

    >>> is_model_id("resnet50-0123456789ab"), is_model_id("champion")
    (True, False)
    """
    return re.fullmatch(r"[a-z0-9_]+-[0-9a-f]{12}", name) is not None
