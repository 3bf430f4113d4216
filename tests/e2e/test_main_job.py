"""The main job through the commands that a user types: from made-up scans to a prediction of the champion."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from neuralblack.cli import app

pytestmark = pytest.mark.e2e
LITE0 = ["--set", "model=efficientnet_lite0", "--set", "size=64", "--set", "batch_size=16"]


def neuralblack(*words: object) -> str:
    """Run a command; its output. A failure shows what it said."""
    command = [Path(sys.executable).with_name("neuralblack"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def neuralblack_here(*words: object) -> str:
    """Run a command in this process, which has loaded what it needs."""
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_scans_become_a_champion_that_predicts_by_the_examples_of_the_help(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def example(verb: str, *more: object, run=neuralblack) -> str:
        """Run what a verb's --help shows, with more words behind it."""
        (shown,) = re.findall(r"Example: neuralblack (.*)", get_command(app).commands[verb].help)
        return run(*shlex.split(shown.partition(" && ")[0]), *more)

    look = partial(example, run=neuralblack_here)
    example("phantoms", "--patients", 20, "--slices", 1, "--size", 128)
    (tmp_path / "made-up" / "figshare").rename(tmp_path / "figshare_1512427")
    example("prepare", tmp_path / "made-up" / "images", "--size", 128)
    assert "no tumour" in look("describe")
    assert "slices without an outlined tumour are left out" in look("export")

    said = example("train", "--workers", 2, *LITE0, "--set", "epochs=1", "--set", "schedule=head-only")
    assert "runs/first/model" in said
    assert "1 of 1" in neuralblack_here("describe", tmp_path / "runs" / "first")
    assert "first" in look("runs")

    table = example("evaluate")
    for name in ("the model", "majority class", "1-NN", "linear probe"):
        assert name.split()[0] in table
    report = tmp_path / "reports" / "first"
    metrics = json.loads((report / "metrics.json").read_text())
    predictions = pq.read_table(report / "predictions.parquet")
    assert metrics["slices"] == len(predictions) == sum(map(sum, metrics["confusion"]))
    assert (report / "report.html").stat().st_size > 10_000

    said = look("promote", "--force", "a test of the way, not of the model")
    champion = said.rpartition("champion ")[2].split()[0]
    assert "promotion gate" in said and "forced: a test of the way" in said
    assert champion in look("audit")
    shutil.copy(next((tmp_path / "made-up" / "images").rglob("*.png")), tmp_path / "scan.png")
    assert example("predict").startswith("scan.png\t")
    scan = tmp_path / "figshare_1512427" / "1.mat"
    words = ("--registry", tmp_path / "registry", "--json", "--engine", "eager-fp32")
    line = json.loads(neuralblack_here("predict", scan, *words))
    assert line["model"]["name"] == champion
    assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
    assert sum(line["probabilities"].values()) == pytest.approx(1)


@pytest.mark.soak
def test_the_demo_ends_with_a_prediction_over_http(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "jobs" / "demo.py", tmp_path / "demo", "--patients", "20"]

    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=1200)

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": "ok"' in done.stdout and "over HTTP" in done.stdout


def started(lines: str) -> list[int]:
    """Numbers of the trials that start in these lines of a search."""
    return sorted(int(number) for number in re.findall(r"trial (\d+) of 3 starts: ", lines))


def test_a_search_that_was_killed_goes_on_with_the_same_command(dataset, tmp_path):
    run = tmp_path / "search"
    words = ["tune", dataset.path, run, "--trials", 3, "--concurrent", 1, *LITE0, "--set", "epochs=2"]
    command = [Path(sys.executable).with_name("neuralblack"), *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        lines = iter(process.stderr.readline, "")
        (first,) = started(next(line for line in lines if " starts: " in line))
        (second,) = started(next(line for line in lines if " starts: " in line))
        assert any(f"trial {second} epoch 1" in line for line in lines)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    said = subprocess.run(command, capture_output=True, text=True, timeout=300)

    assert said.returncode == 0, said.stdout + said.stderr
    assert "going on with the search" in said.stderr
    assert started(said.stderr) == sorted({1, 2, 3} - {first}), "the first trial had come to its end"
    rows = json.loads((run / "trials.json").read_text())
    assert sorted(row["trial"] for row in rows) == [1, 2, 3]
    assert all(row["epochs"] >= 1 and row["error"] is None for row in rows)
    assert (run / "model" / "manifest.json").exists()
