"""Shards: the slices and the results of the dataset they were made of, whether in a folder or on an S3 server."""

import errno
import logging
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from neuralblack.cluster.environment import shared_dataset
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.shards import MANIFEST, places_of, scattered
from neuralblack.data.write_shards import write_shards
from neuralblack.errors import InputError
from neuralblack.files import sha256
from neuralblack.registry.describe import describe
from neuralblack.registry.run_folder import history_of
from neuralblack.training.batches import shuffled
from neuralblack.training.runs import train_here

CONFIG = TrainConfig(
    model="tiny", weights="none", schedule="all", lr=0.02, epochs=2, batch_size=7, batch_norm="eval", precision="fp32"
)
JOBS = Path(__file__).parents[2] / "jobs"
KEYS_MISSING = b'{"kind": "neuralblack shards", "format": 2}'
OF = 7  # slices of a shard: nine of them for the dataset's 60


def weights_of(run):
    return sha256(run / "model" / "weights.safetensors")


def test_shards_hold_the_slices_of_their_dataset_under_its_hash(dataset, cache, tmp_path):
    write_shards(dataset, str(tmp_path / "shards"), slices=OF)
    found = open_dataset(tmp_path / "shards")

    assert found.hash == dataset.hash and found.images.shape == dataset.images.shape
    for name in ("ids", "patients", "labels", "sources", "source_hashes", "classes", "spec"):
        assert getattr(found, name) == getattr(dataset, name)
    assert (found.folds == dataset.folds).all() and (found.boxes == dataset.boxes).all()
    for rows in (slice(None), slice(3, 40, 5), np.array([5, 5, 59, 0]), 17, np.int64(-1)):
        assert np.array_equal(found.images[rows], dataset.images[rows])
    assert dict(describe(str(tmp_path / "shards")))["slices"] == dict(describe(dataset.path))["slices"]
    assert sum(path.suffix == ".bin" for path in cache.iterdir()) == 0  # they lie on the same disk


def test_the_job_writes_shards_and_says_how_many_and_where(dataset, cache, tmp_path, monkeypatch, capsys):
    out = tmp_path / "shards"
    monkeypatch.setattr(sys, "argv", ["shard.py", str(dataset.path), str(out), "--slices", str(OF)])

    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(JOBS / "shard.py"), run_name="__main__")

    assert not ended.value.code
    assert capsys.readouterr().out == f"60 slices in 9 shards in {out}\n"
    assert open_dataset(out).hash == dataset.hash


def test_the_same_shards_again_are_left_alone_and_others_in_their_place_are_refused(dataset, cache, tmp_path):
    write_shards(dataset, str(tmp_path), slices=OF)
    before = (tmp_path / "00000.arrow").stat().st_mtime_ns
    write_shards(dataset, str(tmp_path), slices=OF)

    assert (tmp_path / "00000.arrow").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="found shards of 7 slices, or of another dataset"):
        write_shards(dataset, str(tmp_path), slices=8)


def test_a_full_disk_is_said_and_nothing_of_a_shard_is_left_on_it(dataset, tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".00001.arrow.0123abcd").write_bytes(bytes(100))  # a killed writer's

    def copy(source, target):
        Path(target).write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("neuralblack.data.places.shutil.copyfile", copy)
        with pytest.raises(InputError, match=r"00000\.arrow: found no space left on the disk"):
            write_shards(dataset, str(tmp_path / "shards"), slices=16)

    assert list((tmp_path / "shards").iterdir()) == []
    write_shards(dataset, str(tmp_path / "shards"), slices=16)
    assert open_dataset(str(tmp_path / "shards")).hash == dataset.hash


