"""Cross-validation: its table against numbers worked out by hand, and runs that hold nothing out."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.cluster.crossval import _round
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.evaluation.crossval_table import markdown, table_of
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.quantize import quantize
from neuralblack.inference.reference import calibrate
from neuralblack.training.runs import train_here

CLASSES = ("glioma", "meningioma")
SHORT = TrainConfig(model="tiny", weights="none", epochs=3, batch_size=16, precision="fp32", lr=0.02)


def write(path, rows):
    """Rows of (patient, label, probability of glioma)."""
    columns = {
        "id": [str(number) for number in range(len(rows))],
        "patient": [patient for patient, _, _ in rows],
        "label": [label for _, label, _ in rows],
        "p(glioma)": np.array([share for *_, share in rows], np.float32),
        "p(meningioma)": np.array([1 - share for *_, share in rows], np.float32),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def rounds(tmp_path):
    first = [("a", "glioma", 0.9), ("a", "glioma", 0.4), ("b", "meningioma", 0.2)]  # 2 of 3 right; both patients right
    second = [("c", "glioma", 0.6), ("d", "meningioma", 0.7)]  # 1 of 2 right
    return [
        {"seed": 0, "fold": 1, "predictions": write(tmp_path / "1.parquet", first)},
        {"seed": 0, "fold": 2, "predictions": write(tmp_path / "2.parquet", second)},
    ]


def test_a_run_without_a_gpu_computes_on_the_cpu_of_a_node_that_has_some(dataset, tiny, tmp_path, monkeypatch):
    """Ray shows them all, and there is a run for every CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = SHORT.model_copy(update={"epochs": 1, "train_folds": (3, 4, 5), "validation_folds": (2,)})

    found = _round(config.model_dump(), str(dataset.path), str(tmp_path), "fold1-seed0", refit=True, device="cpu")

    assert 0 <= found["accuracy"] <= 1


def test_what_a_kill_left_of_a_calibration_goes_with_the_next_command(dataset, tiny, tmp_path):
    def killed(*_):
        (left,) = (tmp_path / "run").glob(".calibrating.*")
        shutil.copytree(left, f"{left}kept")  # a kill takes nothing away
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_here(SHORT, data=dataset.path, run=tmp_path / "run", calibrate=killed)
    assert len(list((tmp_path / "run").glob(".calibrating.*"))) == 1
    train_here(SHORT, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)

    assert list((tmp_path / "run").glob(".calibrating.*")) == []


def test_mean_and_spread_are_over_runs_and_pooled_is_over_slices(rounds):
    table = table_of(rounds, CLASSES)

    assert [run["accuracy"] for run in table["runs"]] == pytest.approx([2 / 3, 1 / 2])
    assert table["mean"]["accuracy"] == pytest.approx(7 / 12)
    assert table["sd"]["accuracy"] == pytest.approx(np.std([2 / 3, 1 / 2], ddof=1))
    assert table["pooled"]["count"] == 5
    assert table["pooled"]["accuracy"] == pytest.approx(3 / 5)
    assert table["pooled"]["sensitivity"] == pytest.approx({"glioma": 2 / 3, "meningioma": 1 / 2})


def test_a_patient_is_judged_by_the_mean_of_its_slices_logarithms(rounds):
    patients = table_of(rounds, CLASSES)["patients"]

    assert patients["count"] == 4
    assert patients["accuracy"] == pytest.approx(3 / 4)
    share = np.sqrt(0.9 * 0.4) / (np.sqrt(0.9 * 0.4) + np.sqrt(0.1 * 0.6))
    losses = -np.log([share, 0.8, 0.6, 0.3])
    assert patients["log_loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_a_model_that_is_too_sure_and_one_that_is_not_sure_enough_do_not_come_out_calibrated(tmp_path):
    wrong = {1: (0, 1, 2, 3, 4, 5), 2: ()}  # of ten patients, at a probability of .7 each: .4 and 1 are right
    rounds = []
    for fold, missed in wrong.items():
        rows = [(f"{fold}.{each}", CLASSES[each in missed], 0.7) for each in range(10)]
        rounds.append({"seed": 0, "fold": fold, "predictions": write(tmp_path / f"{fold}.parquet", rows)})

    table = table_of(rounds, CLASSES)

    assert [run["ece"] for run in table["runs"]] == pytest.approx([0.3, 0.3])
    for part in ("pooled", "patients"):  # a patient has one slice
        low, high = table[part]["intervals"]["ece"]
        assert table[part]["ece"] == pytest.approx(0.3)
        assert low < 0.3 < high
    assert "of each fold's model by itself" in markdown(table, title="x")


def test_seeds_are_pooled_by_themselves(rounds, tmp_path):
    again = [{**each, "seed": 1} for each in rounds]

    table = table_of([*rounds, *again], CLASSES)

    assert len(table["runs"]) == 4
    assert table["pooled"]["count"] == 5


def test_the_page_has_a_line_for_every_run_and_no_spread_of_a_single_one(rounds):
    assert markdown(table_of(rounds, CLASSES), title="x").count("| fold ") == 2
    assert "standard deviation" not in markdown(table_of(rounds[:1], CLASSES), title="x")


def test_every_fold_is_tested_once_by_every_seed_and_chosen_by_its_neighbour(dataset):
    from neuralblack.cluster.crossval import plan_of

    plan = plan_of(TrainConfig(), dataset.path, seeds=2)

    folds = sorted({each.test_folds[0] for each in plan.values()})
    assert len(plan) == 2 * len(folds)
    for each in plan.values():
        (test,), (validation,) = each.test_folds, each.validation_folds
        assert validation == folds[(folds.index(test) + 1) % len(folds)]
        assert sorted({test, validation, *each.train_folds}) == folds


def test_a_seed_or_fold_that_every_run_sets_itself_is_refused(tmp_path):
    from neuralblack.cluster.crossval import cross_validate

    with pytest.raises(InputError, match=r"--set seed: found 3; .*--seeds"):
        cross_validate(TrainConfig(seed=3), data=tmp_path, run=tmp_path)


def test_where_nothing_is_held_out_the_last_epoch_is_the_model_and_it_is_not_calibrated(dataset, tiny, tmp_path):
    everything = SHORT.model_copy(update={"train_folds": (2, 3, 4, 5), "validation_folds": ()})
    model = train_here(everything, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)

    assert [set(epoch) & {"macro_f1", "accuracy", "loss"} for epoch in model.history] == [set()] * 3
    assert model.card["validation"]["epoch"] == 2 and "nothing was held out" in model.card["chosen_by"]
    assert model.calibration == {}
    said = CliRunner().invoke(app, ["describe", str(tmp_path / "run")]).stdout
    assert "none on validation" in said
    assert "by the end of the schedule" in CliRunner().invoke(app, ["describe", str(tmp_path / "run" / "model")]).stdout
    assert "3/3" in CliRunner().invoke(app, ["runs", str(tmp_path)]).stdout
    found = evaluate_held_out(Predictor(model, engine="eager-fp32"), dataset.path, tmp_path / "report")
    assert found["slices"] == model.split["parts"]["test"]["slices"]
    assert "Loss and accuracy after each epoch" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(InputError, match="no validation part"):
        quantize(tmp_path / "run", dataset.path)
