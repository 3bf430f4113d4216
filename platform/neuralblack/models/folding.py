"""Fold BatchNorm into the convolution in front of it: one layer less to run, the same outputs to fp32 rounding."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Net = TypeVar("Net", bound=nn.Module)


def fold_stages(stages: nn.Sequential, *, size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Fold a network's stages: (B, 1, size, size) float32 -> all before the last, the last, and the head, one each.

    Each is folded by itself: what stands between them is read by more than the next stage, so no pair lies across.
    """
    example = torch.zeros(1, 1, size, size)
    before = fold_batch_norms(stages[:-2], example)
    with torch.no_grad():
        last = fold_batch_norms(stages[-2], before(example))
    return before, last, stages[-1]


def fold_batch_norms(stages: Net, example: Tensor) -> Net:
    """Copy a network in eval mode and fold every BatchNorm whose input is a convolution that nothing else reads.

    Other norms stay as they are, and so does a BatchNorm that stands elsewhere (DenseNet's). What a BatchNorm class
    does behind its normalisation stays: timm's BatchNormAct2d holds dropout and activation as its children, in that
    order. A BatchNorm of running statistics only (affine=False) is folded too.

    Who reads what is seen in one forward pass, by this thread alone: a replica folds its challenger while it answers.
    torch.fx, which would not need to run anything, exchanges nn.Module.__call__ of the whole process for as long.

    Args:
        stages: (B, C, H, W) float32 -> anything.
        example: (B, C, H, W) float32 that `stages` takes; its values do not matter.

    Returns:
        A module of the same kind, inputs and outputs, in channels_last, that needs no gradient.

    """
    folded = copy.deepcopy(stages).eval().requires_grad_(False)
    readers = _Readers(folded)
    with torch.no_grad(), readers:
        outputs = folded(example)
    for conv, norm in readers.pairs(outputs):
        _fold(conv, norm)
        for name, module in list(folded.named_modules(remove_duplicate=False)):
            if module is norm:
                folded.set_submodule(name, nn.Sequential(*norm.children()))
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


_QUESTIONS = {  # what is asked of a tensor without reading its numbers
    Tensor.dim,
    Tensor.is_contiguous,
    Tensor.is_floating_point,
    Tensor.numel,
    Tensor.size,
    Tensor.stride,
    *(
        getattr(Tensor, name).__get__
        for name in ("device", "dtype", "is_cuda", "layout", "ndim", "requires_grad", "shape")
    ),
}


@dataclass(frozen=True)
class _Given:
    """What a convolution gave, kept so that no other tensor gets its id, and who read it: a norm, or None."""

    maps: Tensor
    conv: nn.Conv2d
    readers: list[nn.BatchNorm2d | None] = field(default_factory=list)


class _Readers(TorchFunctionMode):
    """Sees every call of torch in its own thread: what convolutions give, and what reads it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        modules = list(network.modules())
        self._convs = {id(each.weight): each for each in modules if isinstance(each, nn.Conv2d)}
        self._norms = {id(each.running_mean): each for each in modules if isinstance(each, nn.BatchNorm2d)}
        self._given: dict[int, _Given] = {}  # by the id of the tensor
        self._calls: Counter[nn.Module] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _QUESTIONS:
            return result
        read = [id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        norm = next((self._norms[each] for each in read if each in self._norms), None)
        conv = next((self._convs[each] for each in read if each in self._convs), None)
        self._calls.update(each for each in (norm, conv) if each is not None)
        self._note(read, norm)
        if conv is not None and isinstance(result, Tensor):
            self._given[id(result)] = _Given(result, conv)
        return result

    def pairs(self, outputs: Any) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Go through the convolutions that one norm alone reads, with it; `outputs` are read by the caller."""
        self._note(map(id, tree_leaves(outputs)), None)
        for given in self._given.values():
            match given.readers:
                case [nn.BatchNorm2d() as norm] if self._calls[norm] == self._calls[given.conv] == 1:
                    yield given.conv, norm

    def _note(self, read: Iterable[int], reader: nn.BatchNorm2d | None) -> None:
        for each in read:
            if each in self._given:
                self._given[each].readers.append(reader)


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
