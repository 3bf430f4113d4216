"""What a search tries, which trials go on, and what its page says: without Ray."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from ray import tune

from neuralblack.cluster.halving import STOPPED, Halving, rungs_of
from neuralblack.cluster.search_plan import planned, points_of
from neuralblack.cluster.space import DEFAULT_SPACE, check_space, drawn, schedules_of, with_fixed
from neuralblack.cluster.trials import TRIAL, TRIAL_JSON, standard_error, table_of
from neuralblack.cluster.tune import at_a_time, tune_on_cluster
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError, PassingError, RunError
from neuralblack.evaluation.search_pictures import importance, scale
from neuralblack.evaluation.search_report import outcome, saved, write_search_report
from neuralblack.files import write_json, write_manifest
from neuralblack.registry.run_folder import record_epoch


class Trial:
    status, ended = "RUNNING", False

    def __init__(self, trial_id):
        self.trial_id = trial_id

    def is_finished(self):
        return self.ended


def test_the_default_space_holds_nothing_that_a_run_would_refuse():
    check_space(TrainConfig(weights="none"), DEFAULT_SPACE)

    assert all(TrainConfig.model_validate(params) for params in drawn(DEFAULT_SPACE, TrainConfig(), draws=20, seed=0))


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("rate", [1.0], "no such field"),
        ("lr", [0.1, 0.0], "found 0.0; expected a value greater than 0"),
        ("schedule", ["bottom-up"], "one of head-only, probe-then-all, top-down, top-down-slowly, all"),
        ("schedule", [{0: 0}], "no stage learns"),
        ("validation_folds", [(1,), (2,)], "what all trials must share"),
        ("weights", ["/nowhere.pth"], "no such file"),
    ],
)
def test_a_space_with_a_value_that_a_run_would_refuse_is_refused(name, values, words):
    with pytest.raises(InputError) as error:
        check_space(TrainConfig(weights="none"), {name: tune.choice(values)})

    assert words in str(error.value)


def test_draws_are_the_same_for_the_same_seed_and_trials_of_the_same_views_stand_together():
    first, second = (drawn(DEFAULT_SPACE, TrainConfig(), draws=12, seed=3) for _ in range(2))

    assert first == second != drawn(DEFAULT_SPACE, TrainConfig(), draws=12, seed=4)
    views = [(params["input"], params["augmentation_strength"]) for params in first]
    assert len(set(views)) > 2
    assert [view for before, view in itertools.pairwise([None, *views]) if view != before] == [
        views[0],
        *sorted(set(views) - {views[0]}),
    ]


def test_one_trial_is_the_run_that_would_be_without_a_search_as_far_as_the_space_holds_it():
    config = TrainConfig(lr=0.002, loss="focal", schedule="all")
    space = DEFAULT_SPACE | {"weight_decay": tune.uniform(0.5, 0.9), "schedule": tune.grid_search(["all", "head-only"])}

    first, second = drawn(space, config, draws=1, seed=0)

    assert (first["lr"], first["loss"], first["lr_decay"]) == (0.002, "focal", config.lr_decay)
    assert (first["schedule"], second["schedule"]) == ("all", "head-only")
    assert 0.5 <= first["weight_decay"] <= 0.9
    found = drawn(space | {"size": tune.randint(64, 128)}, config, draws=6, seed=0)
    assert [params["lr"] == 0.002 for params in found] == [True, True] + [False] * 10


@pytest.mark.parametrize(
    ("asked", "more_may_come", "ahead", "expected"),
    [(0, False, 16, 2), (1, False, 16, 1), (8, False, 16, 2), (0, True, 16, 16), (8, True, 16, 8), (0, True, 0, 2)],
    ids=["room", "fewer", "no room", "nodes may come", "asked for", "nodes may come for optuna"],
)
def test_the_nodes_that_happen_to_be_up_limit_a_search_only_where_no_more_may_come(
    asked, more_may_come, ahead, expected
):
    assert at_a_time(asked, room=2, more_may_come=more_may_come, ahead=ahead) == expected


def test_a_grid_is_combined_with_every_draw():
    space = {"lr": tune.loguniform(1e-4, 1e-2), "loss": tune.grid_search(["focal", "cross-entropy"])}

    found = drawn(space, TrainConfig(), draws=3, seed=0)

    assert len(found) == 6
    assert len({params["lr"] for params in found}) == 3
    assert sum(params["loss"] == "focal" for params in found) == 3


def test_a_field_that_is_given_a_value_is_not_searched():
    config, space = with_fixed(["lr=0.01", "augmentation.flip=0"], DEFAULT_SPACE)

    assert config.lr == 0.01
    assert "lr" not in space and len(space) == len(DEFAULT_SPACE) - 1
    with pytest.raises(InputError, match="a value for every field that would be searched"):
        with_fixed(["lr=0.01"], {"lr": DEFAULT_SPACE["lr"]})


def test_an_unknown_search_and_a_grid_for_optuna_are_refused():
    with pytest.raises(InputError, match="one of random, optuna"):
        points_of("annealing", DEFAULT_SPACE, TrainConfig(), draws=2)
    with pytest.raises(InputError, match="found a grid"):
        points_of("optuna", {"lr": tune.grid_search([0.1])}, TrainConfig(), draws=2)


@pytest.mark.parametrize(
    ("workers", "gpus", "expected"),
    [(1, False, {"CPU": 1}), (1, True, {"CPU": 1, "GPU": 1}), (2, True, {"CPU": 2.01, "GPU": 2})],
)
def test_a_trial_of_several_workers_takes_room_for_what_starts_them_as_well(workers, gpus, expected):
    space = {"lr": tune.grid_search([0.01, 0.02])}

    plan = planned(TrainConfig(weights="none"), space, search="random", draws=3, workers=workers, gpus=gpus)

    assert plan.of_a_trial == expected
    assert plan.trials == 6 and plan.facts["trials"] == 3


def test_rungs_sit_before_every_unfreezing_of_any_schedule_and_then_double():
    schedules = schedules_of(TrainConfig(), {"schedule": tune.choice(["top-down", {0: 1, 5: 2}])})

    assert rungs_of(schedules, epochs=24) == [1, 2, 3, 5, 10, 20]
    assert rungs_of([{0: 1}], epochs=1) == [1]


def test_a_trial_below_the_others_is_stopped_at_a_rung_with_its_reason_and_not_between(tmp_path):
    halving = Halving([2, 4], epochs=8, trials=tmp_path)
    halving.set_search_properties("macro_f1", "max")
    for name in "abc":
        halving.on_trial_add(None, Trial(name))

    def result(name, epoch, value):
        return halving.on_trial_result(
            None, Trial(name), {"training_iteration": epoch, "epoch": epoch - 1, "macro_f1": value}
        )

    assert [rung for rung, _ in halving._brackets[0]._rungs] == [4, 2], "Ray's own scheduler has changed inside"
    assert result("a", 1, 0.1) == "CONTINUE"
    assert result("a", 2, 0.8) == "CONTINUE"
    assert result("b", 1, 0.01) == "CONTINUE"
    assert result("b", 2, 0.5) == "STOP"
    assert result("c", 2, 0.9) == "CONTINUE"
    assert result("c", 3, 0.0) == "CONTINUE"
    reason = json.loads((tmp_path / "b" / STOPPED).read_text())
    assert (reason["epoch"], reason["value"], reason["needed"]) == (2, 0.5, 0.8)
    assert not (tmp_path / "a").exists()


def test_tunes_state_is_written_down_as_soon_as_a_trial_has_ended(tmp_path):
    trials, written = [Trial("a"), Trial("b")], []
    controller = SimpleNamespace(get_trials=lambda: trials, checkpoint=lambda *, force: written.append(force))
    halving = Halving([2], epochs=4, trials=tmp_path)

    halving.choose_trial_to_run(controller)
    assert written == []
    trials[0].ended = True
    halving.choose_trial_to_run(controller)
    halving.choose_trial_to_run(controller)

    assert written == [True]


def test_a_search_that_is_gone_on_with_judges_by_what_its_trials_came_to_before(tmp_path):
    for name, scores in {"done": [0.1, 0.8, 0.9, 0.9], "young": [0.7, 0.6, 0.6, 0.5]}.items():
        (tmp_path / name).mkdir()
        for epoch, score in enumerate(scores):
            record_epoch(tmp_path / name, {"epoch": epoch, "macro_f1": score})
    halving = Halving([2, 4], epochs=8, trials=tmp_path)
    halving.set_search_properties("macro_f1", "max")
    for name in ("done", "young", "new"):
        halving.on_trial_add(None, Trial(name))

    def result(name, epoch, value):
        reported = {"training_iteration": 1, "epoch": epoch - 1, "macro_f1": value}
        return halving.on_trial_result(None, Trial(name), reported)

    assert result("young", 5, 0.0) == "CONTINUE", "it was judged at 4, and is not judged there again"
    assert result("new", 2, 0.5) == "STOP"
    assert json.loads((tmp_path / "new" / STOPPED).read_text())["of"] == 3
    assert halving.on_trial_result(None, Trial("done"), {"done": True}) == "CONTINUE"


def row(trial, score, *, lr=0.01, loss=0.5, stopped=False, shared=1.0, **more):
    history = [{"epoch": epoch, "macro_f1": score, "stages": 1 + epoch, "shared": shared} for epoch in range(3)]
    return {
        "trial": trial,
        "params": {"lr": lr, "schedule": "top-down"},
        "epochs": 3,
        "stopped": stopped,
        "stop": None,
        "macro_f1": score,
        "accuracy": score,
        "loss": loss,
        "ece": 0.02,
        "error": None,
        "history": history,
        **more,
    }


def test_what_was_saved_is_counted_from_epochs_that_could_share():
    cost = saved([row(1, 0.9), row(2, 0.5, stopped=True, shared=0.0)], epochs=8, slices=100)

    assert cost == {"epochs": 6, "stopped": 5, "passes": 400, "shared": 200}


def test_the_page_names_the_chosen_trial_its_interval_and_why_others_ended(tmp_path):
    stop = {"epoch": 3, "value": 0.5, "needed": 0.7, "of": 4}
    rows = [row(4, 0.9), row(2, 0.5, stopped=True, stop=stop), row(3, None, error="<out of memory>", history=[])]
    write_search_report(tmp_path / "search.html", rows, name="a<b", epochs=8, slices=100, intervals={4: (0.85, 0.94)})
    page = (tmp_path / "search.html").read_text()

    for words in ("Trial <strong>4</strong>", "85.0% to 94.0%", outcome(rows[1]), "&lt;out of memory&gt;", "a&lt;b"):
        assert words in page, words
    assert page.count("<svg") == 2


def test_the_field_that_decides_is_the_important_one():
    rows = [row(n, 0.5 + 0.05 * (n % 8), lr=10 ** -(2 + n % 8 / 4), loss=0.1) for n in range(24)]
    for n, each in enumerate(rows):
        each["params"]["weight_decay"] = (n * 7 % 24) / 100

    shares = importance(rows)

    assert next(iter(shares)) == "lr" and shares["lr"] > 0.8
    assert importance(rows[:5]) == {}


def test_where_scores_are_chance_no_field_is_important():
    random = np.random.default_rng(2)
    rows = [row(n, random.normal(0.8, 0.02), lr=random.uniform(1e-4, 1e-2), loss=0.1) for n in range(8)]

    assert importance(rows) == {}


def test_values_of_many_sizes_are_placed_by_their_logarithm():
    heights, ends = scale([1e-4, 1e-3, 1e-2])

    assert heights.tolist() == pytest.approx([0, 0.5, 1])
    assert [text for _, text in ends] == ["0.0001", "0.01"]


def test_a_trial_without_a_whole_checkpoint_is_a_row_with_its_error_and_the_others_count(tmp_path):
    results, kept = [], {}
    for number, score in enumerate([0.6, 0.8, 0.9], 1):
        (tmp_path / "trials" / str(number)).mkdir(parents=True)
        write_json(tmp_path / "trials" / str(number) / TRIAL_JSON, {"number": number, "params": {"lr": 0.01}})
        kept[number] = tmp_path / "search" / f"{TRIAL}{number}" / "checkpoint_0"
        kept[number].mkdir(parents=True)
        metrics = {"epoch": 2, "macro_f1": score, "accuracy": score, "loss": 0.3, "ece": 0.1}
        write_json(kept[number] / "state.json", {"metrics": metrics})
        write_manifest(kept[number])
        checkpoints = [(SimpleNamespace(path=str(kept[number])), {})]
        about = {"path": str(kept[number].parent), "best_checkpoints": checkpoints}
        results.append(SimpleNamespace(**about, error=None, metrics={"epoch": 2}))

    def table():
        rows, folders = table_of(tmp_path, results, ["lr"], epochs=3, patients=10)
        return [row["trial"] for row in rows], [row["error"] for row in rows], folders

    assert table()[1] == [None] * 3
    (kept[2] / "state.json").write_text("{}")

    trials, errors, folders = table()
    assert (trials, folders) == ([3, 1, 2], [kept[3], kept[1], None])
    assert errors[:2] == [None, None] and "state.json: found" in errors[2]


def test_a_standard_error_shrinks_with_the_patients():
    assert standard_error(0.9, 100) == pytest.approx(0.03)
    assert standard_error(0.9, 400) == pytest.approx(0.015)


def test_a_trial_that_failed_is_not_trained_again_by_the_same_command_but_by_the_next(tmp_path):
    from neuralblack.cluster.trials import failing_once

    starts = []

    def trial(command, error):
        with failing_once(tmp_path / "failed.json", command=command):
            starts.append(command)
            if error:
                raise error

    for _ in range(3):
        with pytest.raises(RunError, match="the loss is nan"):
            trial("first", RunError("the loss is nan"))
    assert starts == ["first"]
    trial("second", None)
    assert starts == ["first", "second"]
    full = PassingError("run", found="no space left", expected="room", fix="free some")
    for error in (ZeroDivisionError(), full):  # a bug, and what may pass, are tried again, and shown as they are
        with pytest.raises(type(error)):
            trial("third", error)
    trial("third", None)
    for _ in range(2):
        with pytest.raises((InputError, RunError), match="no such file"):
            trial("fourth", InputError("weights", found="no such file", expected="a file", fix="check the path"))
    assert starts == ["first", "second", *["third"] * 3, "fourth"]


def test_a_search_needs_something_to_choose_on(dataset, tmp_path):
    with pytest.raises(InputError, match=r"validation_folds: found \[\]; expected folds to choose trials on"):
        tune_on_cluster(
            TrainConfig().model_copy(update={"validation_folds": ()}), data=dataset.path, run=tmp_path / "run"
        )
