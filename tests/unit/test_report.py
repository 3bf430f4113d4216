import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from neuralblack.data.dataset import hashed
from neuralblack.data.splits import make_split
from neuralblack.errors import InputError
from neuralblack.evaluation.baselines import known_part
from neuralblack.evaluation.evaluate import evaluate
from neuralblack.evaluation.leakage import RECIPE, measure_ledger
from neuralblack.evaluation.metrics_file import read_metrics
from neuralblack.evaluation.pictures import choose_examples
from neuralblack.inference.predictor import Judgement

HISTORY = [
    {"epoch": epoch, "train_loss": 1.2 - epoch / 10, "train_accuracy": 0.4, "loss": 1.1, "accuracy": 0.5, "lr": 1e-3}
    for epoch in range(3)
]


class NearestMean:
    """A real if simple classifier with what `evaluate` asks of one: the class whose mean slice is nearest."""

    name, hash, temperature = "nearest-mean", "0123456789abcdef" * 4, 2.0

    def __init__(self, dataset, rows, classes):
        self.classes, self.spec = classes, dataset.spec
        labels = np.array(dataset.labels)[rows]
        self.means = np.stack([dataset.images[rows][labels == name].mean(0).ravel() for name in classes])

    def judge(self, images, boxes=None):
        shares = self.probabilities(images)
        return Judgement(shares, shares >= 0.2, np.arange(len(images)) == 0)  # the first of a batch is refused

    def probabilities(self, images):
        distance = ((images.reshape(len(images), 1, -1) - self.means) ** 2).mean(2) / 400
        weights = np.exp(distance.min(1, keepdims=True) - distance)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def split(dataset):
    return make_split(dataset, train=None, validation=[4], test=[5])


@pytest.fixture(scope="module")
def predictor(dataset, split):
    return NearestMean(dataset, split.train, split.classes)


@pytest.fixture(scope="module")
def written(dataset, split, predictor, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "report"
    baselines, together = measured(dataset, split)
    result = evaluate(
        predictor,
        dataset,
        split.test,
        out,
        baselines=baselines,
        record_wise=together,
        copies={"looked_for": True, "left_out": []},
        closer=8,
        explain=lambda pixels, label, box: pixels,
        history=HISTORY,
        split=split.manifest,
    )
    return out, result, (out / "report.html").read_text("utf-8")


def test_three_files_are_written_and_the_numbers_are_what_is_returned(written):
    out, result, _ = written

    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "predictions.parquet", "report.html"]
    assert json.loads((out / "metrics.json").read_text("utf-8")) == result


def test_the_numbers_are_as_their_schema_says_and_are_read_again(written, tmp_path):
    out, result, _ = written

    assert read_metrics(out) == result
    (tmp_path / "metrics.json").write_text(json.dumps(result | {"accuracy": 1.2}))
    with pytest.raises(InputError, match=r"metrics.json accuracy: found 1.2; expected .* less than or equal to 1"):
        read_metrics(tmp_path)
    with pytest.raises(InputError, match=r"found no metrics\.json"):
        read_metrics(tmp_path / "nowhere")


def test_patients_are_counted_beside_slices_and_everything_has_its_interval(written, dataset, split):
    _, result, page = written

    patients = {dataset.patients[row] for row in split.test}
    assert result["patients"] == result["by_patient"]["slices"] == len(patients)
    assert result["unnamed_patients"] == len([name for name in patients if name.startswith(("group-", "between-"))]) > 0
    for part in (result, result["by_patient"]):
        low, high = part["intervals"]["accuracy"]
        assert low <= part["accuracy"] <= high
    assert set(result["by_patient"]["alternatives"]) == {"mean probability", "vote", "surest slice"}
    assert "accuracy at 90% coverage" in page and "groups of near-duplicates" in page


def test_a_patient_with_slices_of_two_classes_is_said_to_have_two_verdicts(dataset, split, predictor, tmp_path):
    first = split.test[0]
    other = next(row for row in split.test if dataset.labels[row] != dataset.labels[first])
    alike = {dataset.patients[first], dataset.patients[other]}
    joined = replace(dataset, patients=["both" if patient in alike else patient for patient in dataset.patients])

    result = evaluate(predictor, joined, split.test, tmp_path / "report")

    assert result["by_patient"]["slices"] == result["patients"] + 1
    assert f"1 verdicts more than the {result['patients']} patients" in (tmp_path / "report/report.html").read_text()


def test_the_numbers_before_the_temperature_are_those_of_the_bare_logits(dataset, split, predictor, tmp_path):
    cold = NearestMean(dataset, split.train, split.classes)
    cold.temperature, cold.judge = 1.0, lambda images, boxes: Judgement(*_raised(cold.probabilities(images)))
    before = evaluate(cold, dataset, split.test, tmp_path / "cold")

    after = evaluate(predictor, dataset, split.test, tmp_path / "warm")

    assert after["uncalibrated"]["temperature"] == 2.0
    assert after["uncalibrated"]["log_loss"] == pytest.approx(before["log_loss"], rel=1e-5)


