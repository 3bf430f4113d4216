"""Shared activations: the same weights with and without them, and nothing that is damaged is used."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.tiny import phantom_dataset
from tests.unit.test_training import CONFIG

from neuralblack.data.dataset import open_dataset
from neuralblack.data.node_cache import folder_on_this_node, make_room
from neuralblack.data.splits import make_split
from neuralblack.errors import InputError
from neuralblack.models.execution import Execution
from neuralblack.models.inputs import to_input
from neuralblack.models.table import build_model
from neuralblack.training import device_rows
from neuralblack.training.activations import ActivationFile
from neuralblack.training.feature_cache import Sharing
from neuralblack.training.frozen import FrozenStages, weights_hash
from neuralblack.training.recipe import train

BF16 = CONFIG.model_copy(update={"precision": "bf16", "schedule": {0: 1, 2: 2, 3: 3}})
ROW = (4, 3, 3)


def trial(dataset, config, folder=None, **more):
    """Train; the last weights, and for each epoch the share of slices that another trial had computed."""
    state, history = trained(dataset, config, folder, **more)
    return state, [metrics["shared"] for metrics in history]


def trained(dataset, config, folder=None, *, max_bytes=2**30, schedules=(), device="cpu"):
    """Train; the last weights, and the metrics of each epoch."""
    torch.set_num_threads(1)
    states, history = [], []

    def report(metrics, state):
        states.append({key: value.clone() for key, value in state["model"].items()})
        history.append(metrics)

    data = open_dataset(dataset.path)
    split = make_split(data, train=None, validation=(2,), test=(1,))
    sharing = Sharing(folder, max_bytes, schedules) if folder else None
    train(config, data, split, report=report, device=device, sharing=sharing)
    return states[-1], history


def equal(first, second) -> bool:
    return all(torch.equal(first[key], value) for key, value in second.items())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_trial_ends_with_the_same_bits_whoever_computed_its_activations_and_in_which_order(
    dataset, tiny, tmp_path, precision
):
    config = BF16.model_copy(update={"precision": precision})
    alone, nothing = trial(dataset, config)
    other = config.model_copy(update={"shuffle_window": 30, "lr": 0.001})  # another order

    _, filled = trial(dataset, other, tmp_path)
    shared, found = trial(dataset, config, tmp_path)

    assert nothing == [0, 0, 0, 0]
    assert filled == [0, 0, 0, 0], "nobody had been there"
    assert found == [1, 1, 1, 0], "while at most two stages learn, all is there already"
    assert equal(shared, alone)


def test_in_fp32_a_network_that_rounds_by_the_size_of_its_batch_shares_as_well(tmp_path):
    data = phantom_dataset(tmp_path / "data", patients=15)
    fields = {"model": "efficientnet_lite0", "weights": "none", "batch_size": 10, "epochs": 2, "schedule": {0: 1, 1: 2}}
    config = CONFIG.model_copy(update=fields)
    assert len(make_split(data, train=None, validation=(2,), test=(1,)).train) % 10, "the last batch is smaller"

    alone, _ = trial(data, config)
    trial(data, config.model_copy(update={"lr": 0.001}), tmp_path / "shared")
    shared, found = trial(data, config, tmp_path / "shared")

    assert found == [1, 1]
    assert equal(shared, alone)


def test_what_frozen_stages_say_of_a_validation_slice_is_computed_once_for_all_epochs_and_trials(
    dataset, tiny, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "neuralblack.training.recipe.to_input",
        lambda images, network: asked.append(len(images)) or to_input(images, network),
    )

    alone = trained(dataset, BF16)[1]
    each = sum(asked) // BF16.epochs
    asked.clear()
    first = trained(dataset, BF16, tmp_path)[1]
    firsts, _ = sum(asked), asked.clear()
    second = trained(dataset, BF16, tmp_path)[1]

    # Once for the head's epochs, once for two stages, once where all learn.
    assert each > 0 and firsts == 3 * each
    assert sum(asked) == each, "where all learn"
    for history in (first, second):
        assert [{**metrics, "shared": 0} for metrics in history] == [{**metrics, "shared": 0} for metrics in alone]


def test_one_pass_fills_both_boundaries_where_another_schedule_wants_the_lower_one(dataset, tiny, tmp_path):
    sooner = BF16.model_copy(update={"schedule": {0: 1, 1: 2, 2: 3}})
    alone, _ = trial(dataset, sooner)

    trial(dataset, BF16, tmp_path, schedules=(BF16.schedule, sooner.schedule))
    shared, found = trial(dataset, sooner, tmp_path)

    assert found == [1, 1, 0, 0]
    assert equal(shared, alone)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"augmentation": BF16.augmentation.model_copy(update={"flip": 0.0})},
        {"precision": "fp32"},
        {"batch_size": 5},
    ],
)
def test_trials_with_other_views_or_numbers_share_nothing(dataset, tiny, tmp_path, change):
    trial(dataset, BF16, tmp_path)

    assert trial(dataset, BF16.model_copy(update=change), tmp_path)[1] == [0, 0, 0, 0]


def test_where_company_makes_a_difference_nothing_is_shared_and_it_is_said(
    dataset, tiny, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(FrozenStages, "company_difference", lambda *_: 3e-6)
    with caplog.at_level("INFO"):
        trial(dataset, BF16, tmp_path)

    assert "sharing is off" in caplog.text
    assert not list(tmp_path.rglob("*.bin"))


def test_a_slice_that_depends_on_its_company_is_found():
    class Mean(torch.nn.Module):
        def forward(self, inputs):
            return inputs + inputs.mean()

    same, other = torch.nn.Sequential(torch.nn.ReLU()), torch.nn.Sequential(Mean())

    for size, count in ((5, 5), (5, 3), (5, 1), (2, 5)):
        behind = FrozenStages(Execution(torch.device("cpu"), torch.float32, "test"), size=size)
        inputs = torch.randn(count, 1, 4, 4)
        assert torch.equal(behind.through(same, inputs), same(inputs))
        assert behind.company_difference(same, inputs, behind.through(same, inputs)) == 0
        assert behind.company_difference(other, inputs, behind.through(other, inputs)) > 0


def test_frozen_stages_see_batches_of_one_size():
    seen = []

    class Seen(torch.nn.Module):
        def forward(self, inputs):
            seen.append(len(inputs))
            return inputs

    behind = FrozenStages(Execution(torch.device("cpu"), torch.float32, "test"), size=4)
    inputs = torch.randn(10, 1, 4, 4)

    assert torch.equal(behind(torch.nn.Sequential(Seen()), torch.arange(10), 0, lambda rows: inputs[rows]), inputs)
    assert seen == [4, 4, 4]


def test_a_flipped_bit_is_computed_again(dataset, tiny, tmp_path, caplog):
    alone, _ = trial(dataset, BF16, tmp_path)
    damaged = sorted(tmp_path.rglob("0000.bin"))[0]
    content = bytearray(damaged.read_bytes())
    place = next(index for index, byte in enumerate(content) if byte)
    content[place] ^= 1
    damaged.write_bytes(content)

    shared, found = trial(dataset, BF16, tmp_path)

    assert 0 < found[0] < 1
    assert "damaged" in caplog.text
    assert equal(shared, alone)
    assert trial(dataset, BF16, tmp_path)[1][0] == 1


def test_without_room_a_trial_computes_its_own(dataset, tiny, tmp_path, caplog):
    with caplog.at_level("INFO"):
        shared, _ = trial(dataset, BF16, tmp_path, max_bytes=100)

    assert "no room" in caplog.text
    assert equal(shared, trial(dataset, BF16)[0])


def test_a_full_disk_ends_the_sharing_and_not_the_trial(dataset, tiny, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    shared, _ = trial(dataset, BF16, tmp_path)

    assert "no space left" in caplog.text
    assert equal(shared, trial(dataset, BF16)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_come_back_with_their_bits_and_channels_last(tmp_path, dtype):
    file = ActivationFile(tmp_path / "0000.bin", rows=10, shape=ROW, dtype=dtype)
    values = torch.randn(3, *ROW).to(dtype).contiguous(memory_format=torch.channels_last)

    assert file.read(np.array([7])) is None
    assert file.write(np.array([7, 2, 5]), values)
    again = ActivationFile(tmp_path / "0000.bin", rows=10, shape=ROW, dtype=dtype)
    found = again.read(np.array([5, 7]))

    assert torch.equal(found, values[[2, 0]])
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert again.read(np.array([5, 1])) is None


def test_the_file_that_nobody_opened_for_longest_goes_first_and_none_that_is_open(tmp_path):
    size = 10 * int(np.prod(ROW)) * 4
    for number in range(3):
        file = ActivationFile(tmp_path / f"{number:04d}.bin", rows=10, shape=ROW, dtype=torch.float32)
        file.write(np.arange(10), torch.ones(10, *ROW))
        file.close()
        os.utime(file.path, (number, number))
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.bin"))
    used = ActivationFile(tmp_path / "0000.bin", rows=10, shape=ROW, dtype=torch.float32)
    os.utime(used.path, (0, 0))

    assert make_room(tmp_path, size, max_bytes=taken)
    assert sorted(path.name for path in tmp_path.glob("*.bin")) == ["0000.bin", "0002.bin"]
    assert not make_room(tmp_path, taken, max_bytes=taken)
    assert [path.name for path in tmp_path.glob("*.bin")] == ["0000.bin"]


def test_what_a_file_in_use_was_promised_is_promised_to_nobody_else(tmp_path, monkeypatch):
    """Two groups of views, or two searches on one node: both would be told yes, and fill the disk to its last byte."""
    size, rows = int(np.prod(ROW)) * 4, 4000
    disk = SimpleNamespace(total=20 * rows * size, free=4 * rows * size)  # a tenth of it stays free
    monkeypatch.setattr("neuralblack.data.node_cache.shutil.disk_usage", lambda _: disk)
    assert make_room(tmp_path, rows * size, max_bytes=disk.total)
    first = ActivationFile(tmp_path / "0000.bin", rows=rows, shape=ROW, dtype=torch.float32)

    assert not make_room(tmp_path, rows * size, max_bytes=disk.total)
    first.close()
    assert make_room(tmp_path, rows * size, max_bytes=disk.total)


def test_of_a_large_disk_no_more_stays_free_than_checkpoints_need(tmp_path, monkeypatch):
    disk = SimpleNamespace(total=1000 << 30, free=60 << 30)  # much of it is somebody's data
    monkeypatch.setattr("neuralblack.data.node_cache.shutil.disk_usage", lambda _: disk)

    assert make_room(tmp_path, 40 << 30, max_bytes=disk.total)
    assert not make_room(tmp_path, 50 << 30, max_bytes=disk.total)


@pytest.mark.parametrize("folder", ["/dev/null/cache", "/proc/cache"])
def test_a_folder_for_copies_that_cannot_be_made_is_said_in_a_line(folder, monkeypatch):
    monkeypatch.setenv("NEURALBLACK_CACHE", folder)

    with pytest.raises(InputError, match=r"no folder, and none can be made .*export NEURALBLACK_CACHE=FOLDER"):
        folder_on_this_node("shards")


def test_rows_on_a_device_are_kept_from_trial_to_trial_and_the_least_used_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(device_rows, "_KEPT", type(device_rows._KEPT)())
    size = 10 * int(np.prod(ROW)) * 4
    monkeypatch.setattr(device_rows, "room_on", lambda _: 2 * size - sum(x.size for x in device_rows._KEPT.values()))

    def kept(name):
        device = torch.device("cpu")
        return device_rows.device_rows(tmp_path / name, rows=10, shape=ROW, dtype=torch.float32, device=device)

    first, values = kept("first"), torch.randn(2, *ROW)
    first.write(torch.tensor([4, 1]), values)
    kept("second")

    assert torch.equal(kept("first").read(torch.tensor([1, 4])), values[[1, 0]])
    assert first.read(torch.tensor([1, 2])) is None
    kept("third")
    assert [path.name for path in device_rows._KEPT] == ["first", "third"]


def test_room_on_a_device_counts_what_torch_keeps_for_later_and_half_of_all_is_for_training(monkeypatch):
    monkeypatch.setattr(device_rows, "_KEPT", type(device_rows._KEPT)())
    for name, found in {"mem_get_info": (100, 1000), "memory_reserved": 700, "memory_allocated": 200}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, found=found: found)

    assert device_rows.room_on(torch.device("cuda")) == 300
    assert device_rows.room_on(torch.device("cpu")) == 0


def test_a_trial_that_keeps_rows_on_its_device_ends_with_the_same_bits(dataset, tiny, tmp_path, monkeypatch):
    alone, _ = trial(dataset, BF16)
    monkeypatch.setattr(device_rows, "_KEPT", type(device_rows._KEPT)())
    monkeypatch.setattr(device_rows, "room_on", lambda _: 2**30)
    trial(dataset, BF16, tmp_path)
    assert device_rows._KEPT

    shared, found = trial(dataset, BF16, tmp_path)

    assert found == [1, 1, 1, 0]
    assert equal(shared, alone)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_a_hash_of_weights_changes_with_any_of_their_bits_and_not_with_their_layout(name):
    stages = build_model(name, classes=3)[:2]
    before = weights_hash(stages)

    assert weights_hash(stages.to(memory_format=torch.contiguous_format)) == before
    with torch.no_grad():
        next(iter(stages.buffers())).view(-1)[3] += 1e-6
    assert weights_hash(stages) != before