@pytest.mark.parametrize("out", ["shards", "s3://slices/all"], ids=["folder", "S3"])
def test_a_full_disk_before_a_shard_is_whole_is_said_with_its_place(out, dataset, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(path, batch):
        path.write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr("neuralblack.data.write_shards.write_batch", write)
    with pytest.raises(InputError, match="found no space left on the disk") as error:
        write_shards(dataset, out, slices=16)

    assert ("temporary" in error.value.where) == ("TMPDIR" in error.value.fix) == ("s3" in out)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_shards_are_not_written_into_a_dataset(dataset):
    before = sorted(dataset.path.iterdir())

    with pytest.raises(InputError, match=r"found a prepared dataset.* nothing of it was touched"):
        write_shards(dataset, str(dataset.path))
    assert sorted(dataset.path.iterdir()) == before


def test_what_killed_writers_left_goes_and_whatever_else_is_in_the_folder_stays(dataset, tmp_path):
    left = [".00001.arrow.0123abcd", ".index.arrow.0123abcd", ".shards.json.0123abcd", ".file.0123abcd"]
    left += [".names.arrow.0123abcd", "..file.0123abcd.4567cdef"]
    others = [".bashrc.20240101", ".settings.json.20240101", ".notes.arrow.20240101"]
    for name in (*left, *others):
        (tmp_path / name).write_bytes(b"x")
    for folder in (".slices.0a1b2c3d", ".file.0a1b2c3d"):  # the first: left by a killed `prepare --out DIR/slices`
        (tmp_path / folder).mkdir()

    write_shards(dataset, str(tmp_path))

    hidden = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden == {*others, ".slices.0a1b2c3d", ".file.0a1b2c3d"}


def test_who_writes_shards_where_others_do_waits_for_them(dataset, cache, tmp_path):
    def write(_):
        write_shards(dataset, str(tmp_path / "shards"), slices=1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))

    assert np.array_equal(open_dataset(tmp_path / "shards").images[:], dataset.images)
    assert not [path for path in (tmp_path / "shards").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("manifest", [b'{"kind": "neur', KEYS_MISSING], ids=["cut off", "keys missing"])
def test_the_same_command_mends_what_is_missing_or_damaged(manifest, dataset, cache, tmp_path):
    write_shards(dataset, str(tmp_path), slices=OF)
    (tmp_path / "00001.arrow").write_bytes(b"?")
    (tmp_path / "00002.arrow").unlink()
    (tmp_path / MANIFEST).write_bytes(manifest)

    write_shards(dataset, str(tmp_path), slices=OF)

    assert np.array_equal(open_dataset(tmp_path).images[:], dataset.images)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("window", [0, 24])
def test_a_run_on_an_s3_server_ends_with_the_weights_and_metrics_of_one_on_the_dataset(
    window, dataset, bucket, cache, tiny, tmp_path
):
    config = CONFIG.model_copy(update={"shuffle_window": window})
    write_shards(dataset, "s3://slices/all", slices=OF)

    train_here(config, data=dataset.path, run=tmp_path / "here")
    train_here(config, data=shared_dataset("s3://slices/all"), run=tmp_path / "there")

    assert weights_of(tmp_path / "there") == weights_of(tmp_path / "here")
    assert history_of(tmp_path / "there") == history_of(tmp_path / "here")
    assert sum(path.suffix == ".bin" for path in cache.iterdir()) == 9


def test_a_node_without_room_for_all_shards_fetches_them_again_and_never_holds_more(
    dataset, bucket, cache, tiny, tmp_path, monkeypatch
):
    config = CONFIG.model_copy(update={"shuffle_window": 2 * OF})
    write_shards(dataset, "s3://slices/all", slices=OF)
    one = bucket.head_object(Bucket="slices", Key="all/00000.arrow")["ContentLength"]
    train_here(config, data=dataset.path, run=tmp_path / "here")

    monkeypatch.setenv("NEURALBLACK_CACHE_GIB", str(3.5 * one / 2**30))
    train_here(config, data="s3://slices/all", run=tmp_path / "there")

    assert weights_of(tmp_path / "there") == weights_of(tmp_path / "here")
    assert 1 <= sum(path.suffix == ".bin" for path in cache.iterdir()) <= 3
    first, second = open_dataset("s3://slices/all").images, open_dataset("s3://slices/all").images
    assert np.array_equal(first[:], dataset.images)
    assert np.array_equal(second[:], dataset.images), "what the first one has open cannot go"
    assert sum(path.suffix == ".bin" for path in cache.iterdir()) <= 3
    monkeypatch.setenv("NEURALBLACK_CACHE_GIB", str(0.5 * one / 2**30))
    with pytest.raises(InputError, match="found no room for a shard"):
        _ = open_dataset("s3://slices/all").images[:]


def test_what_is_fetched_again_is_checked_again(dataset, bucket, cache, monkeypatch):
    write_shards(dataset, "s3://slices/all", slices=OF)
    one = bucket.head_object(Bucket="slices", Key="all/00000.arrow")["ContentLength"]
    monkeypatch.setenv("NEURALBLACK_CACHE_GIB", str(1.5 * one / 2**30))
    images = open_dataset("s3://slices/all").images
    assert np.array_equal(images[:], dataset.images)  # by now the first ones had to go

    whole = bucket.get_object(Bucket="slices", Key="all/00000.arrow")["Body"].read()
    bucket.put_object(Bucket="slices", Key="all/00000.arrow", Body=whole.replace(whole[2000:2020], b"?" * 20))

    with pytest.raises(InputError, match=r"00000\.arrow: found .* as shards\.json says"):
        _ = images[:]


def test_shards_of_another_dataset_stay_where_the_server_does_not_answer_for_a_moment(
    dataset, cache, tmp_path, monkeypatch
):
    write_shards(dataset, str(tmp_path), slices=OF)

    def no_answer(self, name):
        raise InputError(f"{self}/{name}", found="a timeout", expected="a file that can be reached", fix="try again")

    monkeypatch.setattr("neuralblack.data.shards.Place.read", no_answer)
    with pytest.raises(InputError, match="found a timeout"):
        write_shards(dataset, str(tmp_path), slices=8)
    monkeypatch.undo()
    assert open_dataset(tmp_path).images.shape == dataset.images.shape
    (tmp_path / MANIFEST).write_text('{"kind": "neuralblack shards", "format": 99}')
    with pytest.raises(InputError, match="of format 99"):
        write_shards(dataset, str(tmp_path), slices=OF)


def test_a_damaged_copy_is_fetched_again_and_a_damaged_shard_is_refused_by_its_name(
    dataset, bucket, cache, tmp_path, caplog
):
    write_shards(dataset, "s3://slices/all", slices=OF)
    _ = open_dataset("s3://slices/all").images[:]
    copy = min(cache.glob("*.bin"))
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")

    with caplog.at_level(logging.WARNING):
        assert np.array_equal(open_dataset("s3://slices/all").images[:], dataset.images)
    assert "was damaged, and is fetched again" in caplog.text

    bucket.put_object(Bucket="slices", Key="all/00003.arrow", Body=b"something else")
    for kept in cache.glob("*.bin"):
        kept.unlink()
    with pytest.raises(InputError, match=r"s3://slices/all/00003\.arrow: found .* as shards\.json says"):
        _ = open_dataset("s3://slices/all").images[:]
    assert [path for path in cache.iterdir() if path.suffix not in (".bin", ".lock")] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda client: client.delete_object(Bucket="slices", Key="all/shards.json"), "found no shards.json"),
        (lambda client: client.delete_object(Bucket="slices", Key="all/index.arrow"), "index.arrow: found nothing"),
        (lambda client: client.put_object(Bucket="slices", Key="all/index.arrow", Body=b"?"), "found another content"),
        (
            lambda client: client.put_object(Bucket="slices", Key="all/shards.json", Body=b"{}"),
            "found no readable manifest",
        ),
        (
            lambda client: client.put_object(Bucket="slices", Key="all/shards.json", Body=b"{"),
            "found no readable manifest",
        ),
        (
            lambda client: client.put_object(Bucket="slices", Key="all/shards.json", Body=KEYS_MISSING),
            "found no readable manifest",
        ),
        (lambda client: client.delete_object(Bucket="slices", Key="all/00001.arrow"), "00001.arrow: found"),
    ],
)
def test_what_is_missing_or_damaged_on_the_server_is_one_clean_error(change, words, dataset, bucket, cache):
    write_shards(dataset, "s3://slices/all", slices=OF)
    change(bucket)

    with pytest.raises(InputError, match=words):
        _ = open_dataset("s3://slices/all").images[:]


