"""The champion is trained on with what readers said, judged on its own test folds, and offered to the gate."""

import shutil

import numpy as np
import pytest
import torch
from ray import tune
from safetensors.torch import load_file
from tests.tiny import MODELS
from tests.unit.test_join_feedback import KEY, Folder, head

from neuralblack.cluster.retrain import recipe_of, retrain
from neuralblack.cluster.space import check_space
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Row, open_dataset, write_dataset
from neuralblack.data.join_feedback import join_feedback
from neuralblack.errors import InputError
from neuralblack.evaluation.challenge import challenge
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.evaluation.metrics_file import read_metrics
from neuralblack.inference.predictor import Predictor
from neuralblack.models.table import build_model
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import open_model
from neuralblack.registry.promotion import promote
from neuralblack.training import runs
from neuralblack.training.runs import check_run, train_here

FIRST = TrainConfig(model="tiny", weights="none", epochs=2, batch_size=16, precision="fp32", schedule="all")


@pytest.fixture(autouse=True)
def pytorch(monkeypatch):
    """Let `auto` evaluate with PyTorch: OpenVINO compiles for seconds, and nothing here is about the engine."""
    monkeypatch.setattr("neuralblack.inference.engines.installed", lambda: False)


@pytest.fixture
def registry(dataset, tiny, tmp_path):
    train_here(FIRST, data=dataset.path, run=tmp_path / "first")
    promote(tmp_path / "first", tmp_path / "registry", Judgement(forced="a test"))
    return tmp_path / "registry"


@pytest.fixture
def joined(dataset, tmp_path):
    folder = Folder(tmp_path / "kept", dataset)
    for seed in range(4):
        folder.say(head(dataset, seed), "glioma", patient=f"new {seed}")
    return join_feedback(folder.path, dataset, tmp_path / "joined", key=KEY)


def again(joined, registry, folder, *overrides):
    """Train the champion on for one epoch, into `second` and `report` of a folder."""
    return retrain(
        data=joined.path,
        run=folder / "second",
        registry=registry,
        report=folder / "report",
        overrides=["epochs=1", *overrides],
        workers=0,
    )


def test_it_starts_at_the_champions_weights_and_is_judged_by_the_same_slices(dataset, registry, joined, tmp_path):
    champion = open_model(tmp_path / "first" / "model")
    config = recipe_of(champion, ["epochs=1", "lr=1e-6"])
    started = build_model("tiny", classes=len(champion.classes), weights=config.weights, seed=config.seed)
    assert all(
        torch.equal(value, started.state_dict()[name])
        for name, value in load_file(champion.path / "weights.safetensors").items()
    )

    model, result = again(joined, registry, tmp_path, "lr=1e-6")

    assert model.hash == read_metrics(tmp_path / "report")["model"]["hash"] != champion.hash
    assert model.split["parts"]["train"]["slices"] == champion.split["parts"]["train"]["slices"] + 4
    assert model.split["learnt_only"] == 4 and "learnt_only" not in champion.split
    for name in ("report.html", "README.md"):
        assert "4 slices of the training part" in (tmp_path / "report" / name).read_text("utf-8")
    assert model.split["parts"]["test"] == champion.split["parts"]["test"]
    assert result["slices"] == champion.split["parts"]["test"]["slices"]
    images = dataset.images[:8]
    before, after = (Predictor(each, engine="eager-fp32").probabilities(images) for each in (champion, model))
    assert abs(before - after).max() < 0.05  # at this learning rate it stays where it started


