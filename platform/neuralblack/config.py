"""Every number a run can change, with its range and its meaning; `--set FIELD=VALUE` overrides one."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from neuralblack.errors import InputError

TIMM = "timm:"  # in front of the name of one of timm's networks

Model = TypeVar("Model", bound=BaseModel)


class AugmentationConfig(BaseModel, frozen=True, extra="forbid"):
    """How far a training view may differ from its slice; all zero shows the slice itself."""

    rotate_degrees: float = Field(15.0, ge=0, le=180, description="Largest rotation either way, in degrees.")
    shift: float = Field(0.06, ge=0, le=0.5, description="Largest shift either way, as a share of the side.")
    scale: float = Field(0.1, ge=0, lt=1, description="Largest change of size either way, as a share of the size.")
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a left-right mirror image.")
    gain: float = Field(0.15, ge=0, lt=1, description="Largest change of contrast either way, as a share.")
    gamma: float = Field(0.2, ge=0, lt=1, description="Largest exponent either way of 1, on intensities in 0..1.")

    def times(self, strength: float) -> "AugmentationConfig":
        """Widen or narrow every range but the mirror image's; no further than its limit.

        >>> AugmentationConfig().times(2).rotate_degrees
        30.0
        """
        most = {"rotate_degrees": 180.0, "shift": 0.5, "scale": 0.99, "gain": 0.99, "gamma": 0.99}
        return self.model_copy(update={name: min(getattr(self, name) * strength, end) for name, end in most.items()})


class TrainConfig(BaseModel, frozen=True, extra="forbid"):
    """One training run. The defaults are the reference recipe; `cluster/space.py` says what a search varies."""

    model: str = Field(
        "resnet50",
        description="A key of neuralblack.models.table.MODELS, or timm:NAME, a network of timm (extra `timm`).",
    )
    weights: str = Field(
        "imagenet",
        description="imagenet: the network's published weights; none: random; else a file's path, published or of a "
        "model folder.",
    )
    input: Literal["slice", "head", "roi"] = Field(
        "slice",
        description="What the network is shown of a slice: all of it; the head, cut from its background; or roi, the "
        "tumour's box with a margin, which somebody must have drawn.",
    )
    size: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="Pixels a side of what the network is shown; none given: as its weights were made for. Above those "
        "that slices are stored with (prepare --size) it shows them enlarged, without more to see.",
    )
    schedule: str | dict[int, int] = Field(
        "top-down",
        description="A key of neuralblack.training.unfreezing.SCHEDULES, or {epoch: stages that learn from it on}.",
    )
    lr: float = Field(1e-3, gt=0, lt=1, description="Peak learning rate of the head; each stage below gets less.")
    lr_decay: float = Field(
        2.6, ge=1, le=100, description="Each stage learns so many times slower than the one above (ULMFiT, 2018)."
    )
    epochs: int = Field(12, ge=1, le=10_000, description="Full passes over the training patients.")
    batch_size: int = Field(
        32, ge=1, description="Slices per optimiser step over all workers together, so more GPUs keep the recipe."
    )
    weight_decay: float = Field(0.01, ge=0, lt=1, description="AdamW's decoupled weight decay.")
    warmup_epochs: float = Field(
        1.0,
        ge=0,
        le=10_000,
        description="Epochs of linear warm-up before the cosine decay, and of a stage's own when it is unfrozen.",
    )
    clip_norm: float = Field(1.0, gt=0, le=1e6, description="Gradients are scaled down to this total norm.")
    loss: str = Field("cross-entropy", description="cross-entropy; focal; or log-sigmoid, one class against the rest.")
    guidance: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of a loss term that asks the class activation map to lie in the tumour's box; 0: none. It "
        "counts in epochs in which the last stage before the head learns: else there is no map to move.",
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="Share of the target spread over all classes.")
    class_weights: Literal["balanced", "none"] = Field(
        "balanced", description="balanced: a slice weighs the inverse of its class's share; none: 1."
    )
    batch_norm: Literal["auto", "eval", "local"] = Field(
        "auto",
        description="Statistics in learning stages: eval keeps them, local learns them from each worker's batches; "
        "auto is eval for pretrained weights, else local.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where the device computes it natively, else fp32."
    )
    compile: bool = Field(
        False,
        description="Compile the stages that learn (torch.compile): half a minute and more at the start of each phase, "
        "then faster on a GPU; needs a C++ compiler. Other last bits than without.",
    )
    shuffle_window: int = Field(
        0,
        ge=0,
        description="Slices of the dataset that are mixed at a time, read from few shards; 0: all. Of shards on a node "
        "without room for all of them, about eight shards.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds weights, shuffling and augmentation, on every worker.")
    train_folds: tuple[int, ...] | None = Field(None, description="Folds to learn from; none given: all the others.")
    validation_folds: tuple[int, ...] = Field(
        (2,),
        description="Folds to choose epochs and trials on; []: nothing is chosen or calibrated, the last epoch counts.",
    )
    test_folds: tuple[int, ...] = Field((1,), description="Folds that nothing is chosen on; `evaluate` uses them once.")
    augmentation: AugmentationConfig = Field(AugmentationConfig(), description="The views of a training slice.")
    augmentation_strength: float = Field(
        1.0, ge=0, le=5, description="Multiplies every range of `augmentation` but the mirror image's probability."
    )

    @property
    def views(self) -> AugmentationConfig:
        """The ranges that views are drawn from."""
        return self.augmentation.times(self.augmentation_strength)


def with_overrides(config: Model, overrides: Sequence[str]) -> Model:
    """Apply `FIELD=VALUE` texts (`augmentation.flip=0` reaches inside; values are YAML); raises InputError.

    >>> with_overrides(TrainConfig(), ["lr=1e-4", "train_folds=[1, 2]"]).train_folds
    (1, 2)
    """
    values: dict[str, Any] = config.model_dump()
    for text in overrides:
        path, equals, value = text.partition("=")
        *parents, name = path.strip().split(".")
        place = values
        for parent in parents:
            place = place.get(parent, {}) if isinstance(place, dict) else {}
        if not equals or not isinstance(place, dict) or name not in place:
            known = sorted(place) if isinstance(place, dict) and place else sorted(values)
            raise InputError(
                f"--set {text}",
                found=f"the field {path!r}" if equals else "no '='",
                expected=_listed(known),
                fix="take one of these names" if equals else "FIELD=VALUE",
            )
        place[name] = _value(value, text)
    return checked(type(config), values, where="--set")


def checked(kind: type[Model], values: object, *, where: object) -> Model:
    """Build a config from plain values; a wrong one becomes one InputError that names the field and its range."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        example = first["input"] if isinstance(first["input"], int) else 1
        names, kinds = first["loc"], {"tuple_type": f"a list, such as [{example}]"}
        if names[1:] == ("str",):  # of what may be a name or a mapping, pydantic says first why it is no name
            names, kinds = names[:1], {"string_type": "a name, or a mapping such as {0: 1, 3: 2}"}
        path = ".".join(str(part) for part in names) or "the whole"
        field = kind.model_fields.get(str(first["loc"][0])) if first["loc"] else None
        message = first["msg"][0].lower() + first["msg"][1:]
        wanted = message.removeprefix("input should be ")
        if wanted != message and not wanted.startswith(("a ", "an ")):
            wanted = f"a value {wanted}"
        if first["input"] != first["input"]:  # NaN alone is not itself
            wanted = "a number"
        wanted = kinds.get(first["type"], wanted)
        described = field.description if field else None
        raise InputError(
            f"{where} {path}",
            found=repr(first["input"]),
            expected=wanted,
            fix=f"give another; it is: {described}" if described else _listed(sorted(kind.model_fields)),
        ) from None


def _value(text: str, where: str) -> object:
    try:
        value, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise InputError(
            f"--set {where}", found=text, expected="a YAML value", fix="quote it: 'FIELD=[1, 2]'"
        ) from None
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None or None in value.values():  # {0:1} is a key `0:1` without a value
            raise InputError(
                f"--set {where}",
                found="no space behind a colon, or no value" if twice is None else f"{twice} twice",
                expected="each key once, with its value",
                fix="such as --set 'schedule={0: 1, 3: 2}'",
            )
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a text
        except ValueError:
            return value
    return value


def _listed(names: Sequence[str]) -> str:
    return "one of " + ", ".join(names)
