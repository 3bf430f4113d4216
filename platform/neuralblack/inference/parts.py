"""A bulk run's folder: answers in parts, each whole or not there, and a summary that is written last.

OUT/job.json             what was asked for: the same command again goes on, another one is refused
OUT/parts/000003.parquet the answers of shard 3
OUT/summary.json         how many of which, when all parts are there
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neuralblack.errors import InputError
from neuralblack.files import lock, make_folder, read_json, write_bytes, write_json
from neuralblack.inference.predictor import Prediction

STATUS = ("ok", "refused", "unreadable")


def schema_of(classes: Iterable[str]) -> pa.Schema:
    """List the columns of a part.

    `id`; `status`, one of STATUS; of answered slices `label`, `p(CLASS)` for each class, `prediction_set` and its
    `coverage`; `reasons` of refused and `error` of unreadable ones; `model`, its id.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("label", pa.string()),
            *((f"p({name})", pa.float32()) for name in classes),
            ("prediction_set", pa.list_(pa.string())),
            ("coverage", pa.float32()),
            ("reasons", pa.list_(pa.struct([("code", pa.string()), ("sentence", pa.string())]))),
            ("error", pa.string()),
            ("model", pa.string()),
        ]
    )


def answered(name: str, answer: Prediction, *, model: str) -> dict[str, Any]:
    """Make the row of a slice that the model has seen; what a refused one lacks stays empty."""
    chances = {f"p({class_})": chance for class_, chance in (answer.probabilities or {}).items()}
    reasons = [{"code": reason.code, "sentence": reason.sentence} for reason in answer.reasons]
    return {
        "id": name,
        "status": answer.status,
        "label": answer.label,
        **chances,
        "prediction_set": None if answer.prediction_set is None else list(answer.prediction_set),
        "coverage": answer.coverage,
        "reasons": reasons,
        "model": model,
    }


def unreadable(name: str, sentence: str, *, model: str) -> dict[str, Any]:
    """Make the row of a file that is no slice."""
    return {"id": name, "status": "unreadable", "reasons": [], "error": sentence, "model": model}


def write_part(out: Path, number: int, rows: list[dict[str, Any]], *, classes: Iterable[str]) -> None:
    """Write a shard's rows in one step. Done twice, it is there once."""
    table = pa.Table.from_pylist(rows, schema=schema_of(classes))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(_part(out, number), sink.getvalue().to_pybytes())


def parts_done(out: Path) -> set[int]:
    """List the numbers of the parts that are there."""
    return {int(path.stem) for path in (out / "parts").glob("[0-9]*.parquet")}


@contextmanager
def hold_job(out: Path, facts: dict[str, Any]) -> Iterator[None]:
    """Make or reopen a bulk run's folder and keep it to this process for a block.

    Args:
        out: the folder.
        facts: what must be the same to go on.

    Raises:
        InputError: another run or other files are there, or another process works on it.

    """
    job = out / "job.json"
    if out.exists() and not job.exists() and (not out.is_dir() or any(_others(out))):
        raise InputError(
            out, found="other files", expected="a new folder or an earlier run's", fix="choose another folder"
        )
    make_folder(out / "parts")
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(out / ".running", wait=False))
        except BlockingIOError:
            raise InputError(
                out, found="a process that works on it now", expected="one at a time", fix="wait for it"
            ) from None
        if job.exists():
            before = read_json(job)["facts"]
            changed = [name for name in sorted(before | facts) if before.get(name) != facts.get(name)]
            if changed:
                raise InputError(
                    out,
                    found="; ".join(f"{name} {_short(before.get(name))}" for name in changed),
                    expected="; ".join(f"{name} {_short(facts.get(name))}" for name in changed),
                    fix="choose another folder for another input or model",
                )
        else:
            write_json(job, {"facts": facts, "started": _now()})
        for left in (out / "parts").glob(".*"):
            left.unlink(missing_ok=True)  # of a writer that was killed
        yield


def summarise(out: Path, *, items: int) -> dict[str, Any]:
    """Count what all parts say and write summary.json, the last file of a run."""
    statuses, labels = Counter[str](), Counter[str]()
    for number in sorted(parts_done(out)):
        table = pq.read_table(_part(out, number), columns=["status", "label"])
        statuses.update(table["status"].to_pylist())
        labels.update(label for label in table["label"].to_pylist() if label is not None)
    assert statuses.total() == items, "every item has one row"
    result = {
        "items": items,
        "statuses": {name: statuses[name] for name in STATUS},
        "labels": dict(sorted(labels.items())),
        **read_json(out / "job.json"),
        "finished": _now(),
    }
    write_json(out / "summary.json", result)
    return result


def _part(out: Path, number: int) -> Path:
    return out / "parts" / f"{number:06d}.parquet"


def _others(out: Path) -> Iterator[Path]:
    """List what a run that was killed while it started would not have left."""
    for path in out.iterdir():
        empty = path.name == "parts" and not any(path.iterdir())
        if not empty and not re.fullmatch(r"\.running|\.job\.json\.[0-9a-f]{8}", path.name):
            yield path


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]} ..."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