def _raised(shares):
    raised = shares.astype(np.float64) ** 2
    raised /= raised.sum(1, keepdims=True)
    return raised, raised >= 0.2, np.zeros(len(raised), bool)


def test_calibration_sets_and_refusals_are_counted(written):
    _, result, page = written

    assert 0 <= result["ece"] <= 1 and result["refused"] == 1
    assert 1 <= result["prediction_sets"]["mean_size"] <= 4 and 0 < result["prediction_sets"]["covered"] <= 1
    assert "calibration error" in page and "refused by the gate" in page


def test_tumours_alone_and_each_source_are_counted_from_the_same_predictions(written, dataset, split):
    out, result, page = written
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    tumours = [row for row in rows if row["label"] != "no tumour"]

    only = result["tumour_only"]
    assert only["slices"] == len(tumours) < len(rows)
    assert only["called_no_tumour"] == sum(row["predicted"] == "no tumour" for row in tumours)
    assert only["accuracy"] == pytest.approx(np.mean([row["predicted"] == row["label"] for row in tumours]))
    low, high = only["intervals"]["accuracy"]
    assert low <= only["accuracy"] <= high
    assert set(result["by_source"]) == {dataset.sources[row] for row in split.test}
    hits = sum(one["accuracy"] * one["slices"] for one in result["by_source"].values())
    assert hits == pytest.approx(result["accuracy"] * len(rows))
    assert "taken for no tumour" in page


def test_a_model_of_tumours_alone_has_no_numbers_without_the_other_class(dataset, split, tmp_path):
    three = NearestMean(dataset, split.train, tuple(name for name in split.classes if name != "no tumour"))

    assert evaluate(three, dataset, split.test, tmp_path / "out")["tumour_only"] is None


def test_the_report_shows_the_ledger_disturbances_and_where_the_model_looks(written):
    _, result, page = written

    assert result["robustness"]["slices"] == 8 and set(result["record_wise"]) == set(result["baselines"])
    assert result["pointing"] and "gap, points" in page and "No copy of a slice it learnt is here" in page
    assert "motion ghosts" in page and "hottest point" in page and "under heat for" in page
    assert result["alarms"] == [] and 'role="alert"' not in page


def test_slices_of_one_class_alone_have_a_report_without_a_warning(dataset, split, predictor, tmp_path, recwarn):
    rows = [row for row in split.test if dataset.labels[row] == "no tumour"]

    found = evaluate(predictor, dataset, rows, tmp_path / "out")

    assert found["accuracy"] is not None and [str(each.message) for each in recwarn] == []


