"""OpenVINO, the fastest on a CPU (extra `openvino`): graphs of fixed batch sizes, compiled when the model is loaded."""

import importlib
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralblack.errors import InputError
from neuralblack.inference.outputs import Forward, Outputs
from neuralblack.inference.static_batches import SIZES, run_in_pieces
from neuralblack.inference.whole_network import WholeNetwork, whole_network
from neuralblack.registry.model_folder import ModelFolder

INT8 = "int8.xml"  # in a model folder that `neuralblack quantize` wrote, its weights in int8.bin


def installed() -> bool:
    """Tell whether the extra `openvino` is there."""
    return find_spec("openvino") is not None


def import_openvino(name: str = "openvino") -> Any:
    """Import OpenVINO, or nncf, without its telemetry.

    Both report conversions to Google Analytics unless a file in the home folder says no, and without that file they
    take the answer for yes (openvino-telemetry 2025.2, `enable_opt_in_dialog=False`). Without the package that sends
    they do nothing, so this process gets none.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what Python takes for "not there"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise InputError(
            "engine openvino",
            found=f"no {name}",
            expected="the extra `openvino`",
            fix="pip install 'neuralblack[openvino]'",
        ) from None


def openvino(folder: ModelFolder, *, precision: str) -> Forward:
    """Convert a checked folder's weights, or take its quantised graph, and compile it.

    Args:
        folder: the model.
        precision: `fp32`, `bf16`, or `int8`, which only a folder that `neuralblack quantize` wrote has.

    """
    ov = import_openvino()
    if precision != "int8":
        return Compiled(converted(whole_network(folder)), precision)
    if "int8" not in folder.card:  # the card says so, or the manifest would not vouch for the graph
        raise InputError(
            f"engine openvino-int8 of {folder.path}",
            found="no quantised network in the model folder",
            expected=f"{INT8}, written where it keeps the accuracy",
            fix="neuralblack quantize RUN DATA",
        )
    return Compiled(ov.Core().read_model(folder.path / INT8), "int8")


def converted(network: WholeNetwork) -> Any:
    """Convert to an OpenVINO model: (?, S, S) uint8 -> logits, features."""
    ov = import_openvino()
    side = network.stored
    with torch.inference_mode():
        model = ov.convert_model(network, example_input=torch.zeros(1, side, side, dtype=torch.uint8))
    model.reshape([-1, side, side])
    return model


def save_int8(model: Any, folder: Path) -> None:
    """Write a quantised model into a folder that is being filled."""
    import_openvino().save_model(model, folder / INT8, compress_to_fp16=False)


class Compiled:
    """One OpenVINO model, compiled for each batch size of SIZES; callable from any thread, one call at a time."""

    def __init__(self, model: Any, precision: str, *, options: Mapping[str, object] = {}) -> None:
        from neuralblack.models.execution import has_bf16

        ov = import_openvino()
        core, native = ov.Core(), has_bf16(torch.device("cpu"))
        if precision == "bf16" and not native:
            raise InputError(
                "engine openvino-bf16", found="a CPU without bf16", expected="AVX512-BF16 or AMX", fix="--engine auto"
            )
        settings = {
            # what int8 leaves in floating point need not be slower than it must
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" or not native else "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # as many as there are CPUs granted
            "ENABLE_CPU_PINNING": False,  # pinned, two replicas of one machine land on the same core
            **options,
        }
        side = model.inputs[0].partial_shape[1].get_length()
        self._lock, self._requests = threading.Lock(), {}
        for size in SIZES:
            fixed = model.clone()
            fixed.reshape([size, side, side])
            self._requests[size] = core.compile_model(fixed, "CPU", settings).create_infer_request()

    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8."""
        with self._lock:
            return run_in_pieces(images, self._run)

    def _run(self, images: Tensor) -> Outputs:
        request = self._requests[len(images)]
        logits, features = request.infer([images.contiguous().numpy()], share_inputs=True, share_outputs=True).values()
        return Outputs(torch.tensor(logits), torch.tensor(features))  # copies: the request writes there again
