"""The promotion gate: who passes, who wins of two, what is written down, and the way back."""

import json
import multiprocessing
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.test_bootstrap import CLASSES, judged

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.evaluation.challenge import challenge, judge
from neuralblack.evaluation.compare import compare, paired
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.evaluation.metrics_file import METRICS, PREDICTIONS, read_metrics
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import borrow, calibrate
from neuralblack.registry.aliases import CHALLENGER, CHAMPION, MARKED, alias_now, point_alias, resolve
from neuralblack.registry.audit import AUDIT, add_entry, read_audit
from neuralblack.registry.gate import Check, Judgement, Rule, beats_baselines, has_patients, is_calibrated, not_worse
from neuralblack.registry.promotion import check_audit, name_challenger, promote, read_card, roll_back
from neuralblack.training.runs import train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
FORCED = Judgement(forced="a test")
PASSED = Judgement(checks=[Check("a check", True, "good", "good")])
FAILED = Judgement(checks=[Check("calibration", False, "an error of 0.4", "at most 0.15"), Check("x", True, "a", "a")])


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Three finished runs of one epoch, from three seeds, each with its evaluation."""
    from tests.tiny import MODELS, add_tiny_network

    add_tiny_network()
    folder, found = tmp_path_factory.mktemp("runs"), []
    for seed in range(3):
        run, report = folder / f"run{seed}", folder / f"report{seed}"
        train_here(SHORT.model_copy(update={"seed": seed}), data=dataset.path, run=run)
        evaluate_held_out(Predictor.load(run, engine="eager-fp32"), dataset.path, report)
        found.append((run, report))
    yield found
    del MODELS["tiny"]


def test_each_check_asks_what_it_says():
    rule = Rule(metric="macro_f1", margin=0.05, most_ece=0.1)
    own = {"macro_f1": 0.8, "ece": 0.08, "baselines": {"1-NN": {"macro_f1": 0.7}, "majority": {"macro_f1": 0.2}}}

    assert beats_baselines(rule, own).passed
    equal = beats_baselines(rule, own | {"macro_f1": 0.7})
    assert not equal.passed and "more than 0.700, of 1-NN" in equal.expected
    assert not beats_baselines(rule, own | {"baselines": {}}).passed
    votes = {"accuracy": 0.7, "accuracy_at_90": None}
    surest = beats_baselines(Rule(metric="accuracy_at_90"), {"accuracy_at_90": 0.65, "baselines": {"1-NN": votes}})
    assert (surest.passed, surest.expected) == (False, "more than 0.700, of 1-NN")
    assert is_calibrated(rule, own).passed and not is_calibrated(rule, own | {"ece": 0.11}).passed
    assert not_worse(rule, [-0.049, 0.1], than="the other").passed
    assert not not_worse(rule, [-0.051, 0.1], than="the other").passed
    assert not not_worse(rule, None, than="the other").passed
    assert has_patients(rule, {"patients": 10}).passed and not has_patients(rule, {"patients": 9}).passed


def test_a_model_that_did_not_pass_moves_nothing_and_the_failed_check_is_named(runs, tmp_path):
    with pytest.raises(InputError, match=r"calibration: an error of 0\.4, not at most 0\.15; .*Fix: train a.*--force"):
        promote(runs[0][0], tmp_path, FAILED)
    few = Judgement(checks=[has_patients(Rule(), {"patients": 6})])
    with pytest.raises(InputError, match=r"6 patients, not at least 10; .*Fix: evaluate it on more patients.*--force"):
        promote(runs[0][0], tmp_path, few)
    with pytest.raises(InputError, match="nothing was asked of"):
        promote(runs[0][0], tmp_path, Judgement())

    assert alias_now(tmp_path, CHAMPION) is None and not (tmp_path / "models").exists()


def test_of_two_promotions_beside_the_same_champion_exactly_one_wins(runs, tmp_path):
    first = promote(runs[0][0], tmp_path, PASSED).id
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def challenger(run):
        try:
            results.put(promote(run, tmp_path, PASSED, expected=first).id)
        except InputError as error:
            results.put(str(error))

    both = [context.Process(target=challenger, args=(run,)) for run, _ in runs[1:]]
    for one in both:
        one.start()
    said = [results.get(timeout=60) for _ in both]
    for one in both:
        one.join(60)

    (lost,) = [words for words in said if "meanwhile" in words]
    (won,) = [words for words in said if words != lost]
    assert alias_now(tmp_path, CHAMPION) == won
    assert f"found the champion {won}, made by somebody else meanwhile; expected {first}" in lost
    assert [entry["after"] for entry in read_audit(tmp_path)] == [first, won]


def test_a_roll_back_goes_back_one_and_once_more_another_one(runs, tmp_path):
    first, second, third = (promote(run, tmp_path, FORCED).id for run, _ in runs)

    assert roll_back(tmp_path) == (third, second)
    assert resolve(tmp_path, CHAMPION).id == second
    assert roll_back(tmp_path) == (second, first)
    with pytest.raises(InputError, match=f"no champion before {first}"):
        roll_back(tmp_path)
    assert promote(runs[2][0], tmp_path, FORCED).id == third
    assert roll_back(tmp_path) == (third, first)
    assert [entry["action"] for entry in check_audit(tmp_path)].count("roll back") == 3


def test_each_name_is_rolled_back_by_itself(runs, tmp_path):
    first, second, _ = (promote(run, tmp_path, FORCED).id for run, _ in runs)
    for before, after in ((None, first), (first, second)):
        add_entry(tmp_path, {"action": "promote", "alias": MARKED, "before": before, "after": after})
        point_alias(tmp_path, MARKED, after)
    champion = alias_now(tmp_path, CHAMPION)

    assert roll_back(tmp_path, alias=MARKED) == (second, first)
    assert (alias_now(tmp_path, MARKED), alias_now(tmp_path, CHAMPION)) == (first, champion)


def test_a_roll_back_to_a_damaged_model_is_refused_and_the_champion_stays(runs, tmp_path):
    first, second = (promote(run, tmp_path, FORCED).id for run, _ in runs[:2])
    (tmp_path / "models" / first / "card.json").unlink()

    with pytest.raises(InputError, match=r"card\.json"):
        roll_back(tmp_path)

    assert alias_now(tmp_path, CHAMPION) == second
    assert len(check_audit(tmp_path)) == 2


def test_a_challenger_is_named_beside_a_champion_and_is_another_model(runs, tmp_path):
    with pytest.raises(InputError, match="no champion"):
        name_challenger(runs[1][0], tmp_path)
    champion = promote(runs[0][0], tmp_path, FORCED).id
    with pytest.raises(InputError, match=f"found the champion, {champion}"):
        name_challenger(runs[0][0], tmp_path)

    challenger = name_challenger(runs[1][0], tmp_path).id

    assert name_challenger(runs[1][0], tmp_path).id == challenger == resolve(tmp_path, CHALLENGER).id
    assert alias_now(tmp_path, CHAMPION) == champion
    assert [entry["action"] for entry in check_audit(tmp_path)] == ["promote", "challenge"]


def _without(lines):
    del lines[1]


def _exchanged(lines):
    lines[0], lines[1] = lines[1], lines[0]


def _changed(lines):
    lines[0] = lines[0].replace("a test", "a rest")


def _cut(lines):
    lines[-1] = lines[-1][:-9]


@pytest.mark.parametrize(("damage", "line"), [(_without, 2), (_exchanged, 1), (_changed, 2), (_cut, 3)])
def test_a_changed_audit_is_found_and_stops_promotions(runs, tmp_path, damage, line):
    for run, _ in runs:
        promote(run, tmp_path, FORCED)
    path = tmp_path / AUDIT
    lines = path.read_text().splitlines()
    damage(lines)
    path.write_text("\n".join(lines) + "\n")

    for attempt in (check_audit, roll_back, lambda registry: promote(runs[0][0], registry, FORCED)):
        with pytest.raises(InputError, match=rf"audit\.jsonl:{line}: found a line that does not follow"):
            attempt(tmp_path)
    assert path.read_text().splitlines() == lines


def test_a_champion_that_was_changed_by_hand_is_found(runs, tmp_path):
    first, second = (promote(run, tmp_path, FORCED).id for run, _ in runs[:2])
    (tmp_path / "aliases" / CHAMPION).write_text(f"{first}\n")

    with pytest.raises(InputError, match=f"the champion {first}, while the audit ends with {second}"):
        check_audit(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"by": None}, r"audit\.jsonl:1 by: found None"),
        ({"action": "roll back"}, r"audit\.jsonl:1: found a roll-back of the champion to a; expected a model that it"),
        ({"action": "roll over"}, r"audit\.jsonl:1 action: found 'roll over'; expected a value 'promote', "),
        ({"after": 1}, r"audit\.jsonl:1 after: found 1"),
        ({"checks": [{}]}, r"audit\.jsonl:1 checks\.0\.name: found"),
    ],
)
def test_a_line_of_the_audit_that_cannot_be_is_named_with_its_field(tmp_path, change, words):
    add_entry(tmp_path, {"action": "promote", "alias": CHAMPION, "before": None, "after": "a"} | change)
    point_alias(tmp_path, CHAMPION, "a")

    for attempt in (check_audit, roll_back):
        with pytest.raises(InputError, match=words):
            attempt(tmp_path)


def _last_line_gone(registry):
    path = registry / AUDIT
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _all_gone(registry):
    (registry / AUDIT).unlink()


@pytest.mark.parametrize("cut", [_last_line_gone, _all_gone])
def test_an_audit_whose_end_is_missing_is_found_and_nothing_moves_until_it_is_back(runs, tmp_path, cut):
    for run, _ in runs[:2]:
        promote(run, tmp_path, FORCED)
    whole, champion = (tmp_path / AUDIT).read_bytes(), alias_now(tmp_path, CHAMPION)
    cut(tmp_path)

    for attempt in (check_audit, roll_back, lambda registry: promote(runs[2][0], registry, FORCED)):
        with pytest.raises(InputError, match=f"the champion {champion}|no audit"):
            attempt(tmp_path)
    with pytest.raises(InputError, match=f"the champion {champion}"):
        name_challenger(runs[2][0], tmp_path)
    assert alias_now(tmp_path, CHAMPION) == champion and alias_now(tmp_path, CHALLENGER) is None
    assert len(list((tmp_path / "models").iterdir())) == 2

    (tmp_path / AUDIT).write_bytes(whole)
    promote(runs[2][0], tmp_path, FORCED)
    assert len(check_audit(tmp_path)) == 3


def test_an_audit_that_went_on_after_its_end_was_removed_is_found(runs, tmp_path):
    first, second, third = (promote(run, tmp_path, FORCED).id for run, _ in runs)
    entries = read_audit(tmp_path)
    (tmp_path / AUDIT).unlink()
    add_entry(tmp_path, entries[0])
    add_entry(tmp_path, entries[2])

    with pytest.raises(InputError, match=rf"jsonl:2: found a move of the champion from {second}; .* from {first}"):
        check_audit(tmp_path)

    (tmp_path / AUDIT).unlink()
    add_entry(tmp_path, entries[2])
    with pytest.raises(InputError, match=f"the champion {second} without the line that made it that"):
        check_audit(tmp_path)
    assert alias_now(tmp_path, CHAMPION) == third


def test_a_move_that_was_cut_off_before_the_name_moved_hinders_nothing(runs, tmp_path, monkeypatch):
    first, second, third = (promote(run, tmp_path, FORCED).id for run, _ in runs)

    def killed(*_):
        raise KeyboardInterrupt

    def cut_off(move, *arguments):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("neuralblack.registry.promotion.point_alias", killed)
            move(*arguments)

    cut_off(roll_back, tmp_path)
    assert alias_now(tmp_path, CHAMPION) == third
    with pytest.raises(InputError, match="a promotion that was cut off: promote its run again"):
        check_audit(tmp_path)
    assert roll_back(tmp_path) == (third, second)

    cut_off(promote, runs[2][0], tmp_path, FORCED)
    cut_off(promote, runs[0][0], tmp_path, FORCED)
    assert roll_back(tmp_path) == (second, first)

    cut_off(promote, runs[1][0], tmp_path, FORCED)
    promote(runs[1][0], tmp_path, FORCED)
    assert check_audit(tmp_path)[-1]["after"] == alias_now(tmp_path, CHAMPION) == second


def test_a_champion_from_before_there_were_audits_is_no_fault(runs, tmp_path):
    before = tmp_path / "registry" / "models" / "tiny-0123456789ab"
    before.mkdir(parents=True)
    (before / "card.json").write_text('{"model": "tiny"}')
    point_alias(tmp_path / "registry", CHAMPION, before.name)

    promote(runs[0][0], tmp_path / "registry", FORCED)

    assert [entry["before"] for entry in check_audit(tmp_path / "registry")] == [before.name]


def test_a_file_is_no_registry(runs, tmp_path):
    (tmp_path / "file").write_text("mine")

    for registry in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"{registry}: found a file"):
            challenge(runs[0][0], registry, evaluation=runs[0][1])


def test_a_folder_without_an_audit_is_no_registry(tmp_path):
    with pytest.raises(InputError, match=r"found no audit\.jsonl"):
        check_audit(tmp_path)


def test_promoting_the_champion_again_is_no_move(runs, tmp_path):
    for _ in range(2):
        promote(runs[0][0], tmp_path, FORCED)

    assert len(check_audit(tmp_path)) == 1


def test_the_champion_promoted_again_keeps_the_evaluation_that_the_next_challenger_is_compared_with(
    runs, tmp_path, caplog
):
    run, report = runs[0]
    easier = shutil.copytree(report, tmp_path / "easier")
    (easier / "README.md").write_text("easier")
    registry = tmp_path / "registry"
    model = promote(run, registry, FORCED)

    promote(run, registry, FORCED, evaluation=report)  # it had none
    before = read_card(registry, model.id)
    promote(run, registry, FORCED, evaluation=easier)

    assert before == read_card(registry, model.id) == (report / "README.md").read_text()
    assert f"{model.id} is the champion already, and what it was promoted with stays" in caplog.text
    assert len(check_audit(registry)) == 1


def test_a_run_is_judged_by_its_evaluation_and_the_next_one_beside_it(runs, tmp_path):
    (first, report), (second, other), _ = runs
    low = [
        "margin=1",
        "most_ece=1",
        "least_patients=2",
    ]  # networks of one epoch on made-up heads: only the way is tested
    metrics = json.loads((report / METRICS).read_text())
    metrics["baselines"] = {"majority class": metrics["baselines"]["majority class"] | {"macro_f1": 0.0}}
    easy, beside = tmp_path / "easy", tmp_path / "beside"
    for source, target in ((report, easy), (other, beside)):
        shutil.copytree(source, target)
        facts = json.loads((target / METRICS).read_text())
        (target / METRICS).write_text(json.dumps(facts | {"baselines": metrics["baselines"]}))

    model, judgement = challenge(first, tmp_path / "registry", evaluation=easy, overrides=low)
    assert [check.name for check in judgement.checks] == ["patients", "baselines", "calibration", "golden slices"]
    assert (tmp_path / "registry" / "evaluations" / model.id / PREDICTIONS).exists()
    assert f"# {model.id}" in read_card(tmp_path / "registry", model.id)

    _, judgement = challenge(second, tmp_path / "registry", evaluation=beside, overrides=low)
    assert [check.name for check in judgement.checks][-1] == "champion"
    last = check_audit(tmp_path / "registry")[-1]
    assert last["rule"] == {"metric": "macro_f1", "margin": 1.0, "most_ece": 1.0, "least_patients": 2}
    assert last["forced"] is None
    assert last["checks"][-1]["found"].endswith(f"beside {model.id}")


def test_an_evaluation_of_another_model_or_none_is_refused_and_force_goes_past_and_is_kept(runs, tmp_path):
    (run, _), (_, other), _ = runs

    with pytest.raises(InputError, match=r"--evaluation: found nothing; .*--force"):
        challenge(run, tmp_path)
    with pytest.raises(InputError, match="found an evaluation of tiny-"):
        challenge(run, tmp_path, evaluation=other)
    assert alias_now(tmp_path, CHAMPION) is None

    model, judgement = challenge(run, tmp_path, force="nobody else is there")
    assert not judgement.passed and alias_now(tmp_path, CHAMPION) == model.id
    assert check_audit(tmp_path)[0]["forced"] == "nobody else is there"


def test_force_keeps_no_evaluation_of_another_model_and_none_that_is_not_there(runs, tmp_path):
    (run, _), (_, other), _ = runs

    with pytest.raises(InputError, match="found an evaluation of tiny-"):
        challenge(run, tmp_path / "registry", evaluation=other, force="why")
    with pytest.raises(InputError, match=r"nope: found no metrics\.json"):
        challenge(run, tmp_path / "registry", evaluation=tmp_path / "nope", force="why")
    with pytest.raises(InputError, match="nope: found no folder"):
        promote(run, tmp_path / "registry", FORCED, evaluation=tmp_path / "nope")

    assert not (tmp_path / "registry").exists()


def test_a_model_that_was_refitted_on_everybody_does_not_pass(runs, dataset, tmp_path):
    first = train_here(SHORT, data=dataset.path, run=tmp_path / "first", calibrate=calibrate)
    everybody = SHORT.model_copy(update={"train_folds": (2, 3, 4, 5), "validation_folds": ()})
    train_here(everybody, data=dataset.path, run=tmp_path / "run", calibrate=lambda *_: (borrow(first), {}))
    predictor = Predictor.load(tmp_path / "run", engine="eager-fp32")
    evaluate_held_out(predictor, dataset.path, tmp_path / "report")

    with pytest.raises(InputError, match="refusal: limits of nothing"):
        challenge(tmp_path / "run", tmp_path / "registry", evaluation=tmp_path / "report")


def test_an_evaluation_from_before_sources_were_counted_is_read(runs, tmp_path):
    metrics = json.loads((runs[0][1] / METRICS).read_text())
    for one in metrics["by_source"].values():
        del one["learnt"]
    (tmp_path / METRICS).write_text(json.dumps(metrics | {"version": 3}))

    assert read_metrics(tmp_path)["version"] == 3


def test_a_misspelt_rule_is_refused(runs, tmp_path):
    with pytest.raises(InputError, match="metric"):
        challenge(runs[0][0], tmp_path, overrides=["metric=recall"], force="x")


def write_evaluation(folder, slices, report):
    """Give slices and their numbers as `evaluate` does; the numbers of a real one, but for the classes."""
    folder.mkdir()
    names = [f"slice {number}" for number in range(len(slices.labels))]
    columns = {"id": names, "patient": slices.patients, "label": [CLASSES[label] for label in slices.labels]}
    columns |= {f"p({name})": slices.probabilities[:, index] for index, name in enumerate(CLASSES)}
    table = pa.table(columns)
    order = np.random.default_rng(len(str(folder))).permutation(len(names))
    pq.write_table(table.take(order), folder / PREDICTIONS)
    metrics = json.loads((report / METRICS).read_text())
    (folder / METRICS).write_text(json.dumps(metrics | {"classes": list(CLASSES)}))
    return folder


def test_a_worse_challenger_is_refused_and_a_better_one_is_not(runs, tmp_path):
    good = write_evaluation(tmp_path / "good", judged(skill=3.0), runs[0][1])
    poor = write_evaluation(tmp_path / "poor-one", judged(skill=0.5), runs[0][1])
    model = json.loads((good / METRICS).read_text())["model"]

    def last_check(ours, theirs):
        judgement = judge(
            model["hash"],
            ours,
            rule=Rule(),
            golden=lambda: None,
            gated=True,
            champion=f"tiny-{model['hash'][:12]}",
            champions=theirs,
        )
        return judgement.checks[-1]

    assert last_check(good, poor).passed
    assert not last_check(poor, good).passed
    ours, theirs = paired(good, poor)
    assert ours.patients == theirs.patients and (ours.labels == theirs.labels).all()


def test_evaluations_of_other_slices_are_not_compared(runs, tmp_path):
    some = write_evaluation(tmp_path / "some", judged(patients=30), runs[0][1])
    more = write_evaluation(tmp_path / "more-of-them", judged(patients=31), runs[0][1])

    with pytest.raises(InputError, match=r"found 310 slices, 300 of which are also in .*some; expected the same 300"):
        paired(some, more)
    with pytest.raises(InputError, match=r"found no metrics\.json"):
        paired(some, tmp_path / "nowhere")
    (some / PREDICTIONS).unlink()
    with pytest.raises(InputError, match=r"some: found no predictions\.parquet"):
        paired(some, some)


def test_evaluations_of_the_same_slices_with_other_patients_are_not_compared(runs, tmp_path):
    slices = judged(patients=30)
    ours = write_evaluation(tmp_path / "ours", slices, runs[0][1])
    slices.patients = [f"renamed {name}" for name in slices.patients]
    assert paired(ours, write_evaluation(tmp_path / "renamed", slices, runs[0][1]))

    changes = {"fewer": ["one", *slices.patients[1:]], "as many": [*slices.patients[1:], slices.patients[0]]}
    for name, patients in changes.items():
        slices.patients = patients
        theirs = write_evaluation(tmp_path / name, slices, runs[0][1])
        for pair in ((ours, theirs), (theirs, ours)):
            with pytest.raises(InputError, match=r"patients grouped otherwise; .*on one dataset"):
                paired(*pair)


def _cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


def _without_patients(path):
    pq.write_table(pq.read_table(path).drop_columns("patient"), path)


def _of_other_classes(path):
    table = pq.read_table(path)
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", pa.array(["stroke"] * len(table))), path)


@pytest.mark.parametrize("damage", [_cut_off, _without_patients, _of_other_classes])
def test_damaged_predictions_are_named_and_force_goes_past_those_of_the_champion(runs, tmp_path, damage):
    (first, kept), (second, report), _ = runs
    champion = promote(first, tmp_path, FORCED, evaluation=kept)
    predictions = tmp_path / "evaluations" / champion.id / PREDICTIONS
    damage(predictions)

    with pytest.raises(InputError, match=r"predictions\.parquet: found a table that cannot be used .*evaluate RUN"):
        compare(report, predictions.parent)
    with pytest.raises(InputError, match=r"predictions\.parquet: found .* --champion-evaluation"):
        challenge(second, tmp_path, evaluation=report)
    assert challenge(second, tmp_path, evaluation=report, force="its table is damaged")[0].id != champion.id


def test_a_champion_without_an_evaluation_has_to_be_evaluated_first(runs, tmp_path):
    (first, _), (second, report), _ = runs
    promote(first, tmp_path, FORCED)

    with pytest.raises(InputError, match=r"no evaluation of the champion tiny-.*--champion-evaluation R"):
        challenge(second, tmp_path, evaluation=report)


def test_a_challenger_is_not_compared_with_another_model_s_evaluation_as_the_champions(runs, tmp_path):
    (first, _), (second, report), _ = runs
    champion = promote(first, tmp_path, FORCED).id

    with pytest.raises(InputError, match=f"found an evaluation of tiny-.*; expected one of the champion {champion}"):
        challenge(second, tmp_path, evaluation=report, champions=report)


def test_two_models_are_put_side_by_side(runs, tmp_path):
    good = write_evaluation(tmp_path / "good", judged(skill=3.0), runs[0][1])
    poor = write_evaluation(tmp_path / "poor-one", judged(skill=0.5), runs[0][1])

    found = compare(poor, good)

    assert (found["slices"]["count"], found["patients"]["count"]) == (1000, 100)
    before, after, (low, high) = found["slices"]["accuracy"]
    assert 0 < low < after - before < high
    assert sum(found["right"].values()) == 1000
    assert found["right"]["both"] + found["right"]["only the second"] == round(1000 * after)
