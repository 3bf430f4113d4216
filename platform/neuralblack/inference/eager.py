"""PyTorch as it is, on a CPU or a GPU: BatchNorm folded, channels_last, in fp32 or bf16. Needs nothing more."""

import torch
from torch import Tensor

from neuralblack.inference.outputs import Forward, Outputs, pooled
from neuralblack.models.execution import exact_convolutions
from neuralblack.models.folding import fold_stages
from neuralblack.models.inputs import to_input
from neuralblack.registry.model_folder import ModelFolder, load_weights


def eager(folder: ModelFolder, *, dtype: torch.dtype, device: torch.device) -> Forward:
    """Load a checked folder's weights; the head stays in float32 whatever the backbone computes in."""
    network, stages = folder.network, load_weights(folder).requires_grad_(False)
    # Weights in `dtype` themselves: autocast would cast those that need no gradient again in every call.
    first, last_stage, head = (part.to(device) for part in fold_stages(stages, size=network.size))
    first, last_stage = first.to(dtype), last_stage.to(dtype)

    @torch.inference_mode()
    def run(images: Tensor) -> Outputs:
        with exact_convolutions():
            before = first(to_input(images.to(device), network).to(dtype))
            last = last_stage(before).float()
        return Outputs(head(last).cpu(), pooled(before.float(), last).cpu())

    return run
