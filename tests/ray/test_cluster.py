"""Ray Train and Tune for real, on this machine: DDP, a killed worker, searches, and what is refused."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray
import torch

from neuralblack.cluster.crossval import cross_validate
from neuralblack.cluster.others import TRAINS, actor_placed
from neuralblack.cluster.resume import registered_checkpoints
from neuralblack.cluster.search_state import keep_state
from neuralblack.cluster.session import await_resources, beside, ray_session
from neuralblack.cluster.train import fit_workers, train_on_cluster
from neuralblack.cluster.tune import tune_on_cluster
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import SLICES, open_dataset, write_batch
from neuralblack.errors import InputError, RunError
from neuralblack.files import read_json, sha256, write_manifest
from neuralblack.models.table import MODELS
from neuralblack.registry.model_folder import open_model
from neuralblack.registry.run_folder import history_of, start_run
from neuralblack.training.checkpoints import best_checkpoint, load_state
from neuralblack.training.runs import check_run

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
CPUS = 3  # logical ones; Ray has as many workers ready

CONFIG = TrainConfig(
    model="tiny",
    weights="none",
    schedule={0: 1, 1: 3},
    lr=0.02,
    epochs=3,
    batch_size=7,
    batch_norm="eval",
    precision="fp32",
)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of our own, whose workers know the network `tiny`."""
    hook = {"worker_process_setup_hook": "tests.tiny.add_tiny_network"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # where the workers find `tests`
        with ray_session(dashboard=True, num_cpus=CPUS, runtime_env=hook):
            yield ray


def eventually(condition, *, within_s: float, what: str) -> None:
    """Poll for a condition with a deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s} s"
        time.sleep(0.05)


def all_cpus_are_free() -> bool:
    return ray.available_resources().get("CPU", 0) == CPUS


def worker_processes(called: str = "RayTrainWorker") -> list[int]:
    """Find processes of a name among the descendants of this one; none given: Ray Train's workers."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        parents[int(folder.name)] = int(fields[1])

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_ours(parents[pid]))

    return sorted(pid for pid, name in names.items() if called in name and is_ours(pid))


def assert_trials_lie_under_their_search(run: Path, rows) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.parent / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name(run.parent.name).experiment_id])
    named = {each.info.run_name: each for each in found}
    assert set(named) == {"run", "run trial 1", "run trial 2"}
    assert {each.info.status for each in found} == {"FINISHED"}
    for row in rows:
        trial = named[f"run trial {row['trial']}"]
        assert trial.data.tags["mlflow.parentRunId"] == named["run"].info.run_id
        assert float(trial.data.params["lr"]) == row["params"]["lr"]
        assert trial.data.metrics["validation/loss"] == pytest.approx(row["loss"])
    chosen = named["run"].data
    assert (float(chosen.params["lr"]), chosen.params["schedule"]) == tuple(rows[0]["params"].values())
    assert chosen.metrics["validation/loss"] == pytest.approx(rows[0]["loss"])


def weights_of(run: Path) -> str:
    return sha256(run / "model" / "weights.safetensors")


@pytest.mark.parametrize("kills", [pytest.param(6, marks=pytest.mark.soak)])
def test_killed_workers_cost_neither_an_epoch_nor_a_bit_of_the_weights(cluster, dataset, tiny, tmp_path, kills):
    # All stages learn in the end, so the last weights tell whether any epoch went missing or came twice.
    config = CONFIG.model_copy(update={"epochs": 30 * kills})
    train_on_cluster(config, data=dataset.path, run=tmp_path / "whole", workers=2)
    run, killed, failures = tmp_path / "broken", [], []

    def kill_now_and_then() -> None:
        try:
            for number in range(kills):
                last = run / "epochs" / f"{30 * number + 3:04d}.json"
                eventually(last.exists, within_s=180, what=f"epoch {last.stem}")
                eventually(lambda: set(worker_processes()) - set(killed), within_s=60, what="a live worker")
                killed.append(max(set(worker_processes()) - set(killed)))
                os.kill(killed[-1], signal.SIGKILL)
        except AssertionError as error:
            failures.append(error)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    train_on_cluster(config, data=dataset.path, run=run, workers=2)  # more kills than one epoch may cost
    killer.join()

    assert failures == [] and len(killed) == kills
    assert (run / "log.txt").read_text().count("going on behind epoch") == kills
    assert history_of(run) == history_of(tmp_path / "whole")
    assert weights_of(run) == weights_of(tmp_path / "whole")


