"""A table of runs: what is in their folders, and nothing else."""

import fcntl
import subprocess

import pytest
from tests.unit.test_files import only_read

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.files import read_json
from neuralblack.registry.describe import describe
from neuralblack.registry.environment import commit_of
from neuralblack.registry.run_folder import hold_run, record_epoch, start_run
from neuralblack.registry.runs import differences, runs_under
from neuralblack.terminal import print_rows, print_runs

SPLIT = {"classes": ["glioma", "meningioma"], "dataset": "0" * 64}


def make(folder, scores, **fields):
    start_run(folder, config=TrainConfig(**fields), split=SPLIT)
    for epoch, score in enumerate(scores):
        record_epoch(folder, {"epoch": epoch, "macro_f1": score, "accuracy": score, "loss": 1 - score})


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "runs" / "a", [0.2, 0.6, 0.5], lr=0.01)
    make(tmp_path / "runs" / "b", [0.7], lr=0.02, epochs=3)
    make(tmp_path / "runs" / "deep" / "c", [], lr=0.02)
    make(tmp_path / "runs" / "a" / "trials" / "1", [0.9])
    start_run(tmp_path / "runs" / "many", config=TrainConfig(), split=SPLIT, crossval={"seeds": 1})
    make(tmp_path / "runs" / "many" / "fold1-seed0", [0.9])
    return tmp_path / "runs"


def test_runs_are_listed_best_first_by_their_best_epoch_and_trials_and_folds_are_left_to_their_own_tables(folder):
    found = runs_under([folder])

    assert [(run["name"], run["done"], run["best_epoch"], run["macro_f1"]) for run in found] == [
        ("b", 1, 1, 0.7),
        ("a", 3, 2, 0.6),
        ("c", 0, None, None),
    ]
    assert differences(found) == ["model", "schedule", "lr", "epochs"]


def test_a_run_is_running_while_somebody_holds_it_and_finished_with_its_model(folder):
    (folder / "b" / "model").mkdir()
    with hold_run(folder / "a"):
        states = {run["name"]: run["state"] for run in runs_under([folder])}

    assert states == {"a": "running", "b": "finished", "c": "stopped"}
    assert {run["name"]: run["state"] for run in runs_under([folder])}["a"] == "stopped"


@pytest.fixture
def looker(folder):
    """Somebody who is just looking whether `a` is worked on: a function that ends the look."""
    (folder / "a" / ".running").touch()
    with (folder / "a" / ".running").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def test_somebody_who_looks_at_a_run_is_not_seen_as_one_who_works_on_it(folder, looker):
    assert {run["name"]: run["state"] for run in runs_under([folder])}["a"] == "stopped"


def test_a_look_at_a_run_does_not_keep_it_from_starting(folder, looker, monkeypatch):
    monkeypatch.setattr("neuralblack.registry.run_folder.time.sleep", lambda _: looker())

    with hold_run(folder / "a"):
        assert {run["name"]: run["state"] for run in runs_under([folder])}["a"] == "running"


def test_runs_that_may_only_be_read_are_listed(folder, monkeypatch):
    (folder / "a" / ".running").touch()
    only_read(monkeypatch)

    assert len(runs_under([folder])) == 3


@pytest.mark.parametrize("text", ['{"id": 1}', "[]", '{"facts": {}, "started": ""}', "{"])
def test_a_run_json_of_another_program_is_left_out_and_the_others_are_listed(folder, caplog, text):
    (folder / "foreign").mkdir()
    (folder / "foreign" / "run.json").write_text(text)

    assert [run["name"] for run in runs_under([folder])] == ["b", "a", "c"]
    assert [record.getMessage().split(": found")[0] for record in caplog.records] == [
        f"left out: {folder / 'foreign' / 'run.json'}"
    ]
    with pytest.raises(InputError, match="found no run"):
        runs_under([folder / "foreign"])
    with pytest.raises(InputError, match=r"run\.json"):
        describe(folder / "foreign")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="found no run"):
        runs_under([tmp_path])


def test_a_run_keeps_its_environment_and_its_epochs_as_lines(folder):
    environment = read_json(folder / "a" / "environment.json")

    assert set(environment["packages"]) >= {"torch", "ray", "numpy"}
    lines = (folder / "a" / "metrics.jsonl").read_text().splitlines()
    assert [line.count('"macro_f1"') for line in lines] == [1, 1, 1]


def test_the_commit_of_a_checkout_says_whether_it_was_changed(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "file").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")

    clean = commit_of(tmp_path / "package")
    (tmp_path / "package" / "file").write_text("2")

    assert commit_of(tmp_path / "package") == f"{clean}-dirty"


def test_on_a_narrow_terminal_no_name_and_no_number_is_cut_off(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = runs_under([folder])

    print_runs(found, differences(found))

    said = capsys.readouterr().out
    assert "…" not in said and max(map(len, said.partition("b: ")[0].splitlines())) <= 80
    assert all(f"{run['name']}: model " in said for run in found)


def test_brackets_and_colons_of_a_name_are_shown(capsys):
    print_rows("slices[v2]", [("source [/b]", "scans[1] :heart:")])

    said = capsys.readouterr().out
    assert all(words in said for words in ("slices[v2]", "source [/b]", "scans[1] :heart:"))
