"""A run is judged on its own test part, or on another hospital's slices, of which none may be a copy."""

import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import NO_BOX, Row, open_dataset, write_dataset
from neuralblack.data.splits import load_split
from neuralblack.errors import InputError
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.evaluation.metrics_file import METRICS, read_metrics
from neuralblack.evaluation.model_card import write_card
from neuralblack.files import digest
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.gate import Judgement
from neuralblack.registry.promotion import promote
from neuralblack.training.runs import train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
PROBE = "linear probe on random features"


@pytest.fixture
def predictor(dataset, tiny, tmp_path):
    train_here(SHORT, data=dataset.path, run=tmp_path / "run")
    return Predictor.load(tmp_path / "run", engine="eager-fp32")


@pytest.fixture
def elsewhere(dataset, predictor, tmp_path):
    """Another hospital's dataset: the test part's slices under other names, and two of the training part mirrored."""
    split = load_split(predictor.folder.split, dataset)
    rows = [*split.test, *split.train[:2]]
    pixels = [dataset.images[row][:, :: -1 if row in split.train else 1] for row in rows]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    np.stack(pixels).tofile(folder / ".pixels")
    known = [
        Row(f"e/{n}", f"E{n}", dataset.labels[row], 0, "e", f"hash {n}", None, (64, 64)) for n, row in enumerate(rows)
    ]
    write_dataset(folder, known, folder / ".pixels", dataset.spec, {"rejected": [], "sources": [], "duplicates": {}})
    return open_dataset(folder)


def test_the_report_and_the_card_say_how_it_was_made_and_what_it_cost(dataset, predictor, tmp_path):
    evaluate_held_out(predictor, dataset.path, tmp_path / "report", with_baselines=False)

    for name in ("report.html", "README.md"):
        words = (tmp_path / "report" / name).read_text()
        assert "1 epoch in " in words and "worker-minutes" in words
        assert "batch_size 16" in words and "from weights none" in words
        assert f"hash {digest(predictor.folder.split)[:12]}" in words


def test_its_own_test_part_has_baselines_a_ledger_and_heat_maps(predictor, dataset, tmp_path):
    found = evaluate_held_out(predictor, dataset.path, tmp_path / "out", closer=4, record_wise=True)

    assert set(found["baselines"]) == {"majority class", "size only", "frame only", "1-NN on thumbnails", PROBE}
    assert set(found["record_wise"]) == {*found["baselines"], "the model"}
    assert found["copies"] == {"looked_for": True, "left_out": []}
    learnt = predictor.folder.split["parts"]["train"]["slices"]
    assert sum(one["learnt"] for one in found["by_source"].values()) == learnt
    assert found["robustness"]["slices"] == 4 and found["pointing"]
    assert "under heat for" in (tmp_path / "out/report.html").read_text("utf-8")


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_classified(predictor, dataset, tmp_path):
    (tmp_path / "file").write_text("mine")

    def never(done, total):
        raise AssertionError("a slice was classified")

    with pytest.raises(InputError, match="file: found a file; expected a folder to write report in"):
        evaluate_held_out(predictor, dataset.path, tmp_path / "file" / "report", progress=never)


def test_copies_among_another_datasets_slices_are_refused_or_left_out_and_listed(
    predictor, dataset, elsewhere, tmp_path
):
    with pytest.raises(InputError, match=r"2 of \d+ slices that are copies .*--skip-copies"):
        evaluate_held_out(predictor, elsewhere.path, tmp_path / "out", trained_on=dataset.path)
    assert not (tmp_path / "out").exists()

    found = evaluate_held_out(predictor, elsewhere.path, tmp_path / "out", trained_on=dataset.path, skip_copies=True)
    assert found["copies"] == {"looked_for": True, "left_out": elsewhere.ids[-2:]}
    assert found["slices"] == len(elsewhere) - 2 and PROBE in found["baselines"]
    assert found["by_source"]["e"]["learnt"] == 0 and "no tumour" in found["by_source"]["e"]["sensitivity"]
    assert (elsewhere.boxes == NO_BOX).all() and found["pointing"] is None


