"""Bulk against posting: the same files classified by jobs/predict.py and by a running service, turn and turn about.

python -m benchmarks.bulk                                      made-up slices, an untrained ResNet-50
python -m benchmarks.bulk --scans FOLDER --model runs/first    your own
"""

import json
import os
import queue
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from benchmarks.intervals import paired_ratio
from benchmarks.machine import foot

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 32
Row = dict[str, float]


def main(
    scans: Annotated[Path | None, typer.Option(help="A folder of slices; none given: made-up ones.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run or model folder; none given: an untrained ResNet-50.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Of both.")] = "auto",
    files: Annotated[int, typer.Option(min=20, help="Files a round.")] = 400,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path, typer.Option(help="The report.")] = ROOT / "docs" / "benchmarks" / "bulk.md",
) -> None:
    """Measure, print, and write the report."""
    with tempfile.TemporaryDirectory(prefix="nb-bulk-") as name:
        folder = Path(name)
        source, registry = lay_out(scans, folder / "scans", files), folder / "registry"
        champion = promoted(model, folder, registry)
        found: dict[str, list[Row]] = {"bulk": [], "posting": []}
        measure = {
            "bulk": lambda: run_bulk(source, folder / f"out{len(found['bulk'])}", registry, engine),
            "posting": lambda: run_service(source, folder, registry, engine),
        }
        for number in range(rounds):
            for name in list(measure)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(measure[name]())
                print(f"round {number + 1} {name:7} {said(found[name][-1])}", flush=True)
    report = as_report(*found.values(), files=files, engine=engine, champion=champion, scans=scans)
    print(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report)