@pytest.mark.soak
def test_the_same_command_goes_on_before_a_flipped_bit_and_is_refused_where_no_checkpoint_is_whole(
    cluster, dataset, tiny, tmp_path, monkeypatch, caplog
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:  # the driver dies behind the workers' last epoch
        patch.setattr("neuralblack.cluster.train.finish_run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_on_cluster(CONFIG, data=dataset.path, run=run, workers=1)
    assert not (run / "model").exists()
    newest = max((run / "checkpoints").glob("epoch_*")) / "model.safetensors"
    whole = newest.read_bytes()
    best = sha256(best_checkpoint(registered_checkpoints(run / "checkpoints")) / "model.safetensors")
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    for checkpoint in registered_checkpoints(run / "checkpoints"):
        (checkpoint / "model.safetensors").rename(checkpoint / "kept")
        (checkpoint / "model.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match=r"model\.safetensors: found .* as its manifest says"):
        train_on_cluster(CONFIG, data=dataset.path, run=run, workers=1)

    for checkpoint in registered_checkpoints(run / "checkpoints"):
        (checkpoint / "kept").rename(checkpoint / "model.safetensors")
    newest.write_bytes(damaged)
    model = train_on_cluster(CONFIG, data=dataset.path, run=run, workers=1)

    assert "this checkpoint is not used" in caplog.text
    assert weights_of(run) == best
    assert [row["epoch"] for row in history_of(run)] == [0, 1, 2]
    assert train_on_cluster(CONFIG, data=dataset.path, run=run, workers=1).hash == model.hash
    with pytest.raises(InputError, match=r"lr 0\.02 where this command says 0\.01"):
        train_on_cluster(CONFIG.model_copy(update={"lr": 0.01}), data=dataset.path, run=run, workers=1)


def test_a_search_leaves_a_table_a_model_and_all_cpus_free(cluster, dataset, tiny, tmp_path):
    from ray import tune

    space = {"lr": tune.loguniform(1e-3, 1e-1), "schedule": tune.choice(["head-only", "all"])}
    model, rows = tune_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", space=space, trials=4)

    assert sorted(row["trial"] for row in rows) == [1, 2, 3, 4]
    assert rows == read_json(tmp_path / "run" / "trials.json")
    assert [row["macro_f1"] for row in rows[1:]] == sorted((row["macro_f1"] for row in rows[1:]), reverse=True)
    assert rows[0]["loss"] == min(row["loss"] for row in rows if row["as_good"])
    assert model.card["validation"]["macro_f1"] == rows[0]["macro_f1"]
    assert {name: model.card["config"][name] for name in space} == rows[0]["params"]
    assert model.history == rows[0]["history"]
    eventually(all_cpus_are_free, within_s=30, what="freeing all CPUs")
    again, table = tune_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", space=space, trials=4)
    assert (again.hash, table) == (model.hash, rows)
    with pytest.raises(InputError, match="search"):
        tune_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", space=space, trials=5)


@pytest.mark.soak
def test_a_search_whose_state_was_cut_off_goes_on_from_its_copy_and_without_one_begins_anew(
    cluster, dataset, tiny, tmp_path, monkeypatch, caplog
):
    """Tune itself makes an empty search of such a state, and says nothing."""
    from ray import tune

    config, run = CONFIG.model_copy(update={"epochs": 1, "schedule": "head-only"}), tmp_path / "run"

    def interrupted(*arguments):
        raise KeyboardInterrupt

    def search():
        return tune_on_cluster(config, data=dataset.path, run=run, space={"lr": tune.uniform(0.01, 0.1)}, trials=2)

    with monkeypatch.context() as patch:
        patch.setattr("neuralblack.cluster.tune._finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search()
        keep_state(run)
        begun = {path: path.stat().st_mtime_ns for path in run.glob("trials/*/epochs/*.json")}
        (state,) = (run / "search").glob("experiment_state-*.json")
        os.truncate(state, 100)
        with pytest.raises(KeyboardInterrupt):
            search()
    assert "was cut off; its copy counts" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in run.glob("trials/*/epochs/*.json")} == begun
    for path in (run / "search").glob("experiment_state-*.json"):
        os.truncate(path, 100)
    shutil.rmtree(run / ".search_state")

    _, rows = search()

    assert "it begins anew, and what was there is in" in caplog.text
    assert sorted(row["trial"] for row in rows) == [1, 2] and all(row["error"] is None for row in rows)
    assert {path.relative_to(run / "lost-1") for path in run.glob("lost-1/trials/*/epochs/*.json")} == {
        path.relative_to(run) for path in begun
    }


def test_a_trial_goes_on_behind_its_last_epoch_when_its_search_was_stopped_and_when_its_process_is_killed(
    cluster, dataset, tiny, tmp_path
):
    from ray import tune

    config, run, killed = CONFIG.model_copy(update={"epochs": 60}), tmp_path / "run", []

    def search(disturb):
        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            return tune_on_cluster(config, data=dataset.path, run=run, space={"lr": tune.grid_search([0.02])}, trials=1)
        finally:
            disturber.join()

    def stop() -> None:
        eventually(lambda: any(run.glob("trials/*/epochs/0003.json")), within_s=120, what="the fourth epoch")
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C

    def kill() -> None:
        said = (run / "log.txt").read_text().count("going on behind epoch")
        eventually(lambda: (run / "log.txt").read_text().count("going on behind epoch") > said, within_s=60, what="it")
        killed.extend(worker_processes("ImplicitFunc"))
        os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RunError, match=r"^the search was stopped: 0 of 1 trials are through; the same command goes on"):
        search(stop)
    assert not (run / "model").exists() and not (run / "trials.json").exists()
    _, (row,) = search(kill)

    assert len(killed) == 1
    assert row["error"] is None and row["epochs"] == 60
    assert (run / "log.txt").read_text().count("going on behind epoch") == 2


def test_a_search_that_learns_from_its_trials_numbers_them_and_leaves_a_page(cluster, dataset, tiny, tmp_path):
    pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    from ray import tune

    config = CONFIG.model_copy(update={"epochs": 1})
    space = {"lr": tune.loguniform(1e-3, 1e-1), "schedule": tune.choice(["head-only", "all"])}
    run = tmp_path / "run"
    _, rows = tune_on_cluster(
        config,
        data=dataset.path,
        run=run,
        space=space,
        trials=2,
        concurrent=1,
        search="optuna",
        track=["tensorboard", "mlflow"],
    )

    assert sorted(row["trial"] for row in rows) == [1, 2]
    first, second = sorted(rows, key=lambda row: row["trial"])
    assert first["params"]["lr"] == config.lr, "the first trial is the run that would be without a search"
    assert second["params"]["lr"] != first["params"]["lr"]
    assert "Trial <strong>" in (run / "search.html").read_text()
    assert len(list(run.glob("trials/*/tensorboard/events.*"))) == 2
    assert_trials_lie_under_their_search(run, rows)


@pytest.mark.soak
def test_a_search_over_trials_of_two_workers_frees_the_cpus_of_stopped_ones(cluster, dataset, tiny, tmp_path):
    from ray import tune

    # Which of the two is stopped, and which is chosen of two as good ones, hangs on the first weights' last bits.
    space = {"lr": tune.grid_search([1e-7, 0.05])}
    config = CONFIG.model_copy(update={"epochs": 12, "schedule": "all", "seed": 3})
    model, rows = tune_on_cluster(
        config, data=dataset.path, run=tmp_path / "run", space=space, trials=1, concurrent=1, workers=2
    )

    assert sorted(row["stopped"] for row in rows) == [False, True]
    assert [row["error"] for row in rows] == [None, None]
    assert model.card["validation"]["macro_f1"] == rows[0]["macro_f1"]
    eventually(all_cpus_are_free, within_s=30, what="freeing all CPUs")


def test_more_than_the_cluster_can_ever_have_is_refused_at_once(cluster, dataset, tiny, tmp_path):
    with pytest.raises(InputError, match=r"found 0 GPU at most in this cluster; expected 2 GPU"):
        train_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", workers=2, gpus=True)
    assert not (tmp_path / "run" / "run.json").exists()
    with pytest.raises(InputError, match=rf"found {CPUS} CPU at most in this cluster; expected 9 CPU"):
        train_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", workers=9)
    with pytest.raises(InputError, match=rf"found {CPUS} CPU at most in this cluster; expected {CPUS}\.01 CPU"):
        tune_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "search", workers=CPUS)


@pytest.mark.soak
def test_a_run_that_waits_for_what_others_hold_says_so_until_its_workers_have_room(
    cluster, dataset, tiny, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="neuralblack")
    monkeypatch.setattr("neuralblack.cluster.train.START_S", 3.0)
    other = ray.remote(num_cpus=CPUS - 1)(dict).remote()
    eventually(lambda: ray.available_resources().get("CPU") == 1, within_s=60, what="somebody else")

    held = "2 x 1 CPU: 1 CPU free, with room for 1; others hold the rest"
    with pytest.raises(RunError, match=rf"no room for 2 workers within 9 s \({held}\); the same command goes on"):
        train_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", workers=2)
    assert f"waiting for {held}" in caplog.text and not actor_placed(TRAINS)
    ray.kill(other)
    seen = []

    def look(_):
        eventually(lambda: actor_placed(TRAINS), within_s=60, what="workers with room")
        seen.append(True)

    with beside(look):
        train_on_cluster(CONFIG, data=dataset.path, run=tmp_path / "run", workers=2)

    assert seen == [True]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the autoscaler of a cluster is asked for, whose head's home folder is `tmp_path`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    heard = []
    monkeypatch.setattr("neuralblack.cluster.session.request_resources", lambda bundles: heard.append(bundles))
    return heard


def test_what_the_autoscaler_can_reach_is_waited_for_within_the_limit_and_asked_for_no_longer(
    cluster, asked, tmp_path, caplog
):
    """`ray up` leaves its configuration in the head's home folder, and the autoscaler hears what is asked for."""
    caplog.set_level("INFO", logger="neuralblack")
    worker = {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 4}
    config = {"available_node_types": {"head": {"resources": {"CPU": 0}, "max_workers": 0}, "gpu_worker": worker}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))

    with pytest.raises(InputError, match=r"found 0 GPU; expected 2 GPU.*--wait-for-nodes SECONDS"):
        await_resources({"CPU": 1, "GPU": 1}, 2, wait_s=1)
    with pytest.raises(InputError, match="found 4 GPU at most in this cluster"):
        await_resources({"CPU": 1, "GPU": 1}, 5, wait_s=1)

    assert "waiting for 2 GPU" in caplog.text
    assert asked == [[{"CPU": 1, "GPU": 1}] * 2, []]


