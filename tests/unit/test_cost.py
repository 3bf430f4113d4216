"""What a run cost is written down epoch by epoch, beside the run and not in its model."""

from neuralblack.registry.cost import Clock, cost_of, said


class Ticking:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_epochs_add_up_over_workers_and_over_attempts(tmp_path):
    for workers, seconds in ((2, 1800.0), (4, 900.0)):  # an attempt, and another after a kill
        ticking = Ticking()
        clock = Clock(tmp_path, workers=workers, clock=ticking)
        for epoch in range(2):
            ticking.now += seconds
            clock.lap(epoch)

    assert cost_of(tmp_path) == {"epochs": 4, "hours": 4.0}
    assert said(cost_of(tmp_path)) == "4 epochs in 4.0 worker-hours"


def test_a_search_costs_what_its_trials_do(tmp_path):
    for trial in ("a", "b"):
        (tmp_path / "trials" / trial).mkdir(parents=True)
        ticking = Ticking()
        clock = Clock(tmp_path / "trials" / trial, clock=ticking)
        ticking.now = 360.0
        clock.lap(0)

    assert cost_of(tmp_path) == {"epochs": 2, "hours": 0.2}


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    clock = Clock(tmp_path)
    clock.lap(0)
    with (tmp_path / "cost.jsonl").open("a") as file:
        file.write('{"epoch": 1, "sec')

    assert cost_of(tmp_path)["epochs"] == 1
    for epoch in (1, 2):
        Clock(tmp_path).lap(epoch)
    assert cost_of(tmp_path)["epochs"] == 3


def test_nothing_written_down_is_said(tmp_path):
    assert cost_of(tmp_path) is None
    assert said(None) == "not recorded"
