"""Import torchvision beside a CPU build of torch.

The registry's torchvision is built for CUDA. Beside a CPU torch its compiled operators don't load, and its Python
part then fails on `operator torchvision::nms does not exist`. A classifier never calls them: declaring the two
operators (schemas from torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp) is enough for the import.
Import this module before anything that imports torchvision (timm does).
"""

import torch

_DECLARED: list[torch.library.Library] = []  # a Library undeclares its operators when it is collected


def declare_missing_operators() -> None:
    """Declare `nms` and `qnms` where torch has no CUDA and nobody declared them; does nothing elsewhere."""
    if torch.version.cuda is not None or _DECLARED or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)


declare_missing_operators()
