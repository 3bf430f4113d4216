"""A challenger behind the champion: it is asked what the champion answered, and never stands in its way."""

import json
import logging
import resource
import signal
import threading

import numpy as np
import pytest
import yaml
from tests.service import NO, SHARES, YES, Prediction, Service, png
from tests.unit.test_serve_config import CONFIGS
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.cluster.serve_config import check_schema, resolve_config
from neuralblack.errors import InputError
from neuralblack.evaluation.shadow import summarise_shadow
from neuralblack.service.meter import Meter
from neuralblack.service.shadow import Shadow, append_line

OTHER = Prediction(label="glioma", probabilities={"glioma": 0.6, "pituitary": 0.4})


class Counted:
    """Outcomes as they are counted, and a way to wait for so many."""

    def __init__(self):
        self.outcomes, self.more = [], threading.Condition()

    def __call__(self, outcome):
        with self.more:
            self.outcomes.append(outcome)
            self.more.notify_all()

    def wait(self, count):
        with self.more:
            assert self.more.wait_for(lambda: len(self.outcomes) >= count, 30), self.outcomes
            return self.outcomes


def shadow(folder, answers, counted, *, busy=lambda: False, **options):
    """A challenger that gives these answers in turn; an exception is raised."""

    def ask(questions):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    return Shadow(lambda: ask, folder / "m" / "one.jsonl", champion="c", busy=busy, count=counted, **options)


def test_what_both_say_is_written_down_and_counted(tmp_path):
    counted = Counted()
    behind = shadow(tmp_path, [YES, OTHER, NO], counted)
    for _ in range(3):
        behind(np.zeros((2, 2)), YES)

    assert counted.wait(3) == ["agree", "differ", "differ"]
    records = [json.loads(line) for line in (tmp_path / "m" / "one.jsonl").read_text().splitlines()]
    assert records[1]["champion"] == {"status": "ok", "label": "pituitary", "probability": 0.75}
    assert records[1]["challenger"] == {"status": "ok", "label": "glioma", "probability": 0.6}
    assert records[1]["difference"] == pytest.approx(0.35) and records[2]["difference"] is None
    assert set(records[0]) == {"model", "at", "champion", "challenger", "difference"}  # nothing that tells which slice


def test_what_does_not_fit_is_dropped_and_the_caller_never_waits(tmp_path):
    counted, free = Counted(), threading.Event()

    def ask(questions):
        free.wait(30)
        return [YES]

    behind = Shadow(lambda: ask, tmp_path / "one.jsonl", champion="c", busy=lambda: False, count=counted, waiting=4)
    for _ in range(12):  # this returns although the challenger answers nothing
        behind(None, YES)

    dropped = counted.outcomes.count("dropped")
    assert dropped in (7, 8)  # one may be with the challenger already
    free.set()
    assert counted.wait(12).count("agree") == 12 - dropped


def test_its_failures_are_counted_said_once_for_each_kind_and_the_next_slice_is_asked(tmp_path, caplog):
    counted = Counted()
    behind = shadow(tmp_path, [KeyError("x"), KeyError("x"), ValueError("x"), YES], counted)
    for _ in range(4):
        behind(None, YES)

    assert counted.wait(4) == ["failed", "failed", "failed", "agree"]
    assert [each.args[0] for each in caplog.records if each.levelno >= logging.WARNING] == ["KeyError", "ValueError"]


