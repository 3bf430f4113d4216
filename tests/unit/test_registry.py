"""Registry: whole models or none, an alias that moves in one step, runs that know their command."""

import errno
import json
import multiprocessing
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.registry.aliases import CHAMPION, resolve
from neuralblack.registry.describe import describe
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import model_path, open_model
from neuralblack.registry.promotion import check_audit, promote, roll_back
from neuralblack.registry.run_folder import history_of, hold_run, read_run, record_epoch, start_run
from neuralblack.training.runs import train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
FORCED = Judgement(forced="a test")
SPLIT = {"classes": ["glioma", "meningioma"], "dataset": "0" * 64, "parts": {}}


@pytest.fixture
def run(dataset, tiny, tmp_path):
    """A finished run of one epoch."""
    train_here(SHORT, data=dataset.path, run=tmp_path / "run")
    return tmp_path / "run"


def test_a_promoted_run_is_the_champion_and_the_same_model(run, tmp_path):
    model = promote(run, tmp_path / "registry", FORCED)

    champion = resolve(tmp_path / "registry", CHAMPION)
    assert champion.id == model.id == open_model(run / "model").id
    assert resolve(tmp_path / "registry", model.id).hash == champion.hash
    assert promote(run, tmp_path / "registry", FORCED).path == model.path
    with pytest.raises(InputError, match=r"^/proc: found a folder in which none can be made"):
        promote(run, Path("/proc/registry"), FORCED)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "weights.safetensors").write_bytes(b"x"), ["weights.safetensors", "SHA-256"]),
        (lambda model: (model / "card.json").unlink(), ["card.json", "found nothing"]),
        (lambda model: (model / "manifest.json").unlink(), ["no manifest.json"]),
        (lambda model: shutil.rmtree(model), ["found a run without a model"]),
        (lambda model: (model / "manifest.json").write_text('{"files": {"../x": "0"}}'), ["../x"]),
        (lambda model: (model / "manifest.json").write_text('{"files": {}}'), ["card.json"]),
        (lambda model: (model / "manifest.json").write_text("{"), ["no readable JSON"]),
    ],
    ids=["changed", "missing", "unfinished", "no folder", "outside", "empty manifest", "broken manifest"],
)
def test_a_damaged_model_is_refused_by_name_and_the_champion_stays(run, tmp_path, damage, words):
    before = promote(run, tmp_path / "registry", FORCED)
    damage(run / "model")

    with pytest.raises(InputError) as error:
        promote(run, tmp_path / "registry", FORCED)

    for word in words:
        assert word in str(error.value)
    assert resolve(tmp_path / "registry", CHAMPION).id == before.id
    assert [path.name for path in (tmp_path / "registry" / "models").iterdir()] == [before.id]


def test_a_model_under_another_models_id_is_refused(run, tmp_path):
    model = promote(run, tmp_path / "registry", FORCED)
    other = "tiny-000000000000"
    model.path.rename(model.path.with_name(other))

    with pytest.raises(InputError, match=f"expected {other}"):
        resolve(tmp_path / "registry", other)


def test_promoting_again_mends_a_model_whose_files_were_exchanged(run, dataset, tmp_path):
    registry = tmp_path / "registry"
    model = promote(run, registry, FORCED)
    train_here(SHORT.model_copy(update={"seed": 1}), data=dataset.path, run=tmp_path / "other")
    shutil.rmtree(model.path)
    shutil.copytree(tmp_path / "other" / "model", model.path)
    with pytest.raises(InputError, match="promote its run again"):
        resolve(registry, CHAMPION)

    assert promote(run, registry, FORCED).hash == model.hash

    assert resolve(registry, CHAMPION).hash == model.hash
    assert [path.name for path in (registry / "models").iterdir()] == [model.id]


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: (model / "weights.safetensors").write_bytes(b"x"),
        lambda model: (model / "card.json").unlink(),
        lambda model: (model / "manifest.json").write_text('{"files": {"card.json": 5}}'),
        lambda model: (model / "manifest.json").write_text('{"files": {"a\\u0000b": "0"}}'),
        lambda model: (shutil.rmtree(model), model.write_text("a file")),
    ],
    ids=["changed", "missing", "no hash", "no name", "a file in its place"],
)
def test_promoting_again_mends_a_damaged_copy(run, tmp_path, damage):
    registry = tmp_path / "registry"
    model = promote(run, registry, FORCED)
    damage(model.path)

    promote(run, registry, FORCED)

    assert resolve(registry, CHAMPION).hash == model.hash
    assert [path.name for path in (registry / "models").iterdir()] == [model.id]