def test_the_run_is_checked_once(registry, joined, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(runs, "open_dataset", lambda data: opened.append(data) or open_dataset(data))

    again(joined, registry, tmp_path)

    assert len(opened) == 1


def test_the_gate_decides_about_it_beside_the_champion(dataset, registry, joined, tmp_path):
    with pytest.raises(InputError):
        retrain(data=joined.path, run=tmp_path / "r", registry=tmp_path / "none", report=tmp_path / "x", workers=0)
    model, _ = again(joined, registry, tmp_path)

    with pytest.raises(InputError, match="no evaluation of the champion"):
        challenge(tmp_path / "second", registry, evaluation=tmp_path / "report")
    forced, judgement = challenge(tmp_path / "second", registry, evaluation=tmp_path / "report", force="a test")
    assert forced.id == model.id and judgement.forced == "a test"


@pytest.mark.parametrize("part", ["test_folds", "validation_folds"])
def test_patients_that_the_champion_learnt_from_are_not_judged_by(part, registry, joined, tmp_path):
    with pytest.raises(InputError, match=f"has seen 7 of the 7 patients of the {part.removesuffix('_folds')} part"):
        retrain(
            data=joined.path,
            run=tmp_path / "second",
            registry=registry,
            report=tmp_path / "report",
            overrides=[f"{part}=[4]"],
            workers=0,
        )
    assert not (tmp_path / "second").exists()


def test_what_starts_at_its_weights_counts_its_patients_as_seen(dataset, registry, tmp_path):
    champion = open_model(tmp_path / "first" / "model")
    started = recipe_of(champion, ["epochs=1", "train_folds=[3]"])  # of 3, 4 and 5, which the champion learnt from
    second = train_here(started, data=dataset.path, run=tmp_path / "second")

    with pytest.raises(InputError, match="in the model's train part"):
        evaluate_held_out(Predictor(second, engine="eager-fp32"), dataset.path, tmp_path / "report", folds=[4])
    third = started.model_copy(update={"weights": str(second.path / "weights.safetensors"), "validation_folds": [4]})
    with pytest.raises(InputError, match="has seen 7 of the 7 patients of the validation part"):
        train_here(third, data=dataset.path, run=tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_checkpoint_counts_as_its_run_and_weights_of_ours_without_a_split_are_refused(dataset, registry, tmp_path):
    checkpoint = next((tmp_path / "first" / "checkpoints").glob("*/model.safetensors"))
    alone = shutil.copy(checkpoint, tmp_path / "weights.safetensors")
    published = tmp_path / "published.pth"
    torch.save(MODELS["tiny"].imagenet(), published)

    def asked(weights, **more):
        return check_run(FIRST.model_copy(update={"weights": str(weights), **more}), data=dataset.path)[1].manifest

    assert set(asked(checkpoint)["earlier"]) == {"train", "validation"}
    assert "earlier" not in asked(published)
    with pytest.raises(InputError, match="has seen 7 of the 7 patients of the test part"):
        asked(checkpoint, test_folds=(3,))
    with pytest.raises(InputError, match=r"without its split.*give RUN/model/weights\.safetensors"):
        asked(alone)
    space = {"weights": tune.choice(["none", str(checkpoint)])}
    with pytest.raises(InputError, match=r"search space weights: found .*model\.safetensors"):
        check_space(FIRST, space)


def test_a_report_that_cannot_be_written_is_refused_before_training(registry, joined, tmp_path):
    (tmp_path / "report").write_text("mine")

    with pytest.raises(InputError, match="something that is no evaluation"):
        again(joined, registry, tmp_path)

    assert not (tmp_path / "second").exists()


def test_a_dataset_prepared_anew_is_refused_where_a_learnt_group_has_another_name_and_fold(registry, dataset, tmp_path):
    learnt = next(patient for patient, fold in zip(dataset.patients, dataset.folds, strict=True) if fold == 4)
    rows = []
    for row in range(len(dataset)):
        mine = dataset.patients[row] == learnt
        patient, fold = ("group-renamed", 1) if mine else (dataset.patients[row], int(dataset.folds[row]))
        about = (dataset.labels[row], fold, dataset.sources[row], dataset.source_hashes[row], None, (64, 64))
        rows.append(Row(dataset.ids[row], patient, *about))
    folder = tmp_path / "grown"
    folder.mkdir()
    np.ascontiguousarray(dataset.images).tofile(folder / ".pixels")
    write_dataset(folder, rows, folder / ".pixels", dataset.spec, {"rejected": [], "sources": [], "duplicates": {}})

    with pytest.raises(InputError, match="in its test part, which are not the champion's"):
        retrain(data=folder, run=tmp_path / "second", registry=registry, report=tmp_path / "report", workers=0)
    assert not (tmp_path / "second").exists()


def test_a_dataset_of_other_classes_is_refused(registry, joined, monkeypatch, tmp_path):
    folder = registry / "models" / (registry / "aliases" / "champion").read_text().strip()
    monkeypatch.setattr("neuralblack.registry.model_folder.ModelFolder.classes", ("glioma", "pituitary"))
    assert folder.exists()

    with pytest.raises(InputError, match="those of the champion, glioma, pituitary"):
        retrain(data=joined.path, run=tmp_path / "s", registry=registry, report=tmp_path / "x", workers=0)
