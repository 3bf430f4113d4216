"""OpenVINO, the fastest on a CPU (extra `openvino`): graphs of fixed batch sizes, compiled when the model is loaded."""

import importlib
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuralblack.errors import InputError
from neuralblack.inference.outputs import Forward, Outputs
from neuralblack.inference.static_batches import SIZES, joined, pieces, run_in_pieces
from neuralblack.inference.whole_network import WholeNetwork, whole_network
from neuralblack.registry.model_folder import ModelFolder

MOST_LANES = 4  # threads that take slices of their own; with more, a batch of 8 would leave too little for each
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
    """One OpenVINO model, compiled for each batch size of SIZES; callable from any thread, one call at a time.

    A few slices run one after the other with all threads. Where there are as many slices as threads, each thread takes
    its own share of them: threads that need not wait for each other at every layer lose less to whatever else the cores
    have to do (docs/log.md, 2026-11-25).
    """

    def __init__(self, model: Any, precision: str, *, options: Mapping[str, object] = {}) -> None:
        from neuralblack.models.execution import has_bf16

        self._ov, native = import_openvino(), has_bf16(torch.device("cpu"))
        if precision == "bf16" and not native:
            raise InputError(
                "engine openvino-bf16", found="a CPU without bf16", expected="AVX512-BF16 or AMX", fix="--engine auto"
            )
        threads = torch.get_num_threads()  # as many as there are CPUs granted
        self._settings = {
            # what int8 leaves in floating point need not be slower than it must
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" or not native else "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # pinned, two replicas of one machine land on the same core
            **options,
        }
        self._lock, self._lanes = threading.Lock(), threads if threads <= MOST_LANES else 1
        alone = [size for size in SIZES if self._lanes == 1 or size < self._lanes]
        self._alone = {size: self._compile(model, size, streams=1).create_infer_request() for size in alone}
        apart = SIZES if self._lanes > 1 else ()
        self._apart = {size: _Requests(self._compile(model, size, streams=self._lanes)) for size in apart}

    def _compile(self, model: Any, size: int, *, streams: int) -> Any:
        fixed, side = model.clone(), model.inputs[0].partial_shape[1].get_length()
        fixed.reshape([size, side, side])
        hint = "LATENCY" if streams == 1 else "THROUGHPUT"
        settings = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams, **self._settings}
        return self._ov.Core().compile_model(fixed, "CPU", settings)

    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8."""
        with self._lock:
            if self._lanes == 1 or len(images) < self._lanes:
                return run_in_pieces(images, lambda piece: _outputs(_begin(self._alone[len(piece)], piece, wait=True)))
            shares = images.tensor_split(self._lanes)
            parts = [part for share in shares for part in share.split(pieces(len(share)))]
            numbers: Counter[int] = Counter()
            under_way = []
            for part in parts:
                request = self._apart[len(part)][numbers[len(part)]]
                numbers[len(part)] += 1
                under_way.append(_begin(request, part, wait=False))
            for request in under_way:
                request.wait()
            return joined([_outputs(request) for request in under_way])


class _Requests:
    """Requests of one compiled model that may be under way at once, made as they are first needed."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._made = compiled, [compiled.create_infer_request()]

    def __getitem__(self, number: int) -> Any:
        while number >= len(self._made):
            self._made.append(self._compiled.create_infer_request())
        return self._made[number]


def _begin(request: Any, images: Tensor, *, wait: bool) -> Any:
    """Hand slices to a request, and wait for it or not; returns the request."""
    (request.infer if wait else request.start_async)([images.contiguous().numpy()], share_inputs=True)
    return request


def _outputs(request: Any) -> Outputs:
    """Copy what a request has computed: it writes there again."""
    return Outputs(*(torch.tensor(request.get_output_tensor(index).data) for index in range(2)))
