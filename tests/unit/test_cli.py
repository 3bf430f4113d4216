"""The command line: what people can mend is one line and status 2; help is fast and shows an example for each verb."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

from neuralblack import __version__, cli
from neuralblack.cli import app, run_verb
from neuralblack.cluster.space import DEFAULT_SPACE
from neuralblack.config import TrainConfig
from neuralblack.errors import RunError
from neuralblack.registry.aliases import SERVE_ANEW
from neuralblack.registry.gate import Judgement, Rule
from neuralblack.registry.run_folder import start_run

ROOT = Path(__file__).resolve().parents[2]
VERBS = sorted(get_command(app).commands)


@pytest.fixture
def neuralblack(monkeypatch, capsys):
    """Run a command line in this process; gives back (status, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["neuralblack", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_verb(app)
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_names_options_it_has(verb, neuralblack):
    status, out, _ = neuralblack(verb, "--help")

    assert status == 0
    assert f"Example: neuralblack {verb}" in re.sub(r"\s+", " ", out)
    example = re.sub(r"\s+", " ", out).split("Example: ")[1].split("╭")[0]
    command = get_command(app).commands[verb]
    known = {option for parameter in command.params for option in parameter.opts} | {"--out"}
    assert set(re.findall(r"--[a-z-]+", example.split("&&")[0])) <= known


def test_its_version_is_that_of_the_package(neuralblack):
    assert neuralblack("--version") == (0, f"neuralblack {__version__}\n", "")


@pytest.mark.parametrize(("verb", "zero"), [("train", True), ("tune", False), ("crossval", False)])
def test_help_speaks_of_no_workers_only_where_there_can_be_none(verb, zero, neuralblack):
    _, out, _ = neuralblack(verb, "--help")

    assert ("--workers 0" in re.sub(r"[\s│]+", " ", out)) == zero


def test_help_names_every_number_of_the_gate():
    (rule,) = [each for each in get_command(app).commands["promote"].params if each.name == "rule"]

    assert all(name in rule.help for name in Rule.model_fields)


def test_help_needs_neither_torch_nor_ray():
    code = (
        "import sys; import neuralblack.cli; print([name for name in ('torch', 'ray', 'h5py') if name in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [("neuralblack pr", ["predict", "prepare", "promote"]), ("neuralblack train --work", ["--workers"])],
)
def test_a_shell_completes_verbs_and_options(words, completed):
    asked = {"_NEURALBLACK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = Path(sys.executable).with_name("neuralblack")

    run = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=True)

    assert sorted(run.stdout.split()) == completed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["schedule=bottom-up"],
            ["schedule: found 'bottom-up'", "probe-then-all, top-down, top-down-slowly, all"],
        ),
        (["schedule={0: 0}"], ["no stage learns"]),
        (["lr=0"], ["--set lr: found 0", "greater than 0"]),
        (["model=resnet51"], ["found 'resnet51'", "resnet50, efficientnet_lite0"]),
        (["weights=/nowhere.pth"], ["/nowhere.pth", "no such file"]),
        (["test_folds=[2]"], ["fold 2"]),
        (["validation_folds=[9]"], ["validation folds: found 9", "1, 2, 3, 4, 5"]),
        (["clip_norm=.inf"], ["--set clip_norm: found inf", "less than or equal to 1000000"]),
        (["lr.x=1"], ["found the field 'lr.x'", "one of", "label_smoothing"]),
        (["test_folds=[9]"], ["test folds: found 9", "1, 2, 3, 4, 5"]),
        (["train_folds=[1, 3]"], ["fold 1"]),
        (["epochs=2", "weights=imagenet", "model=efficientnet_lite0", "epochs=two"], ["--set epochs", "'two'"]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) and "=" in value[0] else "",
)
def test_a_run_that_cannot_work_is_refused_before_it_starts(settings, words, dataset, neuralblack, tmp_path):
    options = [part for text in ["weights=none", *settings] for part in ("--set", text)]

    status, out, err = neuralblack("train", dataset.path, tmp_path / "run", *options)

    assert (status, out) == (2, "")
    assert err.startswith("neuralblack: ") and err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "run").exists()


