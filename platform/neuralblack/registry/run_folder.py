"""A run's folder: what was asked for, what happened epoch by epoch, and the model that came out.

RUN/run.json      the configuration, the dataset's hash, classes: what makes it this run
RUN/split.json    the split's manifest
RUN/environment.json  versions of what computes, and the commit of this package
RUN/epochs/N.json metrics of epoch N, written again where an epoch is done again
RUN/metrics.jsonl the same, a line for each epoch
RUN/cost.jsonl    seconds and workers of every epoch that was computed (see `registry.cost`)
RUN/checkpoints/  states to go on from (Ray Train's folder)
RUN/model/        the best epoch as a model folder, when the run is through
RUN/.running      held by the process that works on it (see `hold_run`)
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuralblack.config import TIMM, TrainConfig
from neuralblack.data.splits import SPLIT_JSON
from neuralblack.errors import InputError
from neuralblack.files import canonical_json, lock, make_folder, read_json, write_bytes, write_json
from neuralblack.registry.environment import environment

UNFINISHED = (  # what a run that was killed while it started may have left, and what a search has put into a trial's
    SPLIT_JSON,
    "environment.json",
    "log.txt",
    "trial.json",
    "cost.jsonl",
    "mlflow.json",
    "tensorboard",
)
LATER = ("learnt_only", "earlier", "other_names")  # of a split's manifest
LOOK_S = 1.0  # who lists runs holds each for a moment, and is not somebody who works on it


def start_run(run: Path, *, config: TrainConfig, split: dict[str, Any], **more: object) -> None:
    """Write what makes this run; the same command again goes on, another one into the same folder is refused.

    Args:
        run: the folder; made where it is missing.
        config: the run's numbers.
        split: the split's manifest, which holds the dataset's hash.
        more: other facts that must be the same to go on, such as a search space.

    Raises:
        InputError: another run is there, or other files; they and the folder are left as they are.

    """
    facts = {"config": config.model_dump(mode="json"), "classes": split["classes"], "dataset": split["dataset"], **more}
    if config.model.startswith(TIMM):  # which may say another size or mean by the time that a run goes on
        from neuralblack.models.table import network_for  # torch takes a second: only where needed

        facts["network_input"] = network_for(config).facts
    # Both are made before either is written: what JSON cannot hold must not leave half a run.
    split_text = canonical_json(split)
    run_text = canonical_json({"facts": facts, "started": datetime.now(UTC).isoformat(timespec="seconds")})
    _make(run)
    with lock(run / ".lock"):
        if (run / "run.json").exists():
            changed, parts = _changes(_facts_before(run), facts), read_json(run / SPLIT_JSON)
            # What later versions write beside the parts follows from them and from the weights.
            if changed or parts != {name: split[name] for name in split if name not in LATER or name in parts}:
                raise _another_run(run, changed or ["another split"])
            return
        write_bytes(run / SPLIT_JSON, split_text)
        write_json(run / "environment.json", environment())
        write_bytes(run / "run.json", run_text)


def check_run_folder(run: Path, *, config: TrainConfig) -> None:
    """Refuse a folder that `start_run` would refuse whatever the slices are; best asked before weights are fetched.

    Raises:
        InputError: a run of another configuration is there, or other files. Nothing is written.

    """
    _refuse_other_files(run)
    if (run / "run.json").exists():
        now = {"config": config.model_dump(mode="json")}
        if changed := _changes({"config": _facts_before(run)["config"]}, now):
            raise _another_run(run, changed)


@contextmanager
def hold_run(run: Path) -> Iterator[None]:
    """Keep a run to this process while the block lasts; made where it is missing.

    The kernel frees it when the process ends, however it ends. On a network disk it holds between machines as far as
    flock does there.

    Raises:
        InputError: another process, or another handle in this one, holds it; or the folder is no run's.

    """
    _make(run)
    with ExitStack() as stack:
        waited_s = 0.0
        while True:
            try:
                stack.enter_context(lock(run / ".running", wait=False))
                break
            except BlockingIOError:
                if waited_s >= LOOK_S:
                    raise InputError(
                        run,
                        found="a process that works on it now",
                        expected="one at a time",
                        fix="wait for it, or choose another folder",
                    ) from None
            time.sleep(LOOK_S / 20)
            waited_s += LOOK_S / 20
        yield


def record_epoch(run: Path, metrics: dict[str, float]) -> None:
    """Keep an epoch's metrics, keyed by epoch: an epoch that is done again after a failure is there once."""
    folder = run / "epochs"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{int(metrics['epoch']):04d}.json", metrics)
    lines = [json.dumps(each, sort_keys=True, allow_nan=False) + "\n" for each in history_of(run)]
    write_bytes(run / "metrics.jsonl", "".join(lines).encode())


def history_of(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of every epoch, first to last."""
    return [read_json(path) for path in sorted((run / "epochs").glob("*.json"))]


def read_run(run: Path) -> dict[str, Any]:
    """Read what a run was asked for; raises InputError where another program wrote the file."""
    facts: dict[str, Any] = _run_json(run)["facts"]
    return facts


def started_at(run: Path) -> str:
    """Say when a run was started first, in UTC, as ISO 8601; raises InputError as `read_run` does."""
    return str(_run_json(run)["started"])


def _run_json(run: Path) -> dict[str, Any]:
    values = read_json(run / "run.json")
    facts = values.get("facts") if isinstance(values, dict) else None
    if not isinstance(facts, dict) or not {"config", "classes", "dataset"} <= set(facts) or "started" not in values:
        raise InputError(
            run / "run.json",
            found="a file of another program",
            expected="the run.json of a run",
            fix="neuralblack train DATASET RUN",
        )
    return dict(values)


def _facts_before(run: Path) -> dict[str, Any]:
    """Read what a run was asked for, with fields that came later than the run: it was trained as their defaults say."""
    facts = read_run(run)
    return {**facts, "config": TrainConfig().model_dump(mode="json") | facts["config"]}


def _another_run(run: Path, changed: list[str]) -> InputError:
    return InputError(
        run,
        found="a run with " + "; ".join(changed),
        expected="the same command as before, to go on",
        fix="choose another folder for another run",
    )


def _make(run: Path) -> None:
    """Make a run's folder where it is missing; a folder of something else is refused before it is touched."""
    _refuse_other_files(run)
    make_folder(run)


def _refuse_other_files(run: Path) -> None:
    if run.is_dir() and not (run / "run.json").exists():
        others = [path for path in run.iterdir() if not path.name.startswith(".") and path.name not in UNFINISHED]
        if others and not (run / "run.json").exists():  # not one that another process has begun meanwhile
            raise InputError(
                run, found="other files", expected="an empty folder or an earlier run", fix="choose another folder"
            )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    flat_before, flat_now = _flat(before), _flat(now)
    return [
        f"{key} {flat_before.get(key)!r} where this command says {flat_now.get(key)!r}"
        for key in sorted(flat_before | flat_now)
        if flat_before.get(key) != flat_now.get(key)
    ]


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}".removeprefix("config.")
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