def test_nodes_of_a_cluster_that_does_not_say_how_many_it_can_have_are_waited_for(cluster, asked, caplog):
    """KubeRay's autoscaler leaves no configuration on the head."""
    caplog.set_level("INFO", logger="neuralblack")

    with pytest.raises(InputError, match=r"found 0 GPU; expected 2 GPU.*SECONDS, more than 0; or fewer, where no"):
        await_resources({"CPU": 1, "GPU": 1}, 2, wait_s=0)
    assert asked == []
    with pytest.raises(InputError, match=r"found 0 GPU; expected 2 GPU"):
        await_resources({"CPU": 1, "GPU": 1}, 2, wait_s=1)

    assert "waiting for 2 GPU" in caplog.text
    assert asked == [[{"CPU": 1, "GPU": 1}] * 2, []]


def test_a_node_that_comes_ends_the_wait(cluster, asked, monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3 if asked else 2})

    await_resources({"CPU": 1}, 3, wait_s=60)

    assert asked == [[{"CPU": 1}] * 3, []]


class WorkerHealthCheckFailedError(Exception):
    """What Ray Train hands on of a worker whose process is gone, by its name."""


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            InputError("split.json", found="no readable JSON", expected="JSON", fix="start again"),
            InputError,
            r"^split\.json: found no readable JSON",
        ),
        (
            WorkerHealthCheckFailedError("The actor died.\nIts id: 7"),
            RunError,
            r"^training stopped: rank 0: its process died \(killed, or out of memory\)$",
        ),
    ],
    ids=["a mistake", "a dead process"],
)
def test_what_a_worker_ends_with_is_one_line(cluster, monkeypatch, tmp_path, error, kind, said):
    found = pickle.loads(pickle.dumps(error))  # as it comes from a worker

    class Trainer:
        def __init__(self, *_, **__):
            pass

        def fit(self):
            raise ray.train.WorkerGroupError("Training failed", {0: found})

    monkeypatch.setattr("neuralblack.cluster.train.TorchTrainer", Trainer)
    with pytest.raises(kind, match=said):
        fit_workers(CONFIG, data="data", run=tmp_path, workers=1, each={"CPU": 1.0, "GPU": 0.0}, max_failures=0)


