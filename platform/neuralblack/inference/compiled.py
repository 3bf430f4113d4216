"""torch.compile with frozen weights, one program for each batch size; needs a C++ compiler and minutes to load.

On a CPU it is behind OpenVINO, so `auto` never takes it; it is there where OpenVINO cannot be.
"""

import threading

import torch
from torch import Tensor

from neuralblack.inference.outputs import Forward, Outputs
from neuralblack.inference.static_batches import SIZES, run_in_pieces
from neuralblack.inference.whole_network import whole_network
from neuralblack.models.compiler import need_compiler
from neuralblack.models.execution import exact_convolutions
from neuralblack.registry.model_folder import ModelFolder


def compiled(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device) -> Forward:
    """Compile a checked folder's network for every batch size; raises InputError where there is no compiler."""
    need_compiler("engine compile", instead="--engine auto")
    network = whole_network(folder, dtype=dtype).to(device)
    # fullgraph: where torch would give up and run eager code without a word, it raises.
    program = torch.compile(network, dynamic=False, fullgraph=True, options={"freezing": True})
    lock = threading.Lock()

    @torch.inference_mode()
    def run_piece(images: Tensor) -> Outputs:
        with exact_convolutions():  # a compiled program, too, asks cuDNN for those
            logits, features = program(images.to(device))
        return Outputs(logits.cpu(), features.cpu())

    def run(images: Tensor) -> Outputs:
        with lock:
            return run_in_pieces(images, run_piece)

    for size in SIZES:
        run(torch.zeros(size, network.stored, network.stored, dtype=torch.uint8))
    return run
