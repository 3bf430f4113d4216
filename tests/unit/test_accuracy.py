"""The accuracy benchmark: a part keeps of answers what a table needs, and a table of parts counts what they said."""

import itertools
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import accuracy_part
from benchmarks.accuracy_part import (
    CHOICES,
    FIRST,
    MARKED,
    OUTLINED,
    REFITTED,
    SECOND,
    VERSION,
    WINNER,
    Settings,
    choices_of,
    complete_folds,
    is_of,
    measure_part,
)
from benchmarks.accuracy_row import row_of
from benchmarks.accuracy_table import Pooled, markdown
from tests.e2e.processes import descendants, words_of
from tests.tiny import phantom_dataset

from neuralblack.config import TrainConfig, with_overrides
from neuralblack.data.prepare import prepare
from neuralblack.errors import InputError, RunError
from neuralblack.evaluation.bootstrap import intervals
from neuralblack.evaluation.patients import Slices
from neuralblack.files import write_json
from neuralblack.inference.reference import calibrate
from neuralblack.training.runs import train_here

ROOT = Path(__file__).parents[2]
CLASSES = ["glioma", "meningioma", "pituitary"]
OVERRIDES = ["model=tiny", "weights=none", "batch_size=16", "precision=fp32"]


def said(patients: int = 12, *, seed: int = 0) -> Slices:
    """Answers to three slices of each patient, most of them right."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(patients) % 3, 3)
    shares = random.dirichlet(np.ones(3), size=len(labels)) + 0.7 * np.eye(3)[labels]
    return Slices(labels, shares, [f"patient {index // 3}" for index in range(len(labels))])


def part(*rows, fold=1, seed=0, **more):
    trial = {"params": {"lr": 0.001}, "epochs": 2, "macro_f1": 0.5, "loss": 1.0, "error": None}
    fields = {
        "version": 1,
        "classes": CLASSES,
        "dataset": "a hash",
        "fold": fold,
        "seed": seed,
        "settings": {"trials": 2, "epochs": 2, "overrides": ["model=tiny"]},
        "trials": [trial],
        "minutes": {"search": 1.0},
        "rows": list(rows),
    }
    return fields | more


def row(name, answers, *, block=SECOND):
    return row_of(name, answers, before=answers.tempered(2), after=answers, block=block, learnt=100, minutes=1.0)


def test_a_table_counts_what_the_answers_of_all_folds_were():
    first, second = said(seed=1), said(seed=2)
    pooled = Pooled([part(row("ours", first), fold=1), part(row("ours", second), fold=2)], SECOND, "ours")
    both = Slices.together([first, Slices(second.labels, second.probabilities, [f"{p}b" for p in second.patients])])

    expected = both.summary(CLASSES)
    assert pooled.answers["accuracy"] == pytest.approx(expected["accuracy"])
    assert pooled.answers["macro_f1"] == pytest.approx(expected["macro_f1"])
    assert pooled.answers["sensitivity"]["meningioma"] == pytest.approx(
        expected["per_class"]["meningioma"]["sensitivity"]
    )
    for when, power in (("after", 1), ("before", 2)):  # of each model by itself: errors of two must not cancel
        errors = [each.tempered(power).summary(CLASSES)["ece"] for each in (first, second)]
        assert pooled.ece(when) == pytest.approx(np.mean(errors), abs=1e-5)
    assert pooled.patients["accuracy"] == pytest.approx(both.by_patient().summary(CLASSES)["accuracy"])


def test_a_patient_with_slices_of_two_classes_has_a_verdict_for_each_and_is_drawn_as_one():
    def bounds(slices):
        return pytest.approx(intervals(slices, classes=CLASSES)["accuracy"])

    both = said()
    both.labels[1] = 2  # of the first patient's three slices, which are of class 0
    pooled = Pooled([part(row("ours", both))], SECOND, "ours")

    (slices,) = pooled.slices
    assert len(set(slices.patients)) == len(set(both.patients)) == 12
    assert pooled.patients["count"] == len(both.by_patient().labels) == 13
    assert pooled.answers["intervals"]["accuracy"] == bounds(both)
    assert pooled.patients["intervals"]["accuracy"] == bounds(both.by_patient())


def test_seeds_are_averaged_and_not_pooled():
    first, second = said(seed=1), said(seed=2)
    pooled = Pooled([part(row("ours", first)), part(row("ours", second), seed=1)], SECOND, "ours")

    each = [one.summary(CLASSES)["accuracy"] for one in (first, second)]
    assert pooled.answers["accuracy"] == pytest.approx(np.mean(each))
    assert len(pooled.slices[0].labels) == len(first.labels)


def test_a_fold_with_more_seeds_than_the_others_counts_no_more_than_they_do():
    first, again, second = said(seed=1), said(seed=2), said(seed=3)
    parts = [part(row("ours", first)), part(row("ours", again), seed=1), part(row("ours", second), fold=2)]
    pooled = Pooled(parts, SECOND, "ours")

    right, right_again, right_second = (one.summary(CLASSES)["accuracy"] for one in (first, again, second))
    assert pooled.answers["accuracy"] == pytest.approx(np.mean([np.mean([right, right_again]), right_second]))
    errors = [one.summary(CLASSES)["ece"] for one in (first, again, second)]
    assert pooled.ece("after") == pytest.approx(np.mean([np.mean(errors[:2]), errors[2]]), abs=1e-5)
    assert [len(slices.labels) for slices in pooled.slices] == [2 * len(first.labels)] * 2


def test_votes_have_no_calibration_error():
    votes = row_of("1-NN", said(), block=FIRST, learnt=9, minutes=None)

    assert votes["gaps"] == {"before": None, "after": None}
    assert Pooled([part(votes)], FIRST, "1-NN").ece("before") is None


def test_a_part_names_no_patient():
    kept = json.dumps(row("ours", said()))

    assert "patient 3" not in kept


def test_an_aim_is_reached_or_missed_by_what_the_parts_say():
    right = Slices(said().labels, np.eye(3)[said().labels] + 1e-6, said().patients)
    rows = [row("linear probe", said()), row(REFITTED, right), row(WINNER, said(), block=FIRST)]
    page = markdown([part(*rows)])

    assert "| at least 96% of the slices right | 100.0% | reached |" in page
    rows[1] = row(REFITTED, said())
    worse = markdown([part(*rows)])
    assert "| at least 10 points above the linear probe that learnt from the same slices | 0.0 points" in worse
    assert worse.count("**missed**") > page.count("**missed**")


def test_the_page_says_of_each_part_where_and_when_it_was_measured():
    rows = [row(name, said(), block=block) for block, name in ((FIRST, WINNER), (SECOND, "linear probe"))]
    rows.append(row(REFITTED, said()))
    made = {"date": "2026-12-01", "CPU": "a quick one", "commit": "abc1234"}

    page = markdown([part(*rows, fold=1), part(*rows, fold=2, seed=1, made=made)])

    assert "- fold 1, seed 0: not recorded" in page
    assert "- fold 2, seed 1: date: 2026-12-01; CPU: a quick one; commit: abc1234" in page


def test_parts_of_different_settings_are_no_table():
    rows = [row("linear probe", said()), row(REFITTED, said())]
    other = {"trials": 3, "epochs": 2, "overrides": ["model=tiny"]}

    with pytest.raises(InputError, match=r"2 kinds of settings.*another --results"):
        markdown([part(*rows), part(*rows, fold=2, settings=other)])


def test_a_part_of_other_settings_is_not_taken_for_the_one_that_is_asked_for():
    settings = Settings(2, 2, overrides=["model=tiny"])
    made = part() | {"version": VERSION, "settings": json.loads(json.dumps(asdict(settings)))}

    assert is_of(made, settings)
    assert not is_of(made, replace(settings, choices=True)) and not is_of(made | {"version": VERSION - 1}, settings)


def test_a_fold_without_every_class_is_not_tested(tmp_path_factory):
    dataset = phantom_dataset(tmp_path_factory.getbasetemp() / "accuracy", patients=20)
    folds = complete_folds(dataset)

    assert len(folds) >= 3
    for fold in folds:
        assert {dataset.labels[row] for row in np.flatnonzero(dataset.folds == fold)} == set(dataset.labels)


def test_a_part_judges_every_method_on_the_patients_that_chose_nothing(tiny, tmp_path, tmp_path_factory, monkeypatch):
    dataset = phantom_dataset(tmp_path_factory.getbasetemp() / "accuracy", patients=20)
    folds = complete_folds(dataset)
    monkeypatch.setattr(accuracy_part, "run_commands", trained_here)
    found = measure_part(
        dataset.path,
        tmp_path / "part",
        fold=folds[-1],
        folds=folds,
        seed=3,
        settings=Settings(2, 1, overrides=OVERRIDES),
    )

    names = {block: [row["name"] for row in found["rows"] if row["block"] == block] for block in (FIRST, SECOND)}
    assert names[FIRST][-4:] == ["head-only", "top-down", "all", WINNER]
    assert names[SECOND] == [*names[FIRST][:-4], REFITTED]
    slices = int((dataset.folds == folds[-1]).sum())
    assert {sum(sum(each[1]) for each in row["patients"]) for row in found["rows"]} == {slices}
    learnt = {row["block"]: row["learnt"] for row in found["rows"]}
    assert learnt[SECOND] == learnt[FIRST] + int((dataset.folds == folds[0]).sum())
    assert len({(row["block"], row["learnt"]) for row in found["rows"]}) == 2
    assert "# Accuracy: measured" in markdown([found])
    assert {"date", "CPU", "memory", "commit"} <= found["made"].keys()


def test_inputs_and_losses_are_compared_and_outlined_tumours_have_a_table_of_their_own(
    tiny, tmp_path, tmp_path_factory, monkeypatch
):
    whole = phantom_dataset(tmp_path_factory.getbasetemp() / "accuracy", patients=20)
    tumours = prepare([whole.path.parent / "scans" / "figshare"], tmp_path / "tumours", size=64, workers=1)
    folds = complete_folds(tumours)
    monkeypatch.setattr(accuracy_part, "run_commands", trained_here)
    settings = Settings(2, 1, choices=True, overrides=OVERRIDES)

    found = measure_part(tumours.path, tmp_path / "part", fold=folds[0], folds=folds, seed=0, settings=settings)

    names = {block: [row["name"] for row in found["rows"] if row["block"] == block] for block in (FIRST, MARKED)}
    assert names[FIRST][-4:] == [*CHOICES, WINNER] and names[MARKED] == [OUTLINED]
    page = markdown([found])
    assert page.index("## With a human's outline") < page.index(f"| {OUTLINED} |") < page.index("## Aims")
    assert OUTLINED not in choices_of(whole)


def trained_here(commands, out):
    """Do what the commands would, in this process, and a search of one trial."""
    for name, (verb, data, run, *options) in commands.items():
        chosen = [word for before, word in itertools.pairwise(options) if before == "--set"]
        config = with_overrides(TrainConfig(), [*chosen, *(["lr=0.002"] if verb == "tune" else [])])
        train_here(config, data=data, run=Path(run), calibrate=calibrate)
        if verb == "tune":
            trial = {"params": {"lr": 0.002}, "epochs": 1, "macro_f1": 0.5, "loss": 1.0, "error": None}
            write_json(Path(run) / "trials.json", [trial])
        assert Path(run) == out / name


def test_a_command_that_fails_stops_the_part_and_leaves_its_words(tmp_path):
    with pytest.raises(RunError, match=r"runs failed: the last lines of .*runs.log"):
        accuracy_part.run_commands({"runs": ["export", str(tmp_path / "nothing"), str(tmp_path / "out")]}, tmp_path)

    assert "expected a folder written by neuralblack prepare" in (tmp_path / "runs.log").read_text()


def test_a_benchmark_that_is_ended_takes_its_search_along(tmp_path, tmp_path_factory):
    data = phantom_dataset(tmp_path_factory.getbasetemp() / "ended", patients=30, slices=2).path
    command = [sys.executable, "-m", "benchmarks.accuracy", str(data), "--out", str(tmp_path / "out"), "--trials", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def searches():
        family = descendants(process.pid) - {process.pid}
        return {pid for pid in family if "tune" in words_of(pid)}

    deadline = time.monotonic() + 120
    try:
        while not (started := searches()):
            assert process.poll() is None and time.monotonic() < deadline, "no search was started"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)

    assert status == 143
    assert [pid for pid in started if "tune" in words_of(pid)] == []


def test_without_scans_one_line_says_how_to_get_them():
    venv = Path(sys.executable).parents[1]
    command = ["make", "-o", f"{venv}/.installed", "accuracy", f"VENV={venv}"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert "accuracy needs DATA=DIR" in done.stderr and "doi.org" in done.stderr


@pytest.mark.soak
def test_the_whole_part_by_its_command_goes_on_where_it_was_stopped(tmp_path):
    scans = phantom_dataset(tmp_path / "made-up", patients=30, slices=2).path.parent / "scans" / "figshare"
    command = [sys.executable, "-m", "benchmarks.accuracy", str(scans), "--out", str(tmp_path / "out")]
    command += ["--trials", "2", "--epochs", "1"]
    stopped = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert stopped.stdout
    for line in stopped.stdout:
        if line.endswith(": runs\n"):  # the stage behind the search
            stopped.kill()
            break
    stopped.wait()

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "this run is through" in done.stdout
    assert (tmp_path / "out/results/fold1-seed0.json").exists()
    assert "the winner's recipe" in (tmp_path / "out/results/accuracy.md").read_text()
