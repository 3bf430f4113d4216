"""Say in a few rows what a dataset, a model folder or a run holds."""

from pathlib import Path
from typing import Any

from neuralblack.config import TrainConfig, checked
from neuralblack.data.dataset import is_dataset, open_dataset
from neuralblack.data.describe import describe_dataset
from neuralblack.data.shards import MANIFEST as SHARDS
from neuralblack.data.splits import SPLIT_JSON
from neuralblack.errors import InputError
from neuralblack.files import is_address, read_json
from neuralblack.registry.cost import cost_of, said
from neuralblack.registry.model_folder import ModelFolder, open_model, what_is_at
from neuralblack.registry.run_folder import history_of, read_run

Rows = list[tuple[str, str]]


def describe(path: str | Path) -> Rows:
    """Find out what lies at a path or address and describe it; raises InputError where it is none of ours."""
    if is_address(path) or (Path(path) / SHARDS).is_file():
        return describe_dataset(open_dataset(path))
    path = Path(path)
    if (path / "run.json").exists():
        return describe_run(path)
    if (path / "card.json").exists():
        return describe_model(open_model(path))
    if path.is_dir() and is_dataset(path):
        return describe_dataset(open_dataset(path))
    raise InputError(
        path,
        found=what_is_at(path),
        expected="a dataset, a model folder or a run",
        fix="check the path",
    )


def describe_model(model: ModelFolder) -> Rows:
    """Describe a model folder whose hashes were checked."""
    validation, config = model.card["validation"], model.config
    seen = model.card.get("network_input") or model.network.facts
    parts = model.split["parts"]
    return [
        ("model", model.id),
        ("hash", model.hash),
        ("classes", ", ".join(model.classes)),
        ("network", _recipe(config)),
        ("network input", ", ".join(f"{name} {value:g}" for name, value in seen.items())),
        ("chosen", f"epoch {validation['epoch'] + 1} of {config.epochs}, by the {model.card['chosen_by']}"),
        ("on validation", _validation(validation)),
        *((name, _part(part)) for name, part in parts.items()),
        *_calibration(model.calibration),
        ("preprocessing", f"version {model.spec.version}, {model.spec.size} x {model.spec.size} pixels"),
        ("dataset", model.split["dataset"][:12]),
        ("notice", model.card["notice"]),
    ]


def describe_run(run: Path) -> Rows:
    """Describe a run, finished or not."""
    facts, epochs = read_run(run), history_of(run)
    config, split = checked(TrainConfig, facts["config"], where=run / "run.json"), read_json(run / SPLIT_JSON)
    rows = [
        ("run", str(run)),
        ("network", _recipe(config)),
        ("classes", ", ".join(facts["classes"])),
        ("dataset", facts["dataset"][:12]),
        *((name, _part(part)) for name, part in split["parts"].items()),
        ("epochs done", f"{len(epochs)} of {config.epochs}"),
        ("cost", said(cost_of(run))),
    ]
    if "search" in facts:
        words = ", ".join(f"{name} in {space}" for name, space in facts["search"]["space"].items())
        rows.append(("search", f"{facts['search']['trials']} trials over {words}"))
    if epochs:
        last = epochs[-1]
        rows.append(("last epoch", f"{_validation(last)} on validation"))
    model = open_model(run / "model").id if (run / "model").exists() else "none yet; the same command goes on"
    return [*rows, ("model", model)]


def _calibration(calibration: dict[str, Any]) -> Rows:
    """Say how sure a model may sound, with the error that its temperature was not fitted to."""
    if not calibration:
        return [("calibration", "none: probabilities are the network's own, and nothing is refused but colour")]
    sets = calibration["prediction_set"]
    if "borrowed_from" in calibration:
        sure = f"temperature {calibration['temperature']:.2f}, of {calibration['borrowed_from']}: nothing was held out"
        return [("calibration", sure), ("prediction sets", f"{sets['coverage']:.0%} coverage, of the same")]
    ece, gate = calibration["ece"], calibration["gate"]
    fair = "n/a" if ece["after_cross_fitted"] is None else f"{ece['after_cross_fitted']:.3f}"
    sure = f"temperature {calibration['temperature']:.2f}, ECE {ece['before']:.3f} before, {fair} after"
    return [
        ("calibration", f"{sure} (validation, each patient's temperature from the others)"),
        ("prediction sets", f"{sets['coverage']:.0%} coverage, {sets['mean_size']:.2f} classes on average"),
        ("gate", f"refuses {gate['refused']:.1%} of validation" if gate["limits"] else "none but colour and blank"),
    ]


def _validation(metrics: dict[str, float]) -> str:
    names = [name for name in ("macro_f1", "accuracy", "loss") if name in metrics]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in names) or "none"


def _recipe(config: TrainConfig) -> str:
    return f"{config.model}, weights {config.weights}, schedule {config.schedule}, lr {config.lr:g}"


def _part(part: dict[str, object]) -> str:
    patients = part["patients"]
    assert isinstance(patients, list)
    return f"{part['slices']} slices of {len(patients)} patients in folds {part['folds']}"
