"""The loop: the same run on any number of workers, unbroken or gone on with."""

import gc
import multiprocessing
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import add_tiny_network

from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.splits import make_split
from neuralblack.errors import InputError, RunError
from neuralblack.models.heads import LOSSES
from neuralblack.training.checkpoints import load_state, save_state
from neuralblack.training.group import OneProcess, Workers
from neuralblack.training.loop import compiled
from neuralblack.training.recipe import train

CONFIG = TrainConfig(
    model="tiny",
    weights="none",
    schedule={0: 1, 1: 2, 2: 3},
    lr=0.02,
    epochs=4,
    batch_size=7,  # leaves a last batch of one slice: one of two workers has nothing to do in it
    batch_norm="eval",
    precision="fp32",
)


def short_run(data: Path, config: TrainConfig, group: OneProcess, *, start=None, stop_behind: int | None = None):
    """Train; give back the metrics of every epoch and the last state, weights copied."""
    torch.set_num_threads(1)
    epochs, states = [], []

    def report(metrics, state):
        epochs.append(metrics)
        states.append({**state, "model": {key: value.clone() for key, value in state["model"].items()}})
        if state["epoch"] == stop_behind:
            raise KeyboardInterrupt

    dataset = open_dataset(data)
    split = make_split(dataset, train=None, validation=(2,), test=(1,))
    size = config.batch_size  # the made-up heads differ in last bits between processors, and with them the folds
    split = replace(split, train=split.train[: (len(split.train) - 1) // size * size + 1])
    try:
        train(config, dataset, split, report=report, group=group, start=start, device="cpu")
    except KeyboardInterrupt:
        assert stop_behind is not None
    return epochs, states[-1]


def _worker(rank: int, size: int, rendezvous: str, data: Path, configs: list[TrainConfig], results) -> None:
    add_tiny_network()
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    for number, config in enumerate(configs):
        epochs, state = short_run(data, config, Workers(rank, size))
        results.put((number, rank, epochs, {key: value.numpy() for key, value in state["model"].items()}))
    torch.distributed.destroy_process_group()


def on_workers(size: int, data: Path, configs: list[TrainConfig]):
    """Run each with `short_run` in the same `size` processes, a gloo group; for each config, the results by rank."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_worker, args=(rank, size, f"{folder}/meet", data, configs, results))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        given = [results.get(timeout=120) for _ in range(size * len(configs))]
        for process in processes:
            process.join(30)
    by_rank = sorted(given, key=lambda result: result[1])
    return [[(epochs, weights) for number, _, epochs, weights in by_rank if number == at] for at in range(len(configs))]


@pytest.fixture
def gloo(tmp_path):
    """A gloo group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("error::FutureWarning")
def test_batch_norm_statistics_are_not_sent_before_every_step(gloo):
    wrapped = Workers(0, 2).wrap(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)))

    assert not wrapped.will_sync_module_buffers()
    assert wrapped.modules_buffers


def test_two_workers_learn_what_one_learns_and_hold_equal_weights(dataset, tiny):
    configs = [CONFIG.model_copy(update={"batch_norm": batch_norm}) for batch_norm in ("eval", "local")]

    for config, ((first, first_weights), (second, second_weights)) in zip(
        configs, on_workers(2, dataset.path, configs), strict=True
    ):
        assert first == second, config.batch_norm
        assert all((first_weights[key] == second_weights[key]).all() for key in first_weights), config.batch_norm
        if config.batch_norm == "eval":  # local statistics are those of each worker's own part, so the runs differ
            alone, _ = short_run(dataset.path, config, OneProcess())
            for name in ("train_loss", "train_accuracy", "loss", "accuracy", "macro_f1"):
                assert [row[name] for row in first] == pytest.approx([row[name] for row in alone], rel=1e-5), name


def test_a_step_sends_its_rows_labels_and_weights_once_each(dataset, tiny, monkeypatch):
    counted = []
    for module in ("batches", "pixels"):
        monkeypatch.setattr(
            f"neuralblack.training.{module}.sent", lambda value, device: counted.append(len(value)) or value.to(device)
        )
    monkeypatch.setattr("neuralblack.training.recipe.validation", lambda *_, **__: lambda *_: {})

    _, state = short_run(dataset.path, CONFIG.model_copy(update={"epochs": 1}), OneProcess())

    steps = next(iter(state["optimizer"]["state"].values()))["step"]
    assert len(counted) == 3 * int(steps)
    assert set(counted) <= {CONFIG.batch_size, 1}


