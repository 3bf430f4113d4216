"""Engines: one answer whatever runs the network, chosen with a reason, checked before they take traffic."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny import add_tiny_network

from neuralblack.config import TrainConfig
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError, RunError
from neuralblack.inference import engines, quantize
from neuralblack.inference.engines import ENGINES, Outputs, build_engine
from neuralblack.inference.golden import BOUNDS, Golden, check_engine, golden_slices
from neuralblack.inference.static_batches import GPU_SIZES, run_in_pieces
from neuralblack.inference.whole_network import WholeNetwork, resize_matrix
from neuralblack.models.folding import fold_batch_norms
from neuralblack.models.inputs import to_input, to_unit
from neuralblack.models.table import MODELS, build_model
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import open_model, save_model
from neuralblack.registry.promotion import promote
from neuralblack.training.runs import train_here

CLASSES = ("glioma", "meningioma", "pituitary")


def with_statistics(model: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give every BatchNorm statistics and weights of its own, as training would; a fresh one hardly does anything."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.1)
    return model.eval()


def save_sure(path):
    """Save a model folder of random weights, sure of what it says."""
    model = with_statistics(build_model("tiny", classes=3))
    model[-1][-1].weight.data.mul_(3000)
    return save_model(
        path,
        model.state_dict(),
        card={"classes": list(CLASSES), "config": TrainConfig(model="tiny", weights="none").model_dump(mode="json")},
        spec=Preprocessing(size=64),
        split={"parts": {}},
        history=[],
    )


@pytest.fixture
def folder(tiny, tmp_path):
    return save_sure(tmp_path / "model")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """A folder, and its engine openvino-fp32: compiling is most of what these tests cost."""
    needs("openvino-fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", MODELS.get("tiny"))  # the table is left as it was
        add_tiny_network()
        folder = save_sure(tmp_path_factory.mktemp("compiled") / "model")
        return folder, build_engine(folder, name="openvino-fp32")


@pytest.fixture
def run(dataset, tiny, tmp_path):
    """A finished run of one epoch."""
    config = TrainConfig(model=tiny, weights="none", epochs=1, batch_size=16, precision="fp32")
    train_here(config, data=dataset.path, run=tmp_path / "run")
    return tmp_path / "run"


def random_slices(count: int, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def test_an_engine_answers_while_another_thread_folds_a_network():
    """A replica loads its challenger beside live requests; the network that folds takes its time in the midst of it."""
    inputs, running, answered = torch.zeros(1, 1, 8, 8), threading.Event(), threading.Event()

    class Waits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)

        def forward(self, x):
            running.set()
            assert answered.wait(60)
            return self.norm(self.conv(x))

    def answer():
        assert running.wait(60)
        try:
            return live(inputs)
        finally:
            answered.set()

    parts = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)
    live = fold_batch_norms(with_statistics(torch.nn.Sequential(*parts)), inputs)
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(answer)
        other = fold_batch_norms(Waits(), inputs)

    torch.testing.assert_close(future.result(), live(inputs), rtol=0, atol=0)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in other.modules())


def test_the_resize_matrix_is_torchs_antialiased_resize():
    images = random_slices(3, size=256)
    matrix = resize_matrix(256, 224)

    torch.testing.assert_close(matrix @ images.float() @ matrix.T / 255, to_unit(images, 224)[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stored", [64, 96])
def test_the_whole_network_is_input_stages_and_pooled_maps(name, stored):
    network = replace(MODELS[name], size=64)
    stages, images = with_statistics(build_model(name, classes=3)), random_slices(1, size=stored)

    with torch.inference_mode():
        logits, features = WholeNetwork(stages, network, stored=stored)(images)
        inputs = to_input(images, network)
        maps = [stages[:-2](inputs), stages[:-1](inputs)]
        pooled = [part for each in maps for part in (each.mean((2, 3)), each.std((2, 3), correction=0))]
        expected = Outputs(stages(inputs), torch.cat(pooled, 1))

    torch.testing.assert_close(features, expected.features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["eager-fp32", "eager-bf16", "openvino-fp32", "openvino-bf16"])
def test_every_engine_answers_a_batch_of_any_size_as_single_slices(folder, name, request):
    needs(name)
    kept = request.getfixturevalue("compiled_once")[1] if name == "openvino-fp32" else None
    engine, images = kept or build_engine(folder, name=name), random_slices(13)

    whole, single = engine(images), [engine(image[None]) for image in images]

    assert engine.name == name
    assert whole.logits.shape == (13, 3)
    assert whole.features.shape[1] > 2 * MODELS["tiny"].features  # those of the stage before, too
    assert whole.logits.dtype == whole.features.dtype == torch.float32
    torch.testing.assert_close(whole.logits, torch.cat([answer.logits for answer in single]), rtol=0.05, atol=0.05)
    torch.testing.assert_close(whole.features, torch.cat([answer.features for answer in single]), rtol=0.05, atol=0.05)


def test_openvino_fp32_says_what_eager_says(compiled_once, tiny):
    (folder, engine), images = compiled_once, random_slices(5)

    first, second = build_engine(folder, name="eager-fp32")(images), engine(images)

    torch.testing.assert_close(second.logits, first.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second.features, first.features, rtol=1e-4, atol=1e-4)


def test_an_answer_is_not_overwritten_by_the_next_one(compiled_once):
    _, engine = compiled_once

    first = engine(random_slices(1))
    kept = first.logits.clone()
    engine(255 - random_slices(1))

    assert torch.equal(first.logits, kept)


def test_auto_takes_the_first_that_passes_and_says_why_not_the_others(folder, monkeypatch):
    def broken(folder, device):
        return lambda images: Outputs(torch.full((len(images), 3), float("nan")), torch.zeros(len(images), 8))

    monkeypatch.setattr(engines, "candidates", lambda *_: iter([("openvino-fp32", "first"), ("eager-fp32", "second")]))
    monkeypatch.setitem(ENGINES, "openvino-fp32", broken)

    engine = build_engine(folder)

    assert engine.name == "eager-fp32"
    assert "second" in engine.reason
    assert "not openvino-fp32: " in engine.reason
    assert "golden slices" in engine.reason


def test_auto_refuses_a_model_that_no_engine_runs_as_it_should(folder, monkeypatch):
    images = golden_slices(folder).images
    monkeypatch.setattr(engines, "golden_slices", lambda _: Golden(images, torch.eye(3)[[0] * len(images)] * 9))
    monkeypatch.setattr(engines, "candidates", lambda *_: iter([("eager-bf16", "first"), ("eager-fp32", "second")]))

    with pytest.raises(InputError, match=r"not eager-bf16: .*not eager-fp32: "):
        build_engine(folder)


def test_auto_without_openvino_is_pytorch_and_says_what_would_be_faster(folder, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: False)

    engine = build_engine(folder, device="cpu")

    assert engine.name.startswith("eager-")
    assert "neuralblack[openvino]" in engine.reason


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[0.0, 9.0, 0.0]], ["1 of 1 golden slices with another class", "off by 0.99"]),
        ([[9.0, 4.0, 0.0]], ["0 of 1 golden slices", "within 0.0001"]),
        ([[float("nan")] * 3], ["off by nan"]),
    ],
    ids=["other class", "other probability", "no number"],
)
def test_an_engine_that_answers_otherwise_than_the_golden_slices_takes_no_traffic(answers, words):
    golden = Golden(random_slices(1), torch.tensor([[9.0, 0.0, 0.0]]))

    with pytest.raises(InputError) as error:
        check_engine("eager-fp32", lambda images: Outputs(torch.tensor(answers), torch.zeros(1, 2)), golden)

    for word in ["engine eager-fp32", *words]:
        assert word in str(error.value)


def test_a_compiled_network_asks_cudnn_for_no_tf32(folder, monkeypatch):
    asked = []

    def uncompiled(network, **_):
        return lambda images: asked.append(torch.backends.cudnn.allow_tf32) or network(images)

    monkeypatch.setattr(torch, "compile", uncompiled)
    monkeypatch.setattr("neuralblack.inference.compiled.need_compiler", lambda *_, **__: None)
    build_engine(folder, name="compile-fp32", device="cpu")

    assert asked and not any(asked)


def test_on_a_gpu_golden_slices_go_through_every_size_that_was_captured(folder, monkeypatch):
    ran, eager = [], ENGINES["eager-fp32"]

    def captured(folder, device):
        run = eager(folder, torch.device("cpu"))
        return lambda images: run_in_pieces(images, lambda piece: ran.append(len(piece)) or run(piece), GPU_SIZES)

    monkeypatch.setitem(ENGINES, "cuda-fp32", captured)
    monkeypatch.setattr(engines, "choose_device", torch.device)
    engine = build_engine(folder, name="cuda-fp32", device="cuda")

    assert set(ran) == set(GPU_SIZES)
    assert f"on {len(golden_slices(folder).images)} golden slices" in engine.reason


def test_the_folders_own_golden_slices_come_first(folder, tmp_path):
    golden = {"golden_images": random_slices(2), "golden_logits": torch.tensor([[9.0, 0.0, 0.0]] * 2)}
    state = {key: torch.zeros_like(value) for key, value in build_model("tiny", classes=3).state_dict().items()}
    other = save_model(
        tmp_path / "other", state, card=folder.card, spec=folder.spec, split={}, history=[], reference=golden
    )

    with pytest.raises(InputError, match="of 2 golden slices"):
        build_engine(other, name="eager-fp32")


def test_every_number_format_has_its_bound():
    assert {name.rpartition("-")[2] for name in ENGINES} - {"auto"} == set(BOUNDS)


def test_int8_is_refused_where_the_folder_has_none(folder):
    needs("openvino-int8")

    with pytest.raises(InputError, match="neuralblack quantize RUN DATA"):
        build_engine(folder, name="openvino-int8")


def test_an_unknown_engine_lists_the_known_ones(folder):
    with pytest.raises(InputError, match="one of auto, eager-fp32, eager-bf16"):
        build_engine(folder, name="warp")


def test_openvino_is_imported_without_what_reports_to_its_vendor():
    needs("openvino-fp32")
    script = (
        "import sys\n"
        "from neuralblack.inference.openvino_engine import import_openvino\n"
        "import_openvino(), import_openvino('nncf')\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "from nncf.telemetry import telemetry\n"
        "print(telemetry_utils.tm.__name__, type(telemetry).__name__, sys.modules.get('openvino_telemetry'))\n"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert said.split()[-3:] == ["openvino.tools.ovc.telemetry_stub", "MagicMock", "None"]


def needs(name: str) -> None:
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    if name.endswith("bf16") and name.startswith("openvino") and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this CPU has no bf16")


def test_quantising_keeps_the_folder_as_it_is_where_accuracy_is_lost(run, dataset, monkeypatch):
    needs("openvino-int8")
    before = open_model(run / "model").hash
    monkeypatch.setattr(quantize, "ALLOWED", -1.0)  # not even the same is the same

    with pytest.raises(RunError, match="does not keep the accuracy, nothing is written: macro-F1 0"):
        quantize.quantize(run, dataset.path, calibration=4)

    assert open_model(run / "model").hash == before


def test_no_slices_have_no_logits_of_every_class():
    def never(images):
        raise AssertionError("no engine is asked for nothing")

    assert quantize.run_all(never, np.zeros((0, 64, 64), np.uint8), classes=3).shape == (0, 3)


def test_a_quantised_network_is_part_of_its_folder_and_what_auto_takes(run, dataset, monkeypatch):
    needs("openvino-int8")
    before = open_model(run / "model")
    monkeypatch.setattr(quantize, "ALLOWED", 1.0)  # one epoch of training teaches nothing that could be lost

    folder = quantize.quantize(run, dataset.path, calibration=4)

    assert folder.id != before.id
    assert folder.card["int8"]["slices"] > 0
    assert {"int8.xml", "int8.bin"} <= {path.name for path in folder.path.iterdir()}
    assert next(name for name, _ in engines.candidates(folder, torch.device("cpu"))) == "openvino-int8"
    assert build_engine(folder, name="openvino-int8")(random_slices(3)).logits.shape == (3, 4)
    with (folder.path / "int8.bin").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InputError, match=r"int8\.bin"):
        open_model(folder.path)


def test_a_model_in_a_registry_is_not_quantised_because_its_name_is_its_hash(run, dataset, tmp_path):
    needs("openvino-int8")
    model = promote(run, tmp_path / "registry", Judgement(forced="a test"))

    with pytest.raises(InputError, match="quantise the run, then promote it"):
        quantize.quantize(model.path, dataset.path)


@pytest.mark.parametrize("name", ["cuda-bf16", "compile-fp32"])
def test_an_engine_that_cannot_run_here_says_what_it_needs(folder, name, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(InputError, match="a GPU" if name == "cuda-bf16" else r"no no-such-compiler.*C\+\+ compiler"):
        build_engine(folder, name=name, device="cpu")


@pytest.mark.soak
@pytest.mark.parametrize("name", ["compile-fp32", "compile-bf16"])
def test_a_compiled_network_says_what_eager_says(folder, name):
    engine = build_engine(folder, name=name, device="cpu")

    assert engine(random_slices(13)).logits.shape == (13, 3)
    assert "golden slices" in engine.reason