def test_without_what_was_learnt_from_the_report_says_what_was_not_looked_for(predictor, elsewhere, tmp_path, caplog):
    found = evaluate_held_out(predictor, elsewhere.path, tmp_path / "out")

    assert found["copies"]["looked_for"] is False and found["baselines"] == {} == found["record_wise"]
    assert found["by_source"]["e"]["learnt"] is None
    assert "<td>not known</td>" in (tmp_path / "out/report.html").read_text("utf-8")
    assert "--trained-on" in caplog.text and "were not looked for" in (tmp_path / "out/report.html").read_text("utf-8")


def test_the_champion_is_judged_elsewhere_by_its_name(predictor, dataset, elsewhere, tmp_path):
    registry, out = tmp_path / "registry", tmp_path / "out"
    promote(tmp_path / "run", registry, Judgement(forced="a test"))

    def evaluate(name):
        words = ["evaluate", name, elsewhere.path, "--out", out, "--registry", registry, "--trained-on", dataset.path]
        return CliRunner().invoke(app, [str(word) for word in [*words, "--skip-copies", "--engine", "eager-fp32"]])

    for name in ("champion", predictor.folder.id):
        assert evaluate(name).exit_code == 0
        found = read_metrics(out)
        assert found["model"]["hash"] == predictor.hash and found["copies"]["left_out"] == elsewhere.ids[-2:]
        assert found["slices"] == len(elsewhere) - 2 and PROBE in found["baselines"]
        assert {path.name for path in out.iterdir()} == {"report.html", "README.md", METRICS, "predictions.parquet"}
    missing = str(evaluate("challenger").exception)
    assert "no challenger" in missing and "neuralblack challenger RUN" in missing


def test_what_needs_the_runs_own_dataset_says_so_first(predictor, dataset, elsewhere, tmp_path):
    with pytest.raises(InputError, match=r"--record-wise: found another dataset than the run's"):
        evaluate_held_out(predictor, elsewhere.path, tmp_path / "out", trained_on=dataset.path, record_wise=True)
    shutil.copytree(elsewhere.path, tmp_path / "wrong")
    with pytest.raises(InputError, match="of which the split was made"):
        evaluate_held_out(predictor, elsewhere.path, tmp_path / "out", trained_on=tmp_path / "wrong")


def test_a_model_card_says_to_people_and_programs_what_came_out(predictor, dataset, tmp_path):
    found = evaluate_held_out(predictor, dataset.path, tmp_path / "out")

    _, head, body = (tmp_path / "out/README.md").read_text("utf-8").split("---\n", 2)
    (index,) = yaml.safe_load(head)["model-index"]
    (result,) = index["results"]
    values = {one["name"]: one["value"] for one in result["metrics"]}
    assert index["name"] == predictor.name and result["dataset"]["revision"] == dataset.hash
    assert values["accuracy on slices"] == pytest.approx(found["accuracy"], abs=1e-4)
    assert values["accuracy on patients"] == pytest.approx(found["by_patient"]["accuracy"], abs=1e-4)
    for words in ("Research use only", "Not for", "Known limits", "## Data", "seed", "epochs", PROBE):
        assert words in body
    for words in ("figshare 1512427, 15 images in class folders", "They have the licences of their sources"):
        assert words in body
    assert "Nanfang" not in body and "256 x 256" not in body  # made-up heads are not of the archive
    test = next(line for line in body.splitlines() if line.startswith("| test |"))
    assert str(len(load_split(predictor.folder.split, dataset).test)) in test


def test_a_model_card_tells_of_the_archive_only_where_it_was_learnt_from(predictor, dataset, elsewhere, tmp_path):
    found = evaluate_held_out(predictor, elsewhere.path, tmp_path / "out")
    assert "is not known here" in (tmp_path / "out/README.md").read_text("utf-8")

    archive = {"kind": "figshare", "files": 3064}
    card, split = predictor.folder.card, predictor.folder.split
    for sources, told in (([archive], True), ([archive | {"files": 48}], False), ([], False)):
        words = write_card(found, card, split, {}, sources=sources)
        assert [each in words for each in ("Nanfang", "CC BY 4.0", "256 x 256", "The archive")] == [told] * 4