def test_a_relative_path_inside_a_job_is_refused(dataset, neuralblack, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)

    status, _, err = neuralblack("train", dataset.path, "runs/first")

    assert status == 2
    assert "run runs/first: found a relative path inside a job" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()

    status, _, err = neuralblack("shard", "slices", tmp_path / "shards")

    assert status == 2 and "data slices: found a relative path inside a job" in err
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("describe", "nowhere"),
        ("train", "nowhere", "run"),
        ("tune", "nowhere", "run"),
        ("evaluate", "nowhere", "nowhere", "--out", "out"),
        ("predict", "nowhere.png"),
        ("promote", "nowhere"),
        ("serve", "nowhere.yaml"),
        ("prepare", "nowhere", "--out", "out"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_not_there_is_one_line_and_leaves_nothing(words, neuralblack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    status, out, err = neuralblack(*words)

    assert (status, out) == (2, "")
    assert err.startswith("neuralblack: ") and err.count("\n") == 1 and "Fix: " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("prepare", "/nowhere", "--out", "slices"), "out slices"),
        (("phantoms", "made-up"), "out made-up"),
        (("export", "/nowhere", "images"), "out images"),
        (("evaluate", "/nowhere", "/nowhere", "--out", "report"), "out report"),
        (("retrain", "/nowhere", "/run", "--registry", "/nowhere", "--report", "report"), "report report"),
        (("feedback", "/nowhere", "/nowhere", "--out", "joined"), "out joined"),
        (("forget", "kept", "--patient", "p1"), "folder kept"),
        (("drift", "/nowhere", "--out", "drift"), "out drift"),
        (("quantize", "run", "/nowhere"), "model run"),
        (("promote", "/nowhere"), "registry registry"),
        (("challenger", "/nowhere"), "registry registry"),
        (("rollback",), "registry registry"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_job_does_not_write_into_its_own_folder(words, named, neuralblack, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)

    status, _, err = neuralblack(*words)

    assert status == 2 and f"{named}: found a relative path inside a job" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_said_before_weights_are_looked_for(neuralblack, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    words = ("--workers", 0, "--gpus", "--set", "weights=/nowhere.pth")
    status, _, err = neuralblack("train", dataset.path, tmp_path / "run", *words)

    assert status == 2 and "device: found no usable GPU for this process" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "/nowhere", "/nowhere", "--out", "mine"),
        *((verb, "slices", "mine", "--set", "weights=/nowhere.pth") for verb in ("train", "tune", "crossval")),
        ("train", "slices", "mine", "--workers", 0, "--set", "weights=/nowhere.pth"),
    ],
    ids=["evaluate", "train", "tune", "crossval", "train in this process"],
)
def test_a_folder_with_other_files_is_refused_before_a_model_or_weights_are_looked_for(
    words, dataset, neuralblack, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("mine")

    status, _, err = neuralblack(*(dataset.path if word == "slices" else word for word in words))

    assert status == 2 and re.match(r"neuralblack: \S*mine: found ", err) and err.count("\n") == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letters.txt"]


def test_another_runs_folder_is_refused_before_weights_are_looked_for(dataset, neuralblack, tmp_path):
    run, split = tmp_path / "run", {"classes": ["glioma"], "dataset": "0" * 64, "parts": {}}
    start_run(run, config=TrainConfig(weights="/nowhere.pth"), split=split)
    weights = ("--set", "weights=/nowhere.pth")

    status, _, err = neuralblack("train", dataset.path, run, *weights, "--set", "lr=0.01")
    assert status == 2 and f"{run}: found a run with lr 0.001 where this command says 0.01" in err

    status, _, err = neuralblack("train", dataset.path, run, *weights)
    assert status == 2 and "weights /nowhere.pth: found no such file" in err


@pytest.mark.parametrize(("words", "device"), [((), "cpu"), (("--gpus",), "cuda")])
def test_training_in_this_process_takes_a_gpu_only_where_one_is_asked_for(words, device, neuralblack, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr(
        "neuralblack.cluster.train.train_here",
        lambda *_, **more: asked.append(more["device"]) or SimpleNamespace(id="a model", path="run"),
    )

    neuralblack("train", "slices", "run", "--workers", 0, "--set", "weights=none", *words)

    assert asked == [device]


@pytest.mark.parametrize(
    ("written", "searched"),
    [("DEFAULT_SPACE", {*DEFAULT_SPACE} - {"lr"}), ('{"lr": None, "loss": None}', {"loss"})],
    ids=["as it is", "another"],
)
def test_the_search_job_takes_its_own_space_with_the_options_of_the_verb(written, searched, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "neuralblack.cluster.tune.tune_on_cluster",
        lambda config, **more: asked.append((config, more)) or (SimpleNamespace(id="a model", path="run"), []),
    )
    job = tmp_path / "tune.py"
    job.write_text((ROOT / "jobs" / "tune.py").read_text().replace("SPACE = DEFAULT_SPACE", f"SPACE = {written}"))
    monkeypatch.setattr(sys, "argv", [str(job), "slices", "run", "--trials", "3", "--gpus", "--set", "lr=0.01"])

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(job), run_name="__main__")

    ((config, more),) = asked
    assert (ended.value.code or 0, config.lr, more["trials"], more["gpus"]) == (0, 0.01, 3, True)
    assert set(more["space"]) == searched


@pytest.mark.parametrize(
    "words",
    [("promote", "run"), ("retrain", "slices", "run", "--report", "report", "--promote")],
    ids=lambda words: words[0],
)
def test_a_promotion_says_which_name_moved_and_what_a_service_needs(words, neuralblack, monkeypatch):
    promoted = SimpleNamespace(id="tiny-0123456789ab", path="models", config=TrainConfig(input="roi"))
    result = {"slices": 8, "patients": 4}
    monkeypatch.setattr("neuralblack.cluster.retrain.retrain", lambda **_: (promoted, result))
    monkeypatch.setattr("neuralblack.evaluation.challenge.challenge", lambda *_, **__: (promoted, Judgement()))
    monkeypatch.setattr(cli, "print_results", lambda *_: None)

    status, out, _ = neuralblack(*words)

    assert status == 0
    assert f"roi {promoted.id} in models\na service that runs keeps its model: {SERVE_ANEW}\n" in out


def test_a_run_that_failed_is_one_line_and_status_1(neuralblack, monkeypatch, dataset, tmp_path):
    def fails(*_, **__):
        raise RunError("training stopped: rank 1: its process died (killed, or out of memory)")

    monkeypatch.setattr("neuralblack.cluster.train.train_on_cluster", fails)

    status, _, err = neuralblack("train", dataset.path, tmp_path / "run")

    assert (status, err) == (1, "neuralblack: training stopped: rank 1: its process died (killed, or out of memory)\n")


def test_ctrl_c_is_one_line_and_status_130(neuralblack, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuralblack.data.prepare.prepare", interrupted)

    assert neuralblack("prepare", tmp_path, "--out", tmp_path / "out") == (130, "", "neuralblack: interrupted\n")
    with pytest.raises(SystemExit, match="130"):
        cli.run_verb(interrupted)


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        cli.run_verb(bug)
