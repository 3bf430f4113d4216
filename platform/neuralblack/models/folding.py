"""Fold BatchNorm into the convolution in front of it: one layer less to run, the same outputs to fp32 rounding."""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norms(stages: nn.Module) -> fx.GraphModule:
    """Copy a network in eval mode and fold every BatchNorm whose input is a convolution that nothing else reads.

    Other norms stay as they are, and so does a BatchNorm that stands elsewhere (DenseNet's) or where no trace leads.
    What a BatchNorm class does behind its normalisation stays: timm's BatchNormAct2d holds dropout and activation as
    its children, in that order. A BatchNorm of running statistics only (affine=False) is folded too.

    Args:
        stages: (B, C, H, W) float32 -> anything.

    Returns:
        A module of the same inputs and outputs, in channels_last, that needs no gradient.

    """
    stages = copy.deepcopy(stages).eval().requires_grad_(False)
    graph = _Tracer().trace(stages)
    folded = fx.GraphModule(stages, graph)
    modules = dict(folded.named_modules())
    for node in graph.nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        source = node.args[0]
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            _fold(conv, norm)
            folded.set_submodule(str(node.target), nn.Sequential(*norm.children()))
    folded.recompile()
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class _Tracer(fx.Tracer):
    """torch.fx looks into modules of other packages; here those stay whole in which there is nothing to fold.

    So does one whose forward pass asks for a size or a value, which a trace does not know.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or super().is_leaf_module(m, module_qualified_name):
            return True
        return not isinstance(m, nn.Sequential) and not any(isinstance(each, nn.BatchNorm2d) for each in m.modules())

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        last = next(reversed(self.graph.nodes))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # the edge of other packages' code, which does with a proxy what it does with a tensor
            for node in itertools.takewhile(lambda node: node is not last, reversed(list(self.graph.nodes))):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Change a convolution's weights to those of both; in float64, so that only the result is rounded."""
    assert norm.running_mean is not None, "a network of MODELS keeps statistics"
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight.double(),
        _double(conv.bias),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        _double(norm.weight),
        _double(norm.bias),
    )
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def _double(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.double()