@pytest.mark.parametrize("address", ["s3://", "s3:///all", "s3://slices/none"])
def test_an_address_without_shards_is_one_clean_error(address, bucket):
    with pytest.raises(InputError, match="expected"):
        open_dataset(address)


def test_a_limit_that_is_no_number_is_one_clean_error(dataset, cache, tmp_path, monkeypatch):
    write_shards(dataset, str(tmp_path), slices=OF)
    monkeypatch.setenv("NEURALBLACK_CACHE_GIB", "16G")

    with pytest.raises(InputError, match="NEURALBLACK_CACHE_GIB: found 16G; expected a number of GiB"):
        open_dataset(tmp_path)


def test_an_address_that_nobody_answers_is_one_clean_error(cache, monkeypatch):
    with pytest.raises(InputError, match=r"found .* expected a file that can be reached"):
        open_dataset("gopher://slices")


def test_every_stretch_of_an_order_comes_from_few_shards_and_every_slice_once():
    count, of, window = 4000, 100, 800
    places = places_of(count)[np.arange(0, count, 2)]  # the training part: every second slice

    order = shuffled(places, window, torch.Generator().manual_seed(1)).numpy()
    again = shuffled(places, window, torch.Generator().manual_seed(2)).numpy()

    assert sorted(order) == list(range(len(places)))
    shards = places[order] // of
    assert max(len(set(shards[at : at + 200])) for at in range(0, len(order), 200)) <= 16
    assert len(set(shards)) == 40
    assert not np.array_equal(order, again)
    mixed = shuffled(places, 0, torch.Generator().manual_seed(1)).numpy()
    assert min(len(set(places[mixed][at : at + 200] // of)) for at in range(0, len(mixed), 200)) > 30
    assert np.array_equal(places_of(count)[scattered(count)], np.arange(count))
    assert scattered(8).tolist() == [2, 4, 6, 5, 1, 7, 0, 3], "the same for ever: shards lie by it"