def lay_out(scans: Path | None, folder: Path, files: int) -> Path:
    """Link `files` slices, in one folder, from those given or from made-up ones of 512 x 512 pixels."""
    from neuralblack.data.phantoms import write_phantoms
    from neuralblack.data.readers import READERS

    if scans is None:
        scans = folder.with_name("phantoms")
        write_phantoms(scans, patients=max(4, -(-files // 8)), slices=3, size=512)
    found = sorted(path for path in scans.rglob("*") if path.suffix in READERS and path.name != "cvind.mat")[:files]
    if len(found) < files:
        raise SystemExit(f"{scans} has {len(found)} slices; ask for so many: --files {len(found)}")
    folder.mkdir()
    for number, path in enumerate(found):
        (folder / f"{number:05d}{path.suffix}").symlink_to(path.resolve())
    return folder


def promoted(model: Path | None, folder: Path, registry: Path) -> str:
    """Make a model the champion of a registry of this benchmark's own; return its id."""
    from neuralblack.config import TrainConfig
    from neuralblack.data.preprocessing import Preprocessing
    from neuralblack.labels import CLASSES
    from neuralblack.models.table import build_model
    from neuralblack.registry.gate import Judgement
    from neuralblack.registry.model_folder import save_model
    from neuralblack.registry.promotion import promote

    if model is None:
        model = folder / "untrained"
        card = {"classes": list(CLASSES), "config": TrainConfig(weights="none").model_dump(mode="json")}
        state = build_model("resnet50", classes=len(CLASSES)).state_dict()
        save_model(model, state, card=card, spec=Preprocessing(), split={}, history=[])
    return promote(model, registry, Judgement(forced="a benchmark")).id


def run_bulk(source: Path, out: Path, registry: Path, engine: str) -> Row:
    """Classify all files as a user would; slices/s with and without what comes before the first part is written."""
    command = [sys.executable, "jobs/predict.py", source, out, "--registry", registry, "--engine", engine]
    start = time.time()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.time() - start
    summary = json.loads((out / "summary.json").read_text())
    assert summary["statuses"]["unreadable"] == 0, summary
    parts = sorted(path.stat().st_mtime for path in (out / "parts").iterdir())
    # One part of each model was under way, all but done, when the clock starts with the first one: none of them counts.
    counted = summary["items"] * (1 - min(len(parts), os.cpu_count() or 1) / len(parts))
    return {
        "seconds": seconds,
        "start": parts[0] - start,
        "whole": summary["items"] / seconds,
        "steady": counted / (parts[-1] - parts[0]),
    }


def run_service(source: Path, folder: Path, registry: Path, engine: str) -> Row:
    """Start a service, post every file once over CLIENTS kept-alive connections, stop it."""
    start = time.time()
    with service(folder, registry, engine) as port:
        ready = time.time()
        post_all(source, port)
        seconds = time.time() - ready
    count = len(list(source.iterdir()))
    return {
        "seconds": ready - start + seconds,
        "start": ready - start,
        "whole": count / (ready - start + seconds),
        "steady": count / seconds,
    }


@contextmanager
def service(folder: Path, registry: Path, engine: str) -> Iterator[int]:
    """Run local.yaml with every CPU of this machine for its network, as the bulk run has them; yields the port."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text())
    (application,) = config["applications"]
    application["args"]["engine"] = engine
    application["deployments"][0]["ray_actor_options"]["num_cpus"] = os.cpu_count()
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("neuralblack")
    command = [program, "serve", path, "--registry", registry, "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout
        if not any(f":{port}" in line for line in process.stdout):
            raise SystemExit(f"the service ended with status {process.wait()}")
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def post_all(source: Path, port: int) -> None:
    """Post every file once; any answer but 200 ends the benchmark."""
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in sorted(source.iterdir()):
        waiting.put(path)
    wrong: list[str] = []

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        while not wrong:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                break
            connection.request("POST", "/predict", path.read_bytes(), {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                wrong.append(f"{path.name}: {response.status} {body.decode()}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise SystemExit(wrong[0])


def said(row: Row) -> str:
    """Say a round in a line."""
    return f"{row['steady']:6.1f}/s, {row['whole']:6.1f}/s with the {row['start']:.1f} s before the first answers"


def as_report(bulk: list[Row], posted: list[Row], *, files: int, engine: str, champion: str, scans: Path | None) -> str:
    """Lay the rounds out as the page of docs/benchmarks/."""
    rates = {
        name: [{number: row[name] for number, row in enumerate(rows)} for rows in (bulk, posted)]
        for name in ("steady", "whole")
    }
    ratios = {name: paired_ratio(*each) for name, each in rates.items()}
    what = "made-up slices of 512 x 512 pixels, .mat and PNG" if scans is None else "slices"
    lines = [
        "# Bulk against posting",
        "",
        f"{files} {what}, model {champion}, engine `{engine}` for both. *Bulk* is `jobs/predict.py`. *Posting* is",
        "`neuralblack serve` with `serve_configs/local.yaml` and every CPU for its network, and "
        f"{CLIENTS} clients in one process,",
        "connections kept alive, each file posted once. Each is first in turn; neither runs while the other does.",
        "",
        "| round | bulk, slices/s | posting, slices/s | ratio | bulk with start-up | posting with start-up | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, (a, b) in enumerate(zip(bulk, posted, strict=True)):
        lines.append(
            f"| {number + 1} | {a['steady']:.1f} | {b['steady']:.1f} | {a['steady'] / b['steady']:.2f} "
            f"| {a['whole']:.1f} | {b['whole']:.1f} | {a['whole'] / b['whole']:.2f} |"
        )
    lines += [
        f"| median | {mid(bulk, 'steady'):.1f} | {mid(posted, 'steady'):.1f} | **{ratios['steady']}** "
        f"| {mid(bulk, 'whole'):.1f} | {mid(posted, 'whole'):.1f} | **{ratios['whole']}** |",
        "",
        "Without start-up is, of bulk, from the first part written to the last, leaving out as many parts as models",
        "are at work; of posting, from the first request of a ready service to the last answer. With start-up is from",
        "the command to its end, and from the service's command to the last answer. "
        f"Bulk's first part came after {mid(bulk, 'start'):.0f} s; the service",
        f"was ready after {mid(posted, 'start'):.0f} s (medians).",
        "",
        *foot("benchmarks.bulk"),
    ]
    return "\n".join(lines)


def mid(rows: list[Row], name: str) -> float:
    """Take the median of a number over the rounds."""
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    typer.run(main)
