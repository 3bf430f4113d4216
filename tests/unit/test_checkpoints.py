"""Checkpoints: what was saved comes back; a flipped bit, a missing file and a full disk are said."""

import errno
import subprocess
from contextlib import contextmanager

import pytest
import torch

from neuralblack.errors import InputError
from neuralblack.files import read_json, write_json
from neuralblack.training import checkpoints
from neuralblack.training.checkpoints import Pace, load_metrics, load_state, save_state, sound
from neuralblack.training.unfreezing import stage_groups

METRICS = {"epoch": 3, "macro_f1": 0.5, "loss": 1.0}


def a_state(width: int = 8):
    model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(stage_groups(model, lr=0.1, decay=2.0, weight_decay=0.1))
    model[1](torch.randn(4, width)).sum().backward()  # the first stage has no gradient, as under a schedule
    optimizer.step()
    return {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "made": {}}


def test_a_state_comes_back_as_it_was(tmp_path):
    state = a_state()
    save_state(state, METRICS, tmp_path)
    back = load_state(tmp_path)

    assert back["epoch"] == 3 and load_metrics(tmp_path) == METRICS
    assert all(torch.equal(back["model"][key], value) for key, value in state["model"].items())
    assert back["optimizer"]["param_groups"] == [
        {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
        for group in state["optimizer"]["param_groups"]
    ]
    assert back["optimizer"]["state"].keys() == state["optimizer"]["state"].keys()
    for number, moments in state["optimizer"]["state"].items():
        assert all(torch.equal(back["optimizer"]["state"][number][name], value) for name, value in moments.items())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_refused_by_the_files_name(tmp_path, name):
    save_state(a_state(), METRICS, tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InputError, match=f"{name}: found .* as its manifest says"):
        load_state(tmp_path)


def test_an_unfinished_checkpoint_is_refused(tmp_path):
    save_state(a_state(), METRICS, tmp_path)
    (tmp_path / "manifest.json").unlink()

    with pytest.raises(InputError, match=r"no manifest\.json; expected a complete folder"):
        load_state(tmp_path)


@contextmanager
def full_disk(folder):
    """A tmpfs of 64 KiB, where one can be mounted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here (it takes root); the next test raises ENOSPC instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_no_checkpoint_that_loads(tmp_path):
    with full_disk(tmp_path):
        with pytest.raises(InputError, match="no space left on the disk"):
            save_state(a_state(width=512), METRICS, tmp_path)
        with pytest.raises(InputError):
            load_state(tmp_path)


def test_a_writer_without_space_is_said(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", no_space)
    with pytest.raises(InputError, match="no space left on the disk"):
        save_state(a_state(), METRICS, tmp_path)


def test_of_checkpoints_that_are_damaged_or_gone_the_whole_ones_are_left_and_it_is_said(tmp_path, caplog):
    folders = [tmp_path / f"epoch_{number:04d}" for number in range(3)]
    for folder in folders[:2]:
        folder.mkdir()
        save_state(a_state(), METRICS, folder)
    (folders[1] / "state.json").write_text("{}")

    assert sound(folders) == folders[:1]
    assert caplog.text.count("this checkpoint is not used") == 2
    with pytest.raises(InputError, match="found nothing"):
        sound(folders[2:])
    assert sound([]) == []


def test_ray_train_forgets_the_checkpoints_that_are_damaged_or_gone_and_orphans_are_removed(tmp_path):
    from neuralblack.cluster.resume import SNAPSHOT, clean_up, registered_checkpoints

    results = [
        {
            "checkpoint_dir_name": f"epoch_{number:04d}",
            "metrics": {"epoch": number, "macro_f1": 0.1 * number, "loss": 1.0},
        }
        for number in range(3)
    ]
    for result in results[:2]:
        (tmp_path / result["checkpoint_dir_name"]).mkdir()
        save_state(a_state(), METRICS, tmp_path / result["checkpoint_dir_name"])
    state = {
        "checkpoint_results": results,
        "checkpoint_report_indices": [0, 1, 2],
        "latest_checkpoint_result": results[2],
    }
    write_json(tmp_path / SNAPSHOT, state)
    (tmp_path / "epoch_0007").mkdir()  # killed while it was copied
    (tmp_path / "epoch_0007" / "model.safetensors").write_bytes(b"half")

    clean_up(tmp_path)

    assert not (tmp_path / "epoch_0007").exists()

    found = read_json(tmp_path / SNAPSHOT)
    assert [each["checkpoint_dir_name"] for each in found["checkpoint_results"]] == ["epoch_0000", "epoch_0001"]
    assert found["checkpoint_report_indices"] == [0, 1]
    assert found["latest_checkpoint_result"]["checkpoint_dir_name"] == "epoch_0001"
    assert [path.name for path in registered_checkpoints(tmp_path)] == ["epoch_0000", "epoch_0001"]


def test_a_list_of_checkpoints_that_a_kill_has_cut_off_is_made_again_and_nothing_whole_is_lost(tmp_path):
    from neuralblack.cluster.resume import SNAPSHOT, clean_up, registered_checkpoints

    for number, score in enumerate([0.9, 0.2, 0.5]):
        folder = tmp_path / f"epoch_{number:04d}"
        folder.mkdir()
        save_state(a_state(), {"epoch": number, "macro_f1": score, "loss": 1.0}, folder)
    (tmp_path / "epoch_0002" / "manifest.json").unlink()  # it was being written
    (tmp_path / SNAPSHOT).write_text('{"ray_version": "2.60.0", "checkpoint_res')

    clean_up(tmp_path)

    found = read_json(tmp_path / SNAPSHOT)
    assert [path.name for path in registered_checkpoints(tmp_path)] == ["epoch_0000", "epoch_0001"]
    assert [each["checkpoint_dir_name"] for each in found["checkpoint_results"]] == ["epoch_0001", "epoch_0000"]
    assert found["checkpoint_report_indices"] == [1, 0]
    assert found["latest_checkpoint_result"]["checkpoint_dir_name"] == "epoch_0001"
    assert not (tmp_path / "epoch_0002").exists()


def test_the_rebuilt_list_is_one_that_ray_train_reads(tmp_path):
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

    from neuralblack.cluster.resume import SNAPSHOT, clean_up

    (tmp_path / "epoch_0000").mkdir()
    save_state(a_state(), {"epoch": 0, "macro_f1": 0.3, "loss": 1.0}, tmp_path / "epoch_0000")
    (tmp_path / SNAPSHOT).write_text("")

    clean_up(tmp_path)

    assert _CheckpointManagerState.model_validate(read_json(tmp_path / SNAPSHOT)).current_report_index == 1


def test_checkpoints_of_an_earlier_version_get_the_merit_by_which_ray_keeps_them(tmp_path):
    from neuralblack.cluster.resume import SNAPSHOT, clean_up

    results = []
    for number, score in enumerate([0.9, 0.2]):
        metrics = {"epoch": number, "macro_f1": score, "loss": 1.0}
        results.append({"checkpoint_dir_name": f"epoch_{number:04d}", "metrics": metrics})
        (tmp_path / f"epoch_{number:04d}").mkdir()
        save_state(a_state(), metrics, tmp_path / f"epoch_{number:04d}")
    state = {"checkpoint_results": results[::-1], "checkpoint_report_indices": [1, 0]}
    write_json(tmp_path / SNAPSHOT, state | {"latest_checkpoint_result": results[1]})

    clean_up(tmp_path)

    found = read_json(tmp_path / SNAPSHOT)
    assert [each["metrics"]["merit"] > 0 for each in found["checkpoint_results"]] == [True, True]
    assert [each["checkpoint_dir_name"] for each in found["checkpoint_results"]] == ["epoch_0001", "epoch_0000"]
    assert found["latest_checkpoint_result"]["metrics"]["epoch"] == 1


def paced(scores, seconds):
    """Which of some epochs are saved that take so many seconds each."""
    now = [0.0]
    pace, history, saved = Pace(len(scores), clock=lambda: now[0]), [], []
    for epoch, score in enumerate(scores):
        now[0] += seconds
        history.append({"epoch": epoch, "macro_f1": score, "loss": 1.0})
        if pace.due(history[-1], history):
            saved.append(epoch)
    return saved


def test_quick_epochs_are_saved_where_they_are_the_best_so_far_the_last_or_some_seconds_behind_the_one_before():
    scores = [0.1, 0.3, 0.2, 0.2, 0.2, 0.4, 0.1, 0.1, 0.1]

    assert paced(scores, 0.3) == [0, 1, 5, 8]
    assert paced(scores, 4) == [0, 1, 4, 5, 8]
    assert paced(scores, 11) == list(range(9))


def test_an_epoch_done_again_is_the_best_so_far_whatever_came_behind_it_before():
    history = [{"epoch": epoch, "macro_f1": score, "loss": 1.0} for epoch, score in enumerate([0.1, 0.5, 0.9])]

    assert Pace(10, clock=lambda: 0.0).due(history[1], history)
    assert not Pace(10, clock=lambda: 0.0).due(history[0] | {"epoch": 2}, history)