def test_ctrl_c_is_one_line_and_means_afterwards_what_it_meant_before(cluster, monkeypatch, tmp_path):
    def fit(*_):
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))  # as Ray Train does
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("neuralblack.cluster.train.TorchTrainer", lambda *_, **__: SimpleNamespace(fit=fit))
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(RunError, match=r"^training was stopped; the same command goes on behind the last epoch$"):
        fit_workers(CONFIG, data="data", run=tmp_path, workers=1, each={"CPU": 1.0, "GPU": 0.0}, max_failures=0)

    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.soak
def test_a_worker_that_is_killed_more_often_than_allowed_is_one_line(cluster, dataset, tiny, tmp_path):
    run, each = tmp_path / "run", {"CPU": 1.0, "GPU": 0.0}
    config = CONFIG.model_copy(update={"epochs": 10_000})
    _, split = check_run(config, data=dataset.path)
    start_run(run, config=config, split=split.manifest)

    def kill() -> None:
        eventually(lambda: any((run / "epochs").glob("*.json")), within_s=120, what="the first epoch")
        os.kill(worker_processes()[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunError, match=r"^training stopped: rank 0: its process died \(killed, or out of memory\)$"):
        fit_workers(config, data=dataset.path, run=run, workers=1, each=each, max_failures=0)
    killer.join()


def test_a_run_whose_loss_is_no_number_is_not_tried_again(cluster, dataset, tiny, tmp_path):
    weights, run = tmp_path / "weights.pt", tmp_path / "run"
    torch.save({name: each * 1e30 for name, each in MODELS["tiny"].build().state_dict().items()}, weights)
    config = CONFIG.model_copy(update={"weights": str(weights), "schedule": "all"})

    with pytest.raises(RunError, match=r"^training stopped: epoch 1: the loss is nan from step 1 on, slices \["):
        train_on_cluster(config, data=dataset.path, run=run, workers=2)

    assert (run / "log.txt").read_text().count("device and number format") == 1


@pytest.mark.soak
def test_a_full_disk_stops_a_run_in_words_and_the_same_command_goes_on_when_there_is_room(
    cluster, dataset, tiny, tmp_path
):
    run = tmp_path / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(run)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (it takes root)")
    try:
        config = CONFIG.model_copy(update={"epochs": 40})
        with pytest.raises(InputError, match="no space left on the disk"):
            train_on_cluster(config, data=dataset.path, run=run, workers=1, max_failures=0)
        done = len(registered_checkpoints(run / "checkpoints"))
        assert done and load_state(registered_checkpoints(run / "checkpoints")[0])
        subprocess.run(["mount", "-o", "remount,size=16m", str(run)], check=True)

        model = train_on_cluster(config, data=dataset.path, run=run, workers=1)

        assert [row["epoch"] for row in model.history] == list(range(40))
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)


