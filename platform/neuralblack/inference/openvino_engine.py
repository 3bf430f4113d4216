"""OpenVINO, the fastest on a CPU (extra `openvino`): graphs of fixed batch sizes, compiled when the model is loaded."""

import importlib
import sys
import threading
from collections import deque
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
    """One OpenVINO model, compiled for each batch size of SIZES; callable from several threads at once.

    A lone call of a few slices runs with all threads. Otherwise each thread takes pieces of its own, of this call or of
    another one: threads that need not wait for each other at every layer lose less to whatever else the cores have to
    do, and with two calls under way none waits for the end of a batch (docs/log.md, 2026-11-25).
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
        self._lock, self._under_way = threading.Lock(), 0
        self._lanes = threads if threads <= MOST_LANES else 1
        self.calls_at_once = 2 if self._lanes > 1 else 1
        alone = [size for size in SIZES if self._lanes == 1 or size < self._lanes]
        self._alone = {size: _Requests(self._compile(model, size, streams=1)) for size in alone}
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
            self._under_way += 1
            alone = self._lanes == 1 or (self._under_way == 1 and len(images) < self._lanes)
        try:
            if alone:
                return run_in_pieces(images, lambda piece: self._run([piece], self._alone))
            shares = images.tensor_split(min(self._lanes, len(images)))
            return self._run([piece for share in shares for piece in share.split(pieces(len(share)))], self._apart)
        finally:
            with self._lock:
                self._under_way -= 1

    def _run(self, parts: list[Tensor], requests: "dict[int, _Requests]") -> Outputs:
        """Start every piece, then collect them; OpenVINO runs as many at a time as it has streams."""
        taken = [(requests[len(part)], requests[len(part)].take(), part.contiguous().numpy()) for part in parts]
        for _, request, pixels in taken:
            request.start_async([pixels], share_inputs=True)
        for _, request, _ in taken:
            request.wait()
        # Copies: whoever takes the request next lets it write there again.
        answers = [
            Outputs(*(torch.tensor(request.get_output_tensor(index).data) for index in range(2)))
            for _, request, _ in taken
        ]
        for pool, request, _ in taken:
            pool.give(request)
        return answers[0] if len(answers) == 1 else joined(answers)


class _Requests:
    """Requests of one compiled model, made as they are first needed. A failed one is not given back."""

    def __init__(self, compiled: Any) -> None:
        self._compiled, self._idle = compiled, deque([compiled.create_infer_request()])

    def take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def give(self, request: Any) -> None:
        self._idle.append(request)
