"""CUDA graphs: a whole forward pass is one launch, for each batch size."""

import threading
from typing import Any

import torch
from torch import Tensor

from neuralblack.errors import InputError
from neuralblack.inference.outputs import Forward, Outputs
from neuralblack.inference.static_batches import GPU_SIZES, run_in_pieces
from neuralblack.inference.whole_network import WholeNetwork, whole_network
from neuralblack.models.execution import exact_convolutions
from neuralblack.registry.model_folder import ModelFolder

WARM_UP = 3  # runs before a capture, so that libraries choose and allocate outside it, as torch's CUDA notes ask for


def cuda(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device) -> Forward:
    """Load a checked folder's weights on a GPU and capture a graph for each of GPU_SIZES."""
    if device.type != "cuda":
        raise InputError("engine cuda", found=f"the device {device.type}", expected="a GPU", fix="--engine auto")
    return Graphs(whole_network(folder, dtype=dtype).to(device), device)


class Graphs:
    """Captured graphs that share one memory pool; callable from any thread, one call at a time.

    Slices go through pinned memory, so that copies don't hold up the thread that makes them.
    """

    def __init__(self, network: WholeNetwork, device: torch.device) -> None:
        self._lock, self._stream = threading.Lock(), torch.cuda.Stream(device)
        self._graphs: dict[int, _Graph] = {}
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode(), torch.cuda.device(device):
            for size in GPU_SIZES:  # the largest first: the others fit into its memory
                self._graphs[size] = _Graph(network, size, device, self._stream, pool)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8 on the CPU."""
        with self._lock:
            return run_in_pieces(images, lambda piece: self._graphs[len(piece)](piece), GPU_SIZES)


class _Graph:
    """One batch size: buffers in pinned memory and on the GPU, and the graph between them."""

    def __init__(
        self, network: WholeNetwork, size: int, device: torch.device, stream: torch.cuda.Stream, pool: Any
    ) -> None:
        shape, self._stream = (size, network.stored, network.stored), stream
        self._waiting = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._inputs = torch.zeros(shape, dtype=torch.uint8, device=device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), exact_convolutions():
            for _ in range(WARM_UP):
                network(self._inputs)
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # By default a capture is void where any other thread allocates: a champion answers while this is loaded.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._outputs = network(self._inputs)
        self._said = [torch.empty(output.shape, dtype=output.dtype, pin_memory=True) for output in self._outputs]

    def __call__(self, images: Tensor) -> Outputs:
        """Run exactly this many slices."""
        self._waiting.copy_(images)
        with torch.cuda.stream(self._stream):
            self._inputs.copy_(self._waiting, non_blocking=True)
            self._graph.replay()
            for said, output in zip(self._said, self._outputs, strict=True):
                said.copy_(output, non_blocking=True)
        self._stream.synchronize()
        logits, features = (said.clone() for said in self._said)  # the next call writes there again
        return Outputs(logits, features)