def test_a_run_that_was_stopped_ends_with_the_weights_of_the_unbroken_one(dataset, tiny, tmp_path):
    whole, at_end = short_run(dataset.path, CONFIG, OneProcess())

    part, state = short_run(dataset.path, CONFIG, OneProcess(), stop_behind=1)
    save_state(state, part[-1], tmp_path)  # contiguous, where the weights of convolutions are channels_last
    rest, resumed = short_run(dataset.path, CONFIG, OneProcess(), start=load_state(tmp_path))

    assert part + rest == whole
    assert all(torch.equal(resumed["model"][key], value) for key, value in at_end["model"].items())


def test_the_schedule_decides_which_stages_change(dataset, tiny):
    config = CONFIG.model_copy(update={"schedule": "head-only", "epochs": 2})

    _, first = short_run(dataset.path, config, OneProcess(), stop_behind=0)
    _, second = short_run(dataset.path, config, OneProcess())

    changed = {
        key.split(".")[0] for key, value in second["model"].items() if not torch.equal(first["model"][key], value)
    }
    assert changed == {"head"}


def test_a_stage_that_is_unfrozen_begins_with_small_steps_and_the_head_goes_on_with_its_own(dataset, tiny, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def noted(optimizer, *args):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    config = CONFIG.model_copy(update={"schedule": {0: 1, 1: 3}, "lr_decay": 2.0})
    short_run(dataset.path, config, OneProcess())

    steps = len(rates) // config.epochs
    shares = [(row[0] / row[-1]) * config.lr_decay**2 for row in rates]  # of the stem's rate, against the head's
    assert shares[steps : 2 * steps] == pytest.approx([(number + 1) / steps for number in range(steps)])
    assert shares[2 * steps :] == pytest.approx([1.0] * 2 * steps)
    assert rates[steps][-1] == pytest.approx(rates[steps - 1][-1], rel=0.1)


def test_a_short_run_learns(dataset, tiny):
    epochs, _ = short_run(dataset.path, CONFIG.model_copy(update={"epochs": 12, "batch_norm": "local"}), OneProcess())

    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert epochs[-1]["train_accuracy"] > epochs[0]["train_accuracy"]


def test_a_loss_that_is_no_number_ends_the_run_with_a_word_of_advice(dataset, tiny, monkeypatch):
    nothing = lambda logits, *_, **__: logits.sum(1) * float("nan")  # noqa: E731
    monkeypatch.setitem(LOSSES, "cross-entropy", nothing)

    with pytest.raises(
        RunError,
        match=r"the loss is nan from step 1 on, slices \[\d+, .*\] of the dataset; a lower learning rate than 0\.02",
    ):
        short_run(dataset.path, CONFIG, OneProcess())


@pytest.mark.parametrize("folds", [CONFIG.validation_folds, ()], ids=["validated", "nothing to validate on"])
def test_a_network_that_an_epochs_last_step_spoilt_does_not_become_a_model(folds, dataset, tiny, monkeypatch):
    monkeypatch.setattr("neuralblack.training.recipe.scores", lambda logits, loss: logits * float("nan"))

    with pytest.raises(RunError, match=r"behind the epoch's last step the answers are no numbers; a lower learning"):
        short_run(dataset.path, CONFIG.model_copy(update={"epochs": 1, "validation_folds": folds}), OneProcess())


def test_out_of_memory_names_a_batch_size_that_fits(dataset, tiny, monkeypatch):
    def limited(self, inputs, forward=torch.nn.AdaptiveAvgPool2d.forward):
        if len(inputs) > 3 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, inputs)

    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", limited)

    with pytest.raises(RunError, match="out of memory with 7 slices on each of 1 workers; --set batch_size=3 fits"):
        short_run(dataset.path, CONFIG, OneProcess())


