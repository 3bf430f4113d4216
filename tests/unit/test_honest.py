"""A run's model says how sure it may be, keeps golden slices, and refuses what it never learnt."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.config import TrainConfig
from neuralblack.data.slices import Prepared
from neuralblack.inference.engines import build_engine
from neuralblack.inference.predictor import Prediction, Predictor
from neuralblack.inference.reference import GOLDEN, LEARNT, MARGIN, calibrate, golden_rows, learnt_rows
from neuralblack.registry.describe import describe
from neuralblack.registry.model_folder import load_reference, open_model
from neuralblack.service.answers import result
from neuralblack.training.runs import check_run, train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=3, batch_size=16, precision="fp32", lr=0.02)


@pytest.fixture
def run(dataset, tiny, tmp_path):
    """A run that was calibrated on about 12 slices, too few for a gate."""
    train_here(SHORT, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)
    return tmp_path / "run"


def test_a_run_ends_with_calibration_in_its_model_and_on_its_card(run, dataset):
    model = open_model(run / "model")
    rows = check_run(SHORT, data=dataset.path)[1].validation

    assert 0.05 <= model.calibration["temperature"] <= 20
    assert model.calibration["fitted_on"] == {
        "part": "validation",
        "slices": len(rows),
        "patients": len({dataset.patients[row] for row in rows}),
    }
    assert model.card["calibration"]["ece"] == model.calibration["ece"]
    assert {"before", "after", "after_cross_fitted"} == set(model.calibration["ece"])
    assert {"calibration", "prediction sets", "gate"} <= {name for name, _ in describe(run / "model")}
    assert [path.name for path in run.iterdir() if path.name.startswith(".calibrating")] == []


def test_what_was_taken_of_published_weights_is_said_once_where_a_run_begins_with_them(dataset, tiny, tmp_path, caplog):
    caplog.set_level("INFO")

    def said():
        caplog.clear()
        config = SHORT.model_copy(update={"weights": "imagenet", "epochs": 2})
        train_here(config, data=dataset.path, run=tmp_path / "run")
        return caplog.text.count("tensors of the backbone")

    assert said() == 1
    assert said() == 0 and "this run is through" in caplog.text
    shutil.rmtree(tmp_path / "run" / "model")
    assert said() == 0, "it goes on from a checkpoint"


def test_golden_slices_give_the_golden_logits_in_eager_fp32(run):
    model = open_model(run / "model")
    reference = load_reference(model)

    logits = build_engine(model, name="eager-fp32", device="cpu")(reference["golden_images"]).logits

    assert 0 < len(logits) <= GOLDEN
    assert torch.allclose(logits, reference["golden_logits"], atol=1e-5)


def test_the_cloud_is_of_every_class_however_rare():
    labels = ["glioma"] * 9000 + ["pituitary"] + ["glioma"] * 9000
    dataset = SimpleNamespace(labels=labels)

    rows = learnt_rows(np.arange(len(labels)), dataset, ("glioma", "pituitary"))

    assert 9000 in rows and LEARNT <= len(rows) <= LEARNT + 2
    assert np.array_equal(learnt_rows(np.arange(100), dataset, ("glioma", "pituitary")), np.arange(100))


def test_golden_slices_are_spread_over_the_classes_and_their_answers_are_clear():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], 500)
    labels = np.where(np.arange(500) < 450, 0, np.where(np.arange(500) < 496, 1, 2))

    rows = golden_rows(shares, labels)
    ranked = np.sort(shares[rows], axis=1)

    assert len(rows) == len(set(rows)) == GOLDEN and (golden_rows(shares, labels) == rows).all()
    assert (ranked[:, -1] - ranked[:, -2] >= MARGIN).all()
    assert np.bincount(labels[rows]).tolist() == [14, 14, 4]


def test_probabilities_are_those_of_the_logits_at_the_temperature(run, dataset):
    predictor = Predictor.load(run, engine="eager-fp32")
    logits = build_engine(predictor.folder, name="eager-fp32")(torch.from_numpy(np.array(dataset.images[:5]))).logits

    expected = torch.softmax(logits / predictor.folder.calibration["temperature"], 1)

    assert np.allclose(predictor.probabilities(dataset.images[:5]), expected.numpy(), atol=1e-6)


def test_an_answer_has_a_set_with_its_coverage_and_its_top_class_first(run, dataset):
    predictor = Predictor.load(run, engine="eager-fp32")

    (answer,) = predictor([dataset.images[0]])

    assert answer.status == "ok" and answer.coverage == 0.95
    assert answer.prediction_set[0] == answer.label == max(answer.probabilities, key=answer.probabilities.get)
    assert "reasons" not in result(answer)


def test_a_model_without_calibration_promises_no_coverage(dataset, tiny, tmp_path):
    train_here(SHORT.model_copy(update={"epochs": 1}), data=dataset.path, run=tmp_path / "run")
    predictor = Predictor.load(tmp_path / "run", engine="eager-fp32")

    (answer,) = predictor([dataset.images[0]])

    assert answer.coverage is None and set(answer.prediction_set) == set(predictor.classes)


def test_in_a_batch_only_what_is_no_slice_is_refused_and_the_others_are_answered_as_alone(run, dataset):
    predictor = Predictor.load(run, engine="eager-fp32")
    first, second = dataset.images[0], dataset.images[7]

    answers = predictor([first, Prepared(second, colour=0.4), np.zeros_like(first), second])

    assert [answer.status for answer in answers] == ["ok", "refused", "refused", "ok"]
    assert [reason.code for answer in answers for reason in answer.reasons] == ["colour", "blank"]
    for answer, alone in ((answers[0], predictor([first])[0]), (answers[3], predictor([second])[0])):
        assert (answer.label, answer.prediction_set) == (alone.label, alone.prediction_set)
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)  # another size of batch
    assert answers[1].label is None and answers[1].probabilities is None and answers[1].prediction_set is None
    assert result(answers[1]) == {
        "status": "refused",
        "reasons": [{"code": "colour", "sentence": "The picture is in colour; an MRI slice is grey."}],
    }


def test_the_command_line_says_that_a_file_is_refused_and_why(run, dataset, tmp_path, monkeypatch, capsys):
    from neuralblack import cli

    Image.fromarray(dataset.images[0]).save(tmp_path / "slice.png")
    Image.fromarray(np.stack([dataset.images[0], *[np.zeros_like(dataset.images[0])] * 2], 2)).save(
        tmp_path / "red.png"
    )

    def predict(*options):
        words = ["predict", tmp_path / "slice.png", tmp_path / "red.png", "--model", run, "--engine", "eager-fp32"]
        monkeypatch.setattr("sys.argv", ["neuralblack", *map(str, words), *options])
        with pytest.raises(SystemExit):
            cli.run_verb(cli.app)
        return capsys.readouterr().out.splitlines()

    plain, refused = predict()
    _, line = map(json.loads, predict("--json"))

    monkeypatch.setattr(Predictor, "__call__", lambda self, _: [Prediction("ok", "glioma", 1.0, {}, ())])
    bare, _ = map(json.loads, predict("--json"))

    assert bare == {"file": str(tmp_path / "slice.png")} | result(Prediction("ok", "glioma", 1.0, {}, ())) | {
        name: line[name] for name in ("model", "preprocessing", "notice")
    }
    assert plain.split("\t")[1] in open_model(run / "model").classes
    assert refused.endswith("red.png\trefused\tThe picture is in colour; an MRI slice is grey.")
    assert (
        line["status"] == "refused" and "label" not in line and line["model"]["version"] == line["model"]["hash"][:12]
    )


def test_a_model_folder_with_its_calibration_can_be_moved(run, tmp_path, dataset):
    before = Predictor.load(run, engine="eager-fp32")([dataset.images[3]])
    shutil.move(run / "model", tmp_path / "elsewhere")

    assert Predictor.load(tmp_path / "elsewhere", engine="eager-fp32")([dataset.images[3]]) == before


def test_the_command_line_has_a_line_for_each_file_also_for_what_it_cannot_read(run, dataset, tmp_path):
    Image.fromarray(dataset.images[0]).save(tmp_path / "slice.png")
    (tmp_path / "folder").mkdir()
    files = [str(tmp_path / name) for name in ("nowhere.png", "folder", "slice.png")]
    command = ["predict", *files, "--model", str(run), "--engine", "eager-fp32"]

    plain, as_json = (CliRunner().invoke(app, [*command, *more]) for more in ([], ["--json"]))

    lines = [line.split("\t") for line in plain.stdout.splitlines()]
    assert [line[0] for line in lines] == files and plain.exit_code == as_json.exit_code == 2
    assert [line[1] for line in lines[:2]] == ["unreadable"] * 2
    assert f"name the files in it, or python jobs/predict.py {tmp_path / 'folder'} OUT" in lines[1][2]
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [row["status"] for row in rows[:2]] == ["unreadable"] * 2 and rows[2]["status"] in ("ok", "refused")
    assert lines[2][1] in (*dataset.classes, "refused")


@pytest.mark.parametrize(
    ("members", "coverage", "columns"),
    [
        (("glioma",), 0.95, ["glioma", "0.600"]),
        (("glioma", "no tumour", "pituitary"), 0.95, ["glioma", "0.600", "or no tumour, pituitary (95%)"]),
        (("glioma", "no tumour"), None, ["glioma", "0.600", "or no tumour (not calibrated)"]),
    ],
    ids=["alone", "several", "not calibrated"],
)
def test_the_command_line_names_the_other_classes_of_a_prediction_set(
    members, coverage, columns, run, dataset, tmp_path, monkeypatch
):
    Image.fromarray(dataset.images[0]).save(tmp_path / "slice.png")
    answer = Prediction("ok", "glioma", 0.6, {}, members, coverage)
    monkeypatch.setattr(Predictor, "__call__", lambda *_: [answer])

    command = ["predict", str(tmp_path / "slice.png"), "--model", str(run), "--engine", "eager-fp32"]

    assert CliRunner().invoke(app, command).stdout == "\t".join([str(tmp_path / "slice.png"), *columns]) + "\n"


def test_no_engine_is_built_for_files_that_cannot_be_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr("neuralblack.inference.predictor.build_engine", None)

    ended = CliRunner().invoke(app, ["predict", str(tmp_path), str(tmp_path / "nowhere.png"), "--model", str(run)])

    assert ended.exit_code == 2 and ended.stdout.count("\tunreadable\t") == 2


def test_the_command_line_reads_a_slice_from_standard_input(run, dataset, tmp_path, monkeypatch):
    Image.fromarray(dataset.images[0]).save(tmp_path / "slice.png")
    data = (tmp_path / "slice.png").read_bytes()
    command = ["--model", str(run), "--engine", "eager-fp32", "--json"]

    (named, piped, nothing) = (
        CliRunner().invoke(app, ["predict", file, *command], input=sent)
        for file, sent in ((str(tmp_path / "slice.png"), None), ("-", data), ("-", b""))
    )
    monkeypatch.setattr("neuralblack.data.readers.MAX_BYTES", len(data) - 1)
    long = CliRunner().invoke(app, ["predict", "-", *command], input=data)

    assert json.loads(piped.stdout) == json.loads(named.stdout) | {"file": "-"} and piped.exit_code == 0
    assert "-: found an empty file" in nothing.stdout and nothing.exit_code == 2
    assert "-: found more than 0 MiB; expected one slice" in long.stdout and long.exit_code == 2


def test_a_box_that_the_command_line_cannot_use_is_refused(run, dataset, tmp_path):
    Image.fromarray(dataset.images[0]).save(tmp_path / "slice.png")
    file, of_run = str(tmp_path / "slice.png"), ["--model", str(run), "--engine", "eager-fp32", "--box"]

    whole, several, empty = (
        CliRunner().invoke(app, ["predict", *each])
        for each in ([file, *of_run, "1,2,30,40"], [file, file, *of_run, "1,2,30,40"], [file, *of_run, ""])
    )

    assert "which looks at whole slices; expected a model of input roi. Fix: leave out --box" in str(whole.exception)
    assert "--box: found 2 files; expected one" in str(several.exception)
    assert "four whole numbers" in str(empty.exception)
    assert whole.stdout == several.stdout == empty.stdout == ""