def test_what_was_not_measured_is_said_and_not_made_up(dataset, split, predictor, tmp_path):
    result = evaluate(predictor, dataset, split.test, tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text("utf-8")

    assert result["robustness"] is None and result["pointing"] is None and result["copies"]["looked_for"] is False
    assert page.count("Not measured") == 3 and "were not looked for" in page and "under heat for" not in page


def test_the_recipe_trained_record_wise_is_shown_without_simpler_means_too(dataset, split, predictor, tmp_path):
    evaluate(predictor, dataset, split.test, tmp_path, record_wise={RECIPE: {"accuracy": 0.875, "macro_f1": 0.8}})
    page = (tmp_path / "report.html").read_text("utf-8")

    assert "<td>87.5%</td>" in page and "Simpler means were left out (--no-baselines)" in page
    assert page.count("Not measured") == 2


def test_a_result_too_good_to_be_true_opens_the_report_with_an_alarm(dataset, split, tmp_path):
    class Cheat(NearestMean):
        def judge(self, images, boxes=None):
            answers = {image.tobytes(): label for image, label in zip(dataset.images, dataset.labels, strict=True)}
            shares = np.eye(4, dtype=np.float32)[[self.classes.index(answers[image.tobytes()]) for image in images]]
            return Judgement(shares, shares > 0, np.zeros(len(images), bool))

    result = evaluate(Cheat(dataset, split.train, split.classes), dataset, split.test, tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text("utf-8")

    assert "100.0% on other patients" in result["alarms"][0]
    assert page.index('role="alert"') < page.index("<h1>")


def test_predictions_add_up_to_the_confusion_matrix(written, dataset, split):
    out, result, _ = written
    rows = pq.read_table(out / "predictions.parquet").to_pylist()

    assert [row["id"] for row in rows] == [dataset.ids[row] for row in split.test]
    assert [row["patient"] for row in rows] == [hashed(dataset.patients[row]) for row in split.test]
    confusion = np.zeros((len(split.classes),) * 2, int)
    for row in rows:
        shares = [row[f"p({name})"] for name in split.classes]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert split.classes[int(np.argmax(shares))] == row["predicted"]
        confusion[split.classes.index(row["label"]), split.classes.index(row["predicted"])] += 1
    assert confusion.tolist() == result["confusion"]


def test_report_needs_nothing_from_elsewhere(written):
    page = written[2]

    named = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", page) + re.findall(r"""url\(["']?([^"')]+)""", page)
    assert any(name.startswith("data:image/png") for name in named)
    assert [name for name in named if not name.startswith(("data:", "#"))] == []
    assert "<script" not in page


def test_report_says_what_it_is_for_and_what_came_out(written):
    _, result, page = written

    assert "not a medical device" in page
    assert f"{100 * result['accuracy']:.1f}%" in page
    for words in ("Confusion matrix", "sensitivity", "1-NN on thumbnails", "majority class", "validation", "<svg"):
        assert words in page
    assert page.count('<figure class="wrong"') + page.count('<figure class="right"') >= 2


def test_report_names_no_patient(written, dataset):
    page = written[2]

    assert not [patient for patient in set(dataset.patients) if patient in page]


def test_names_from_outside_cannot_become_markup(dataset, split, predictor, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    hostile = replace(dataset, ids=[evil + name for name in dataset.ids])
    predictor = NearestMean(dataset, split.train, split.classes)
    predictor.name = evil
    evaluate(predictor, hostile, split.test, tmp_path / "out", baselines={evil: written_baseline(dataset, split)})
    page = (tmp_path / "out/report.html").read_text("utf-8")

    assert "&lt;img src=x" in page
    assert "<img src=x" not in page


def measured(dataset, split):
    train, test = (known_part(dataset, rows, split.classes) for rows in (split.train, split.test))
    return measure_ledger(train, test, split.classes)


def written_baseline(dataset, split):
    return measured(dataset, split)[0]["majority class"]


def test_slices_of_a_class_the_model_lacks_are_listed_and_not_counted(dataset, split, tmp_path):
    three = NearestMean(dataset, split.train, tuple(name for name in split.classes if name != "no tumour"))
    result = evaluate(three, dataset, split.test, tmp_path / "out")
    healthy = [dataset.ids[row] for row in split.test if dataset.labels[row] == "no tumour"]

    assert result["left_out"] == {"no tumour": healthy}
    assert result["slices"] == len(split.test) - len(healthy)
    assert "left out: no tumour" in (tmp_path / "out/report.html").read_text("utf-8")


def test_without_a_history_the_report_says_so(dataset, split, predictor, tmp_path):
    evaluate(predictor, dataset, split.test, tmp_path / "out")

    assert "without a record of its training" in (tmp_path / "out/report.html").read_text("utf-8")


def test_slices_prepared_otherwise_are_refused(dataset, split, predictor, tmp_path):
    other = replace(dataset, spec=dataset.spec.model_copy(update={"clip_percent": 2.0}))

    with pytest.raises(InputError, match=r"clip_percent 2.*clip_percent 0\.5.*Fix: prepare"):
        evaluate(predictor, other, split.test, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_judge_is_refused(dataset, predictor, tmp_path):
    with pytest.raises(InputError, match="found 0 slices"):
        evaluate(predictor, dataset, [], tmp_path / "out")


@pytest.mark.parametrize("names", [["thesis.tex"], ["README.md"], ["metrics.json", "README.md", "train.py"]])
def test_a_folder_with_other_things_in_it_is_left_alone(dataset, split, predictor, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("years of work")

    with pytest.raises(InputError, match=f"no evaluation: {names[-1]}"):
        evaluate(predictor, dataset, split.test, tmp_path)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "years of work")


def test_a_file_is_no_place_for_an_evaluation(dataset, split, predictor, tmp_path):
    (tmp_path / "metrics.json").write_text("mine")

    with pytest.raises(InputError, match="no evaluation: a file"):
        evaluate(predictor, dataset, split.test, tmp_path / "metrics.json")


def test_an_evaluation_that_fails_leaves_the_earlier_one(dataset, split, predictor, tmp_path):
    evaluate(predictor, dataset, split.test, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    with pytest.raises(KeyError):
        evaluate(predictor, dataset, split.test, tmp_path / "out", history=[{"loss": 1.0}])

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_mistakes_shown_are_the_surest_and_one_a_patient():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])

    assert choose_examples(labels, probabilities, ["a", "a", "b", "c"], right=False, count=6) == [0, 2]


def test_right_answers_shown_take_the_classes_in_turn():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])

    assert choose_examples(labels, probabilities, list("abcd"), right=True, count=2) == [1, 3]