def test_two_promotions_at_once_leave_one_whole_model(run, tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=promote, args=(run, tmp_path / "registry", FORCED)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)

    assert [one.exitcode for one in both] == [0, 0]
    assert resolve(tmp_path / "registry", CHAMPION).hash == open_model(run / "model").hash


def test_a_registry_without_a_champion_says_how_to_get_one(tmp_path):
    with pytest.raises(InputError, match="neuralblack promote"):
        resolve(tmp_path, CHAMPION)


def test_a_folder_that_is_no_registry_has_nothing_to_go_back_to(tmp_path):
    with pytest.raises(InputError, match="no audit"):
        roll_back(tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()


def _switch(registry, runs, count):
    for index in range(count):
        promote(runs[index % len(runs)], registry, FORCED)


def test_readers_never_see_a_half_written_alias_and_every_move_is_audited(run, dataset, tmp_path, tiny):
    registry = tmp_path / "registry"
    train_here(SHORT.model_copy(update={"seed": 1}), data=dataset.path, run=tmp_path / "other")
    runs = [run, tmp_path / "other"]
    ids = [promote(each, registry, FORCED).id for each in runs]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_switch, args=(registry, runs, 30)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add((registry / "aliases" / CHAMPION).read_text())
    assert all(writer.exitcode == 0 for writer in writers)

    assert seen == {f"{each}\n" for each in ids}
    moves = check_audit(registry)
    assert all(move["before"] == before["after"] for before, move in pairwise(moves)) and len(moves) > 30
    assert [path.name for path in (registry / "aliases").iterdir()] == [CHAMPION]


def test_the_same_command_goes_on_and_another_one_is_refused(tmp_path):
    start_run(tmp_path / "run", config=SHORT, split=SPLIT)
    start_run(tmp_path / "run", config=SHORT, split=SPLIT)

    with pytest.raises(InputError) as error:
        start_run(tmp_path / "run", config=SHORT.model_copy(update={"lr": 0.5}), split=SPLIT)

    assert "lr 0.001 where this command says 0.5" in str(error.value)
    assert read_run(tmp_path / "run")["config"]["lr"] == 0.001


def test_a_run_from_before_a_count_was_written_beside_its_parts_goes_on(tmp_path):
    config = TrainConfig()
    start_run(tmp_path / "run", config=config, split=SPLIT)

    start_run(tmp_path / "run", config=config, split=SPLIT | {"learnt_only": 3})

    start_run(tmp_path / "new", config=config, split=SPLIT | {"learnt_only": 3})
    with pytest.raises(InputError, match="another split"):
        start_run(tmp_path / "new", config=config, split=SPLIT | {"learnt_only": 4})


def _start(run):
    start_run(run, config=SHORT, split=SPLIT)


def _hold(run):
    with hold_run(run):
        pass


@pytest.mark.parametrize("begin", [_start, _hold])
def test_a_folder_with_other_files_does_not_become_a_run_and_is_not_touched(tmp_path, begin):
    (tmp_path / "letters.txt").write_text("mine")

    with pytest.raises(InputError, match="other files"):
        begin(tmp_path)

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("letters.txt", "mine")]


@pytest.mark.parametrize("begin", [_start, _hold])
@pytest.mark.parametrize("name", ["run", "run/below"])
def test_a_file_does_not_become_a_run(tmp_path, begin, name):
    (tmp_path / "run").write_text("mine")

    with pytest.raises(InputError, match="a file in its place"):
        begin(tmp_path / name)

    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("begin", [_start, _hold])
@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS])
def test_a_place_that_may_not_be_written_is_named(tmp_path, begin, reason, monkeypatch):
    def refused(self, *_, **__):
        raise OSError(reason, "no", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)  # root is refused nowhere

    with pytest.raises(InputError, match=f"{tmp_path}: found a folder in which none can be made"):
        begin(tmp_path / "run")


def test_a_run_that_was_killed_while_it_started_goes_on(tmp_path):
    for name in ("split.json", "log.txt", ".run.json.0123abcd", ".running"):
        (tmp_path / name).write_text("half")

    start_run(tmp_path, config=SHORT, split=SPLIT)

    assert json.loads((tmp_path / "split.json").read_text()) == SPLIT
    assert read_run(tmp_path)["classes"] == SPLIT["classes"]


