"""What a service is asked is counted against what its model learnt from; a change shows where it is, and only there."""

import json
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.service import NO, SHARES, Prediction, Service, png
from tests.unit.test_client import TOKEN, served
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.cluster.serve import listeners
from neuralblack.cluster.serve_config import ServeArgs
from neuralblack.config import TrainConfig
from neuralblack.data.drift import (
    LABEL,
    LEAST,
    REFUSED,
    STATISTICS,
    chance,
    fit_reference,
    stability_index,
    statistics_of,
    verdict,
)
from neuralblack.errors import InputError
from neuralblack.evaluation.drift import in_words, measure_drift, write_drift
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import calibrate
from neuralblack.service.drift import Drift
from neuralblack.service.meter import Meter
from neuralblack.training.runs import train_here

YES = Prediction(probabilities=SHARES)


def slices(count, *, seed=0, gain=1.0):
    """Noise of another brightness each, on a dark ground."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 64, 64), np.float64)
    found[:, 16:48, 16:48] = rng.normal(rng.uniform(90, 130, (count, 1, 1)), 15, (count, 32, 32))
    return (found * gain).clip(0, 255).astype(np.uint8)


def reference_of(images):
    confidences = np.random.default_rng(1).uniform(0.4, 1, 500)
    return fit_reference([statistics_of(each) for each in images], confidences, {"pituitary": 480, REFUSED: 20})


def counted(reference, images, prediction=YES):
    meter = Meter()
    meter.describe(name="tiny", version="0123", pending=lambda: 0)
    listener = Drift(reference, meter)
    for image in images:
        listener(image, prediction)
    return meter


REFERENCE = reference_of(slices(600))


def test_the_index_is_that_of_its_formula():
    expected = sum((s - e) * np.log(s / e) for s, e in ((0.7, 0.5), (0.3, 0.5)))

    assert stability_index([0.5, 0.5], [700_000, 300_000]) == pytest.approx(expected, rel=1e-3)


def test_by_chance_alone_it_is_as_large_as_said():
    rng, shares = np.random.default_rng(0), np.full(10, 0.1)
    drawn = [
        stability_index(rng.multinomial(2000, shares) / 2000, rng.multinomial(500, shares).tolist())
        for _ in range(1000)
    ]

    assert 0.92 < np.mean(np.array(drawn) < chance(10, 500, 2000)) < 0.98


def test_a_statistic_is_what_its_name_says():
    one = statistics_of(np.where(np.arange(64)[:, None] < 16, 102, 0).repeat(64, 1).astype(np.uint8))

    assert one == {
        "brightness": pytest.approx(0.4),
        "contrast": pytest.approx(0, abs=1e-6),
        "head": 0.25,
        "sharpness": 0.0,
    }
    assert set(statistics_of(np.zeros((65, 65), np.uint8)).values()) == {0.0}
    assert set(one) < set(STATISTICS)


def test_the_same_kind_of_slices_does_not_drift_and_darker_ones_do_where_it_shows():
    found = {
        gain: measure_drift({"a": counted(REFERENCE, slices(400, seed=9, gain=gain)).text().decode()})["statistics"]
        for gain in (1.0, 0.7)
    }

    assert {name: found[1.0][name]["verdict"] for name in ("brightness", "contrast", "head", "sharpness")} == (
        dict.fromkeys(("brightness", "contrast", "head", "sharpness"), "as expected")
    )
    assert found[0.7]["brightness"]["verdict"] == "DRIFTS FAR" == found[0.7]["contrast"]["verdict"]
    assert found[0.7]["head"]["verdict"] == "as expected"


def test_another_mix_of_answers_drifts():
    found = measure_drift({"a": counted(REFERENCE, slices(300), NO).text().decode()})

    assert found["statistics"][LABEL]["seen"] == [0, 300]
    assert found["statistics"][LABEL]["verdict"] == "DRIFTS FAR"
    assert found["statistics"]["confidence"]["slices"] == 0
    assert "label" in in_words(found)


def test_too_few_slices_say_nothing():
    meter = counted(REFERENCE, slices(LEAST - 1, gain=0.5))
    found = measure_drift({"a": meter.text().decode()})

    assert "too few slices to say: 199 of 200" in found["statistics"]["brightness"]["verdict"]
    assert "Too few" in in_words(found)
    assert 'neuralblack_drift_psi{statistic="brightness"} NaN' in meter.text().decode()
    assert verdict(0.2, bins=10, slices=LEAST, reference=100) == "as expected"  # this much is chance


def test_the_gauge_is_of_the_last_slices_and_equals_the_report():
    meter = counted(REFERENCE, slices(300, gain=0.6))
    gauges = {
        one.labels["statistic"]: one.value
        for family in text_string_to_metric_families(meter.text().decode())
        if family.name == "neuralblack_drift_psi"
        for one in family.samples
    }

    found = measure_drift({"a": meter.text().decode()})["statistics"]
    assert gauges["brightness"] == pytest.approx(found["brightness"]["index"])


def test_replicas_are_added_up_and_models_are_not():
    texts = {name: counted(REFERENCE, slices(150, seed=seed)).text().decode() for seed, name in enumerate("ab")}
    assert measure_drift(texts)["statistics"]["head"]["slices"] == 300

    texts["b"] = texts["b"].replace('version="0123"', 'version="4567"')
    with pytest.raises(InputError, match="metrics of 2 models"):
        measure_drift(texts)


def test_a_node_of_a_cluster_has_all_its_replicas_in_one_text():
    texts = [counted(REFERENCE, slices(150, seed=seed)).text().decode() for seed in range(2)]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
    node = "".join(f"ray_{line}\n" for line in lines)

    assert measure_drift({"node": node}) == measure_drift({"a": texts[0], "b": texts[1]})
    with pytest.raises(InputError, match="metrics of 2 models"):
        measure_drift({"node": node.replace('version="0123"', 'version="4567"', 1)})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no metrics of a replica"),
        ("<html>\n", "no metrics"),
        ('neuralblack_model_info{name="m",version="1"} 1.0\n', "without a reference"),
    ],
)
def test_what_are_no_metrics_is_said(text, words):
    with pytest.raises(InputError, match=words):
        measure_drift({"file.txt": text})


def test_the_report_is_a_page_and_numbers_and_nothing_else_is_overwritten(tmp_path):
    (tmp_path / "metrics.txt").write_bytes(counted(REFERENCE, slices(300, gain=0.6)).text())
    command = ["drift", str(tmp_path / "metrics.txt"), "--out", str(tmp_path / "out")]

    said = CliRunner().invoke(app, command).stdout

    assert "DRIFTS FAR" in said and "brightness" in said
    page = (tmp_path / "out" / "drift.html").read_text()
    assert "<svg" in page and "DRIFTS FAR" in page and not re.search("(src|href)=.?http", page)
    assert json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout) == json.loads(
        (tmp_path / "out" / "drift.json").read_text()
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(InputError, match="no drift report: mine"):
        write_drift(measure_drift({"a": counted(REFERENCE, slices(1)).text().decode()}), tmp_path / "other")
    (tmp_path / "out" / "mine").touch()
    for taken in ("out", "metrics.txt"):
        with pytest.raises(InputError, match="no drift report"):
            write_drift(measure_drift({"a": counted(REFERENCE, slices(1)).text().decode()}), tmp_path / taken)
    assert (tmp_path / "out" / "mine").exists()


def test_a_running_service_is_asked_with_the_token(monkeypatch):
    meter = Meter()
    with served(Service(token=TOKEN, meter=meter, listeners=[Drift(REFERENCE, meter)]).app) as url:
        monkeypatch.setenv("NEURALBLACK_TOKEN", TOKEN)
        said = CliRunner().invoke(app, ["drift", url])
        monkeypatch.setenv("NEURALBLACK_TOKEN", "x" * 20)
        refused = CliRunner().invoke(app, ["drift", url])

    assert "Too few slices so far" in said.stdout
    assert "401 unauthorised" in str(refused.exception)


def test_behind_the_app_every_slice_is_counted_once():
    meter = Meter()
    service = Service(meter=meter, listeners=[Drift(REFERENCE, meter)])
    for _ in range(3):
        service.predict(content=png())

    text = meter.text().decode()
    assert 'neuralblack_input_slices_total{bin="pituitary",statistic="label"} 3.0' in text


def test_a_finished_run_knows_what_to_expect_and_its_service_listens(dataset, tiny, tmp_path):
    short = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
    train_here(short, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)
    predictor = Predictor.load(tmp_path / "run", engine="eager-fp32")

    reference = predictor.folder.calibration["drift"]
    parts = predictor.folder.split["parts"]
    assert reference["brightness"]["slices"] == parts["train"]["slices"]
    assert reference[LABEL]["slices"] == parts["validation"]["slices"]
    assert reference[LABEL]["bins"] == [*predictor.classes, REFUSED]
    for each in reference.values():
        assert sum(each["shares"]) == pytest.approx(1) and len(each["bins"]) == len(each["shares"])
    args = ServeArgs(model=predictor.name, hash=predictor.hash, registry=tmp_path)
    assert [type(each) for each in listeners(args, predictor, Meter())] == [Drift]