def test_a_search_whose_trials_all_fail_says_with_what(cluster, dataset, tiny, tmp_path):
    from ray import tune

    weights = tmp_path / "weights.pt"
    torch.save(MODELS["tiny"].build().state_dict(), weights)
    space = {"weights": tune.choice([str(weights)])}
    run = tmp_path / "run"

    def spoil() -> None:
        eventually(lambda: (run / "run.json").exists(), within_s=60, what="the search")
        weights.unlink()  # checked before, gone when the trials begin

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    with pytest.raises(RunError, match=r"no trial came to a result: .*no such file"):
        tune_on_cluster(CONFIG, data=dataset.path, run=run, space=space, trials=1)
    spoiler.join()

    assert read_json(run / "trials.json")[0]["error"]


@pytest.fixture
def three_folds(dataset, tmp_path):
    """The dataset with three folds in place of five, the least that a cross-validation takes."""
    folder = tmp_path / "three"
    folder.mkdir()
    with pa.OSFile(str(dataset.path / SLICES)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        folds = pa.array((dataset.folds - 1) % 3 + 1)
        write_batch(folder / SLICES, batch.set_column(batch.schema.get_field_index("fold"), "fold", folds))
    write_manifest(folder, {key: value for key, value in dataset.manifest.items() if key != "files"})
    return open_dataset(folder)


def test_a_cross_validation_tests_every_fold_and_does_only_what_is_missing(cluster, three_folds, tiny, tmp_path):
    config, dataset = CONFIG.model_copy(update={"epochs": 1}), three_folds
    table = cross_validate(config, data=dataset.path, run=tmp_path / "run", refit=False)

    assert [run["fold"] for run in table["runs"]] == sorted(set(dataset.folds.tolist()))
    assert table["pooled"]["count"] == len(dataset)
    assert table == read_json(tmp_path / "run" / "crossval.json")
    kept = tmp_path / "run" / "fold1-seed0" / "model" / "manifest.json"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(tmp_path / "run" / "fold2-seed0")

    whole = cross_validate(config, data=dataset.path, run=tmp_path / "run")
    assert {name: each for name, each in whole.items() if name != "refitted"} == table
    assert [run["fold"] for run in whole["refitted"]["runs"]] == [run["fold"] for run in table["runs"]]
    assert whole["refitted"]["runs"][0]["log_loss"] != table["runs"][0]["log_loss"]
    first, again = (open_model(tmp_path / "run" / name / "model") for name in ("fold1-seed0", "refit-fold1-seed0"))
    parts = again.split["parts"]
    assert parts["train"]["folds"] == [2, 3] and not parts["validation"]["slices"]
    assert again.calibration["temperature"] == first.calibration["temperature"] and "gate" not in again.calibration
    assert kept.stat().st_mtime_ns == before
    shutil.rmtree(tmp_path / "run" / "fold2-seed0")
    (tmp_path / "run" / "fold2-seed0").mkdir()
    (tmp_path / "run" / "fold2-seed0" / "other").touch()
    with pytest.raises(RunError, match=r"1 of 3 runs failed; the first, fold2-seed0: .*other files"):
        cross_validate(config, data=dataset.path, run=tmp_path / "run")