def test_what_json_cannot_hold_leaves_no_half_run(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        start_run(tmp_path / "run", config=SHORT, split=SPLIT, search={"lr": float("inf")})

    assert not (tmp_path / "run").exists()


def _hold_until_ended(run, held):
    with hold_run(run):
        held.set()
        time.sleep(600)


def test_a_run_that_another_process_works_on_is_refused_until_that_one_ends(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    other = context.Process(target=_hold_until_ended, args=(tmp_path / "run", held))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(InputError, match=r"a process that works on it now.*one at a time"):
            _hold(tmp_path / "run")
    finally:
        other.kill()
        other.join()

    with hold_run(tmp_path / "run"):
        start_run(tmp_path / "run", config=SHORT, split=SPLIT)
        with pytest.raises(InputError, match="a process that works on it now"):
            _hold(tmp_path / "run")
    _hold(tmp_path / "run")


def test_an_error_in_a_held_run_is_that_error(tmp_path):
    with pytest.raises(BlockingIOError), hold_run(tmp_path / "run"):
        raise BlockingIOError


def test_an_epoch_that_is_done_again_is_there_once(tmp_path):
    for loss in (3.0, 2.0):
        record_epoch(tmp_path, {"epoch": 0, "loss": loss})
    record_epoch(tmp_path, {"epoch": 1, "loss": 1.0})

    assert [(row["epoch"], row["loss"]) for row in history_of(tmp_path)] == [(0, 2.0), (1, 1.0)]


def test_describe_says_what_a_dataset_a_run_and_a_model_are(run, dataset):
    assert dict(describe(run))["epochs done"] == "1 of 1"
    assert dict(describe(run / "model"))["classes"] == "no tumour, glioma, meningioma, pituitary"
    assert any("slices" in name for name, _ in describe(dataset.path))
    with pytest.raises(InputError, match="a dataset, a model folder or a run"):
        describe(run / "epochs")


def test_what_is_no_model_is_called_what_it_is(run, dataset, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "scan.png").write_bytes(b"")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")

    for path, words in (
        (tmp_path / "nowhere", "found nothing; expected a run or a model folder. Fix: check the path"),
        (tmp_path / "scan.png", "found a file; expected a run or a model folder"),
        (tmp_path, "found a folder of runs; expected a run or a model folder. Fix: name one of them, such as "),
        (dataset.path, "found a prepared dataset; expected a run or a model folder"),
        (tmp_path / "letters", "found a folder of another kind; expected a run or a model folder"),
        (tmp_path / "begun", "found a run without a model; expected one that is through. Fix: the same command"),
    ):
        with pytest.raises(InputError) as error:
            open_model(model_path(path))
        assert str(error.value).startswith(f"{path}: {words}")

    with pytest.raises(InputError, match="found a folder of runs; expected a dataset, a model folder or a run"):
        describe(tmp_path)


def test_a_three_class_dataset_gives_a_three_class_model(dataset, tiny, tmp_path):
    from neuralblack.data.prepare import prepare
    from neuralblack.inference.predictor import Predictor

    three = prepare([dataset.path.parent / "scans" / "figshare"], tmp_path / "three", size=64, workers=1)
    train_here(SHORT, data=three.path, run=tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run", engine="eager-fp32")

    answer = predictor([three.images[0]])[0]
    assert list(answer.probabilities) == ["glioma", "meningioma", "pituitary"]
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert json.loads((tmp_path / "run" / "model" / "card.json").read_text())["classes"] == list(predictor.classes)


def test_answers_do_not_depend_on_the_batch(run, dataset):
    from neuralblack.inference.predictor import Predictor

    predictor = Predictor.load(run, engine="eager-fp32")

    whole = predictor.probabilities(dataset.images)
    single = np.concatenate([predictor.probabilities(dataset.images[i : i + 1]) for i in range(len(dataset))])
    np.testing.assert_allclose(whole, single, atol=1e-5)


def test_an_unknown_engine_lists_the_known_ones(run):
    from neuralblack.inference.predictor import Predictor

    with pytest.raises(InputError, match="one of auto, eager-fp32, eager-bf16"):
        Predictor.load(run, engine="warp")
