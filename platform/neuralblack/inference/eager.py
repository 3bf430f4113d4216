"""PyTorch as it is, on a CPU or a GPU: BatchNorm folded, channels_last, in fp32 or bf16. Needs nothing more."""

import torch
from torch import Tensor

from neuralblack.inference.outputs import Forward, Outputs, pooled
from neuralblack.models.execution import exact_convolutions
from neuralblack.models.folding import fold_batch_norms
from neuralblack.models.inputs import to_input
from neuralblack.registry.model_folder import ModelFolder, load_weights


def eager(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device) -> Forward:
    """Load a checked folder's weights; the head stays in float32 whatever the backbone computes in."""
    network, stages = folder.network, load_weights(folder).requires_grad_(False)
    # Weights in `dtype` themselves: autocast would cast those that need no gradient again in every call.
    backbone = [fold_batch_norms(part).to(device, dtype) for part in (stages[:-2], stages[-2:-1])]
    head = stages[-1].to(device)

    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        with exact_convolutions():
            before = backbone[0](to_input(images.to(device), network).to(dtype))
            last = backbone[1](before).float()
        return Outputs(head(last).cpu(), pooled(before.float(), last).cpu())

    return run