def test_what_a_full_disk_cut_off_is_taken_back(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    append_line(tmp_path / "one.jsonl", "1" * 50)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80, limit[1]))
    try:
        with pytest.raises(OSError, match="29 of 51 bytes"):
            append_line(tmp_path / "one.jsonl", "2" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    append_line(tmp_path / "one.jsonl", "3")

    assert (tmp_path / "one.jsonl").read_text() == "1" * 50 + "\n3\n"


def test_a_challenger_that_does_not_load_costs_the_champion_nothing(tmp_path):
    def load():
        raise InputError("model", found="another hash", expected="this one", fix="promote it again")

    counted = Counted()
    behind = Shadow(load, tmp_path / "one.jsonl", champion="c", busy=lambda: False, count=counted)
    behind(None, YES)

    assert counted.wait(1) == ["failed"]


def test_behind_the_app_it_hears_every_slice_and_is_in_the_metrics(tmp_path):
    meter, counted = Meter(), Counted()

    def count(outcome):
        meter.shadow(outcome)
        counted(outcome)

    behind = shadow(tmp_path, [YES, OTHER], count, busy=lambda: meter.pending() > 0)
    service = Service(meter=meter, listeners=[behind])
    answers = [service.predict(content=png()).json() for _ in range(2)]

    counted.wait(2)
    assert all(answer["probabilities"] == SHARES for answer in answers)
    text = service.request("GET", "/metrics").text
    assert 'neuralblack_shadow_slices_total{outcome="agree"} 1.0' in text
    assert 'neuralblack_shadow_slices_total{outcome="differ"} 1.0' in text


def test_records_are_summed_up_over_replicas(tmp_path):
    counted = Counted()
    behind = shadow(tmp_path, [YES, YES, OTHER, NO], counted)
    for _ in range(4):
        behind(None, YES)
    counted.wait(4)
    folder = tmp_path / "m"
    (folder / "two.jsonl").write_bytes((folder / "one.jsonl").read_bytes() + b'{"at": "20')

    found = summarise_shadow(folder)

    assert (found["slices"], found["agreeing"], found["cut_off"], found["champions"]) == (8, 0.5, 1, ["c"])
    assert found["interval"] == pytest.approx([0.2152, 0.7848], abs=1e-4)  # Wilson's, of 4 in 8, by hand
    assert found["table"]["pituitary"] == {"glioma": 2, "pituitary": 4, "refused": 2}
    assert found["refused"] == {"champion": 0.0, "challenger": 0.25}
    said = CliRunner().invoke(app, ["shadow", str(folder)]).stdout
    assert "agrees on 50.0% of 8 slices" in said and "cut off" in said
    assert json.loads(CliRunner().invoke(app, ["shadow", str(folder), "--json"]).stdout) == found


@pytest.mark.parametrize("case", ["nowhere", "above", "empty", "other"])
def test_what_is_no_record_is_named(case, tmp_path):
    folder, words = tmp_path / "m", {"nowhere": "no records", "above": "m", "empty": "no slice", "other": "line 2"}
    folder.mkdir()
    lines = {"empty": "", "other": '{"model": "c", "at": "x", "difference": null, "champion": {"label": null}, '}
    if case in lines:
        good = '{"model":"c","at":"x","difference":null,"champion":{"label":null},"challenger":{"label":null}}\n'
        (folder / "one.jsonl").write_text("" if case == "empty" else f"{good}not ours\n{good}")

    with pytest.raises(InputError, match=words[case]):
        summarise_shadow({"nowhere": tmp_path / "x", "above": tmp_path}.get(case, folder))


class Model:
    def __init__(self, digit, classes=("glioma",), spec=1):
        self.id, self.hash, self.classes, self.spec = f"tiny-{digit * 12}", digit * 64, classes, spec


def with_shadow(tmp_path, monkeypatch, challenger, **args):
    models = {"champion": Model("a"), "challenger": challenger}
    monkeypatch.setattr("neuralblack.cluster.serve_config.resolve", lambda registry, name: models[name])
    content = yaml.safe_load((CONFIGS / "local.yaml").read_text())
    content["applications"][0]["args"] |= {"shadow": "challenger"} | args
    (tmp_path / "shadow.yaml").write_text(yaml.safe_dump(content))
    return resolve_config(tmp_path / "shadow.yaml")


def test_the_challenger_is_resolved_to_its_hash(tmp_path, monkeypatch):
    config = with_shadow(tmp_path, monkeypatch, Model("b"), shadow_records=str(tmp_path / "records"))

    args = config["applications"][0]["args"]
    assert (args["model"], args["shadow"], args["shadow_hash"]) == ("tiny-" + "a" * 12, "tiny-" + "b" * 12, "b" * 64)
    assert args["shadow_records"] == str(tmp_path / "records")
    check_schema(config, where="shadow.yaml")


@pytest.mark.parametrize(
    ("challenger", "args", "words"),
    [
        (Model("b"), {}, "shadow_records"),
        (Model("b", classes=("glioma", "pituitary")), {"shadow_records": "x"}, "the classes"),
        (Model("b", spec=2), {"shadow_records": "x"}, "the preprocessing"),
    ],
    ids=["no-records", "classes", "preprocessing"],
)
def test_a_challenger_that_cannot_be_compared_is_refused(challenger, args, words, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=words):
        with_shadow(tmp_path, monkeypatch, challenger, **args)


def test_records_from_before_they_named_the_champion_are_counted(tmp_path):
    answers = '"champion": {"label": "glioma"}, "challenger": {"label": "glioma"}'
    (tmp_path / "one.jsonl").write_text(f'{{"at": "x", "difference": null, {answers}}}\n')

    assert summarise_shadow(tmp_path)["champions"] == ["not known"]


def test_a_challenger_that_has_become_the_champion_answers_behind_nobody(tmp_path, monkeypatch, caplog):
    config = with_shadow(tmp_path, monkeypatch, Model("a"), shadow_records=str(tmp_path / "records"))

    assert "shadow" not in config["applications"][0]["args"] and "answers already" in caplog.text
    check_schema(config, where="shadow.yaml")
