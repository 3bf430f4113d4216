"""Any network of timm that is a chain of stages, as a row like those of MODELS: `--set model=timm:NAME`.

A published network is cut behind the modules that its `feature_info` names; what stands in front of its pooling belongs
to the last stage, what stands behind it to the head. That its children, in their order, are its forward pass is not
taken for granted: when a row is made its stages are run beside the published network, and where the numbers differ the
network is refused. So are networks whose maps are not (B, C, H, W): there would be nothing to draw heat maps of.
Nothing is dropped by chance, whatever timm's own recipe is: see `_drop_nothing`.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from functools import cache, partial
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from neuralblack.config import TIMM
from neuralblack.errors import InputError, PassingError
from neuralblack.models import torchvision_cpu
from neuralblack.models.network import Network, Stages, one_channel

FITTING = "resnet, resnext, regnet, densenet, efficientnet, mobilenetv3, convnext"  # and more; each row is checked
TOLERANCE = 1e-4  # of the largest logit


def import_timm(where: str) -> Any:
    """Import timm; raises InputError where the extra is missing."""
    torchvision_cpu.declare_missing_operators()
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError(
            where, found="no timm", expected="the extra `timm`", fix="pip install 'neuralblack[timm]'"
        ) from None
    return timm


def timm_version(model: str) -> dict[str, str]:
    """Say which timm a network comes from, for the card; nothing of a row of MODELS."""
    return {"timm": version("timm")} if model.startswith(TIMM) else {}


@cache
def timm_network(name: str) -> Network:
    """Make the row of one of timm's networks, `resnet18` or `resnet18.a1_in1k`; checked, and kept for this process.

    Raises:
        InputError: no timm, an unknown name, or a network that is no chain of stages with maps.

    """
    timm = import_timm(f"model {TIMM}{name}")
    _check_name(timm, name)
    build = partial(timm.create_model, name, pretrained=False)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        published = build().eval()
        for parameter in published.parameters():
            if parameter.ndim <= 1:  # what starts at 0 would hide a whole block from the comparison
                parameter.uniform_(0.5, 1.5)
        try:
            network = _row(name, published, build)
            reason = _difference(published, network)
        except Exception as error:  # the edge: what timm's other families do here raises anything
            reason = f"no chain of stages ({str(error)[:200] or type(error).__name__})"
    if reason:
        raise InputError(
            f"model {TIMM}{name}",
            found=reason,
            expected=f"a convolutional network that is a chain of stages, such as {FITTING}",
            fix="--set model=timm:NAME with another network",
        )
    return network


def _check_name(timm: Any, name: str) -> None:
    base, _, tag = name.partition(".")
    if timm.is_model(base) and (not tag or name in timm.list_pretrained(f"{base}.*")):
        return
    near = get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=5, cutoff=0.5)
    raise InputError(
        "model",
        found=repr(TIMM + name),
        expected="a network of timm" + (", as " + ", ".join(TIMM + each for each in near) if near else ""),
        fix="--set model=timm:NAME; timm.list_models() lists the names",
    )


def _features(published: Any) -> list[dict[str, Any]]:
    """Read where timm takes features of a network, first to last: `module`, `num_chs`."""
    info = published.feature_info
    return list(info if isinstance(info, list) else info.get_dicts())


def _row(name: str, published: Any, build: Callable[[], Any]) -> Network:
    given = published.default_cfg
    channels, height, width = given["input_size"]
    if channels != 3 or height != width:
        raise ValueError(f"an input of {given['input_size']}")
    cuts = tuple(each["module"] for each in _features(published))
    return Network(
        build,
        partial(_stages, cuts=cuts, classifier=given["classifier"]),
        given["first_conv"],
        given["classifier"],
        published.get_submodule(given["classifier"]).in_features,
        size=height,
        mean=sum(given["mean"]) / 3,
        std=sum(given["std"]) / 3,
        imagenet=partial(_pretrained, name),
    )


def _stages(published: nn.Module, head: nn.Module, *, cuts: Sequence[str], classifier: str) -> Stages:
    """Cut behind each of `cuts`; the last stage goes on up to the pooling, which becomes torch's, as in MODELS."""
    parts = _parts(published, (*cuts, classifier))
    names = list(parts)
    pooling = next((at for at, part in enumerate(parts.values()) if at > names.index(cuts[-1]) and _pools(part)), 0)
    if not pooling:
        raise ValueError("no pooling of maps behind its last stage")
    ends = [*(names.index(cut) + 1 for cut in cuts[:-1]), pooling]
    stages: Stages = OrderedDict()
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        inside = {each: parts[each] for each in names[start:end] if not _does_nothing(parts[each])}
        stages[f"layer{number}" if number else "stem"] = nn.Sequential(
            OrderedDict((each.replace(".", "_"), part) for each, part in inside.items())
        )
    behind = [parts[each] for each in names[pooling + 1 : names.index(classifier)] if not _does_nothing(parts[each])]
    if parts[names[pooling]](torch.zeros(1, 1, 2, 2)).ndim == 2:  # it flattens as well
        behind.insert(0, nn.Flatten())
    elif not any(isinstance(part, nn.Flatten) for part in behind):
        behind.append(nn.Flatten())
    stages["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), *behind, head)
    for stage in stages.values():
        _drop_nothing(stage)
    return stages


def _drop_nothing(stage: nn.Module) -> None:
    """Set dropout, drop path and drop block to 0: their masks would depend on the number of workers and on resuming.

    The modules stay, because a head's tensors are named by their places.
    """
    for module in stage.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("drop_prob", "drop_rate"):  # of timm's DropPath and DropBlock2d; of its dense layers
            if getattr(module, name, None):
                setattr(module, name, 0.0)


def _parts(module: nn.Module, wanted: Sequence[str], prefix: str = "") -> dict[str, nn.Module]:
    """List children by their names, in order; one that holds something of `wanted` is replaced by its own children."""
    parts: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        inside = any(each.startswith(f"{prefix}{name}.") for each in wanted)
        parts |= _parts(child, wanted, f"{prefix}{name}.") if inside else {prefix + name: child}
    return parts


def _pools(part: nn.Module) -> bool:
    return isinstance(part, nn.AdaptiveAvgPool2d) or type(part).__name__ == "SelectAdaptivePool2d"  # timm's


def _does_nothing(part: nn.Module) -> bool:
    return isinstance(part, nn.Identity) or (isinstance(part, nn.Dropout) and part.p == 0)


def _difference(published: Any, network: Network) -> str:
    """Run the stages beside the published network, in three channels, and the stem in one; say what is wrong, or ""."""
    model = nn.Sequential(network.stages(published, published.get_submodule(network.head))).eval()
    if len(model) < 3:
        return f"{len(model)} stages, the head among them"
    inputs = torch.randn(1, 3, network.size, network.size)
    expected, maps = published(inputs), inputs
    widths = [each["num_chs"] for each in _features(published)[:-1]]  # of all stages but the last, and the head
    for (name, stage), width in zip_longest(model.named_children(), widths):
        before = maps.clone()
        found = stage(maps)
        if not torch.equal(before, maps):
            return f"a stage that changes its input in place, {name}"
        whole = found.ndim == 4 and min(found.shape[2:]) > 1 and found.shape[1] == (width or found.shape[1])
        if name != "head" and not whole:
            return f"a stage that gives {tuple(found.shape)} instead of maps (B, C, H, W), {name}"
        maps = found
    if not _close(maps, expected):
        return "stages that are not its forward pass when they are run one after another"
    grey = inputs[:, :1]
    expected = model[0](grey.expand(-1, 3, -1, -1))
    one_channel(published, network.stem)
    if not _close(model[0](grey), expected):  # a convolution that normalises its weights, or one of several
        return "a first convolution whose weights cannot be summed over the colours"
    return ""


def _close(found: Tensor, expected: Tensor) -> bool:
    top = float(expected.abs().max())
    return found.shape == expected.shape and float((found - expected).abs().max()) <= TOLERANCE * top < float("inf")


def _pretrained(name: str) -> Mapping[str, Tensor]:
    """Get timm's weights of a network by its own way, from the hub that its configuration names, or its cache."""
    where = f"weights imagenet of {TIMM}{name}"
    timm = import_timm(where)
    if not timm.get_pretrained_cfg(name).has_weights:
        raise InputError(where, found="none published", expected="a network with weights", fix="--set weights=none")
    try:
        with redirect_stdout(sys.stderr):
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the edge: hub, cache and connection raise anything
        raise PassingError(
            where,
            found=f"no download ({type(error).__name__})",
            expected="timm's file of these weights",
            fix="connect once, or copy the file here and --set weights=PATH, or --set weights=none",
        ) from None
    return state
