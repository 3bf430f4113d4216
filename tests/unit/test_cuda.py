"""On a GPU: what other tests promise of a CPU. Where there is none every test here is skipped, and says so."""

import threading

import numpy as np
import pytest
import torch
from tests.tiny import phantom_dataset
from tests.unit.test_engines import random_slices, with_statistics
from tests.unit.test_feature_cache import equal, trained, trial

from neuralblack.config import TrainConfig
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.inference.engines import build_engine
from neuralblack.models.execution import choose_execution
from neuralblack.models.table import build_model, network_of
from neuralblack.registry.model_folder import save_model
from neuralblack.training import device_rows, pixels
from neuralblack.training.augmentation import augment, uniform
from neuralblack.training.batches import Batches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

# The stages that learn in each epoch: the head, two, all of them; twice each.
CONFIG = TrainConfig(weights="none", schedule={0: 1, 2: 2, 4: 1000}, epochs=6, batch_size=16, batch_norm="eval")


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return phantom_dataset(tmp_path_factory.mktemp("slices"), patients=40)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_two_runs_with_one_seed_have_the_same_bits(slices, precision, compiled):
    config = CONFIG.model_copy(update={"precision": precision, "compile": compiled})
    (first, before), (second, after) = (trained(slices, config, device="cuda") for _ in range(2))

    assert before == after, "the first epoch that differs names the stages that do not repeat"
    assert equal(first, second)


@pytest.mark.parametrize("kept", ["in memory", "on the disk"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_trial_that_shares_ends_with_the_same_bits(slices, tmp_path, monkeypatch, precision, kept):
    config = CONFIG.model_copy(update={"precision": precision, "epochs": 4})
    alone, nothing = trial(slices, config, device="cuda")
    trial(slices, config.model_copy(update={"lr": 2e-3}), tmp_path, device="cuda")
    assert device_rows._KEPT
    if kept == "on the disk":
        device_rows._KEPT.clear()
    else:
        monkeypatch.setattr(device_rows.DeviceRows, "write", lambda *_: pytest.fail("what is there is written again"))

    shared, found = trial(slices, config, tmp_path, device="cuda")

    assert (nothing, found) == ([0] * 4, [1] * 4)
    assert equal(shared, alone)


@pytest.mark.parametrize("share", [pixels.SHARE, 0.0], ids=["slices on the GPU", "slices on the CPU"])
def test_a_batch_is_made_without_waiting_for_the_gpu(slices, monkeypatch, share):
    monkeypatch.setattr(pixels, "SHARE", share)
    execution, rows = choose_execution("cuda"), np.arange(len(slices))
    batches = Batches(
        pixels.Pixels(slices.images, execution),
        len(slices),
        rows % 3,
        rows,
        config=CONFIG,
        network=network_of(CONFIG.model),
        execution=execution,
        boxes=slices.boxes / slices.spec.size,
    )
    assert len(list(batches(0, torch.nn.Sequential()))) == len(batches)

    torch.cuda.set_sync_debug_mode("error")
    try:
        made = list(batches(1, torch.nn.Sequential()))
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert sum(len(batch.labels) for batch in made) == len(slices)


def test_views_are_those_of_a_cpu():
    images, unit = torch.arange(64) * 7919, torch.rand(64, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    config = CONFIG.augmentation
    on_gpu = augment(unit.cuda(), images.cuda(), epoch=3, seed=1, config=config).cpu()

    assert torch.equal(uniform(1, images, 3, 2), uniform(1, images.cuda(), 3, 2).cpu())
    torch.testing.assert_close(on_gpu, augment(unit, images, epoch=3, seed=1, config=config), rtol=0, atol=1e-3)


@pytest.fixture
def folder(tmp_path):
    model = with_statistics(build_model("resnet50", classes=3))
    return save_model(
        tmp_path / "model",
        model.state_dict(),
        card={"classes": ["glioma", "meningioma", "pituitary"], "config": CONFIG.model_dump(mode="json")},
        spec=Preprocessing(size=64),
        split={"parts": {}},
        history=[],
    )


def test_a_challenger_is_loaded_while_the_champion_answers(folder):
    champion, over, images = build_engine(folder, name="cuda-fp32", device="cuda"), threading.Event(), random_slices(9)
    expected, answers = champion(images).logits, []

    def answer():
        while not over.is_set():
            answers.append(champion(images).logits)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        challenger = build_engine(folder, name="cuda-fp32", device="cuda")  # which compares it with the golden slices
    finally:
        over.set()
        thread.join()

    assert answers
    for logits in [*answers, challenger(images).logits]:
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["auto", "cuda-bf16", "cuda-fp32", "compile-bf16", "compile-fp32", "eager-bf16"])
def test_an_engine_answers_as_eager_fp32_on_a_cpu(folder, name):
    engine = build_engine(folder, name=name, device="cuda")  # which compares it with the golden slices
    images = random_slices(63)  # every size that was captured

    found = engine(images)
    expected = build_engine(folder, name="eager-fp32", device="cpu")(images)

    print(engine.name, engine.reason)
    assert engine.name == ("cuda-bf16" if name == "auto" else name)
    assert not found.logits.is_cuda
    near = {"rtol": 0.05, "atol": 0.05 * float(expected.logits.abs().max())} if "bf16" in engine.name else {}
    torch.testing.assert_close(found.logits, expected.logits, **(near or {"rtol": 1e-3, "atol": 1e-3}))
