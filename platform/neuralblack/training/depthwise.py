"""Gradients of depthwise convolutions in bf16 on a CPU, where torch's own take most of a step.

oneDNN, as torch 2.13 has it, has no fast bf16 kernel for the gradients of a depthwise convolution with a stride, a
dilation or more than 3 x 3 taps; its float32 kernels are several times faster (docs/log.md, by layer). So those layers'
gradients are computed in float32, from the same bf16 numbers. The forward pass keeps its bits.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from neuralblack.models.execution import Execution

FAST_TAPS = 3  # a side


def fast_gradients(execution: Execution, *, compiled: bool) -> AbstractContextManager[object]:
    """Make what stands around a training step's forward pass; nothing on a GPU, in float32, or in a compiled program.

    torch.compile makes gradients of its own, and would see the mode as a part of the program.
    """
    is_slow = execution.device.type == "cpu" and execution.dtype == torch.bfloat16
    return DepthwiseGradients() if is_slow and not compiled else nullcontext()


class DepthwiseGradients(TorchFunctionMode):
    """Around a forward pass on a CPU: the depthwise convolutions that would learn slowly get other gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is nn.functional.conv2d and not kwargs and len(args) == 7 and _is_slow(*args):
            tensors = [each if each is None else each.to(torch.bfloat16) for each in args[:3]]  # as autocast does
            return _Convolution.apply(*tensors, *args[3:])  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _is_slow(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> bool:
    if not isinstance(padding, tuple) or not isinstance(stride, tuple) or not isinstance(dilation, tuple):
        return False  # not a layer's call
    in_bf16 = inputs.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    is_depthwise = groups > 1 and groups == inputs.shape[1] == weight.shape[0]
    is_large = max(*stride, *dilation) > 1 or max(weight.shape[2:]) > FAST_TAPS
    return in_bf16 and is_depthwise and is_large and torch.is_grad_enabled()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.how = (None if bias is None else list(bias.shape), stride, padding, dilation, False, (0, 0), groups)
        return nn.functional.conv2d(inputs, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors = [each.float() for each in (gradient, *ctx.saved_tensors)]
        found = torch.ops.aten.convolution_backward(*tensors, *ctx.how, list(ctx.needs_input_grad[:3]))
        return (*(each if each is None else each.to(torch.bfloat16) for each in found), None, None, None, None)