def test_out_of_memory_in_the_optimizers_first_step_names_what_fits_beside_its_moments(dataset, tiny, monkeypatch):
    shape, held = (4, 8), []  # of the weights of the head, which alone learns at first

    def limited(self, inputs, forward=torch.nn.AdaptiveAvgPool2d.forward):
        if torch.is_grad_enabled():
            plain = [each for each in gc.get_objects() if type(each) is torch.Tensor]
            held.append(sum(each.shape == shape for each in plain))
            if held[-1] > held[0] and len(inputs) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, inputs)

    def no_room(self, *_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", limited)
    monkeypatch.setattr(torch.optim.AdamW, "step", no_room)

    with pytest.raises(RunError, match="out of memory with 7 slices on each of 1 workers; --set batch_size=1 fits"):
        short_run(dataset.path, CONFIG, OneProcess())
    assert [count - held[0] for count in held] == [0, 2, 2]


class Heavy(torch.autograd.Function):
    """What a step keeps for its gradients: an object that lives as long as the step's graph."""

    kept, fails_in = [], "forward"

    @staticmethod
    def forward(ctx, maps):
        ctx.memory = torch.zeros(1)
        Heavy.kept.append(weakref.ref(ctx.memory))
        return maps.clone()

    @staticmethod
    def backward(ctx, gradient):
        if Heavy.fails_in == "backward" and len(gradient) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient


@pytest.fixture(params=["forward", "backward"])
def heavy(monkeypatch, request):
    """How many steps' memory was held when each began; a step of more than three slices has not enough of it."""
    held = []

    def pool(self, inputs, forward=torch.nn.AdaptiveAvgPool2d.forward):
        if not torch.is_grad_enabled():
            return forward(self, inputs)
        held.append(sum(memory() is not None for memory in Heavy.kept))
        inputs = Heavy.apply(inputs)
        if Heavy.fails_in == "forward" and len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, inputs)

    monkeypatch.setattr(Heavy, "kept", [])
    monkeypatch.setattr(Heavy, "fails_in", request.param)
    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", pool)
    return held


def test_what_fits_is_tried_when_nothing_of_the_failed_step_is_in_memory(dataset, tiny, heavy):
    with pytest.raises(RunError, match="--set batch_size=3 fits"):
        short_run(dataset.path, CONFIG.model_copy(update={"schedule": "all"}), OneProcess())

    assert heavy == [0, 0]


def test_what_fits_is_said_where_the_workers_gradients_came_in_half(dataset, tiny, heavy, gloo):
    class Averaged(OneProcess):
        def wrap(self, model):
            return torch.nn.parallel.DistributedDataParallel(model)

    with pytest.raises(RunError, match="--set batch_size=3 fits"):
        short_run(dataset.path, CONFIG.model_copy(update={"schedule": "all"}), Averaged())


def test_a_last_batch_without_a_spread_for_batch_norm_is_said_with_what_helps(dataset):
    config = TrainConfig(
        model="efficientnet_lite0", weights="none", size=32, schedule="all", epochs=1, precision="fp32"
    )

    with pytest.raises(InputError, match=r"batch_norm: found 1 slice .*--set batch_norm=eval"):
        short_run(dataset.path, config, OneProcess())


def test_two_runs_with_one_seed_are_the_same_to_the_bit(dataset, tiny):
    (first, weights), (second, again) = (short_run(dataset.path, CONFIG, OneProcess()) for _ in range(2))

    assert first == second
    assert all(torch.equal(again["model"][key], value) for key, value in weights["model"].items())


@pytest.mark.soak
def test_a_compiled_run_learns_nearly_the_same_and_goes_on_with_the_same_bits(dataset, tiny, tmp_path):
    short = CONFIG.model_copy(update={"epochs": 2, "schedule": "all"})  # every size of batch and phase takes seconds
    config = short.model_copy(update={"compile": True})
    eager, _ = short_run(dataset.path, short, OneProcess())
    whole, at_end = short_run(dataset.path, config, OneProcess())

    part, state = short_run(dataset.path, config, OneProcess(), stop_behind=0)
    save_state(state, part[-1], tmp_path)
    rest, resumed = short_run(dataset.path, config, OneProcess(), start=load_state(tmp_path))

    assert [row["train_loss"] for row in whole] == pytest.approx([row["train_loss"] for row in eager], abs=1e-4)
    assert part + rest == whole
    assert all(torch.equal(resumed["model"][key], value) for key, value in at_end["model"].items())
    assert at_end["made"]["execution"].endswith(", compiled")


def test_a_process_compiles_as_many_programs_as_phases_trials_and_sizes_of_batches_need(monkeypatch):
    def traced(stages, compile=torch.compile, **more):
        return compile(stages, backend="eager", dynamic=more["dynamic"], fullgraph=more["fullgraph"])

    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # torch's own, and back to it behind this test
    monkeypatch.setattr(torch, "compile", traced)
    layers = [torch.nn.Linear(2, 2) for _ in range(5)]
    for depth in range(1, len(layers) + 1):
        stages = compiled(torch.nn.Sequential(*layers[-depth:]))
        assert [len(stages(torch.zeros(count, 2))) for count in (4, 3)] == [4, 3]


def test_without_a_compiler_a_compiled_run_is_refused_before_it_starts(dataset, tiny, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(InputError, match=r"found no no-such-compiler.*--set compile=false"):
        short_run(dataset.path, CONFIG.model_copy(update={"compile": True}), OneProcess())
