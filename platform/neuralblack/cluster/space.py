"""What a search tries: fields of TrainConfig with the values they may take, and the configurations drawn from them."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from neuralblack.config import TrainConfig, checked, with_overrides
from neuralblack.data.crops import NEED_BOX
from neuralblack.errors import InputError
from neuralblack.models.heads import loss_of
from neuralblack.registry.model_folder import split_behind
from neuralblack.training.recipe import check
from neuralblack.training.unfreezing import schedule_of

Space = Mapping[str, Any]  # a field of TrainConfig -> a domain of Ray Tune's, or tune.grid_search([...])

DEFAULT_SPACE: dict[str, Any] = {
    "lr": tune.loguniform(3e-4, 5e-3),
    "lr_decay": tune.uniform(1.5, 4.0),  # of a stage against the one above
    "schedule": tune.choice(["head-only", "probe-then-all", "top-down", "top-down-slowly", "all"]),
    "weight_decay": tune.loguniform(1e-3, 1e-1),
    "label_smoothing": tune.uniform(0.0, 0.1),
    "loss": tune.choice(["cross-entropy", "focal", "log-sigmoid"]),
    "input": tune.choice(["slice", "head"]),
    "augmentation_strength": tune.choice([0.5, 1.0, 1.5]),  # few values: trials of one strength share their views
}
GRID = "grid_search"  # the key that tune.grid_search makes
OF_THE_SPLIT = (  # trials are compared on the same slices and epochs
    "seed",
    "epochs",
    "train_folds",
    "validation_folds",
    "test_folds",
)
CHECKED_TOGETHER = ("model", "weights", "guidance", "input")  # a value may be right beside some others only
OF_THE_VIEWS = ("model", "weights", "precision", "input", "size", "augmentation", "augmentation_strength")


def with_fixed(overrides: Sequence[str], space: Space) -> tuple[TrainConfig, dict[str, Any]]:
    """Read what all trials share; a field that is given a value is not searched.

    Args:
        overrides: FIELD=VALUE texts.
        space: of the search.

    Returns:
        The shared configuration, and what is left of the space.

    Raises:
        InputError: a wrong text, or nothing is left to search.
    """
    given = {text.partition("=")[0].strip().partition(".")[0] for text in overrides}
    left = {name: domain for name, domain in space.items() if name not in given}
    if not left:
        raise InputError(
            f"--set {' '.join(sorted(given & set(space)))}",
            found="a value for every field that would be searched",
            expected="at least one to try values of",
            fix="neuralblack train with the same --set, or leave one out",
        )
    return with_overrides(TrainConfig(), overrides), left


def check_space(config: TrainConfig, space: Space) -> None:
    """Refuse a space with an unknown field, or with a value that a run would refuse."""
    for name, domain in space.items():
        where = f"search space {name}"
        if name not in TrainConfig.model_fields:
            raise InputError(where, found="no such field", expected="fields of TrainConfig", fix="correct jobs/tune.py")
        if name in OF_THE_SPLIT:
            raise InputError(
                where, found="what all trials must share", expected="fields of one trial", fix=f"--set {name}=VALUE"
            )
        for value in _edges(name, domain):
            tried = checked(TrainConfig, config.model_dump() | {name: value}, where="search space")
            schedule_of(tried.schedule)
            loss_of(tried.loss)
            if tried.input in NEED_BOX:
                raise InputError(
                    f"input {tried.input}",
                    found="an input that a person must draw on every slice",
                    expected="slice or head: a search is for models that stand alone",
                    fix=f"neuralblack train or crossval with --set input={tried.input}",
                )
    edges = {name: _edges(name, space[name]) for name in CHECKED_TOGETHER if name in space}
    for values in itertools.product(*edges.values()) if edges else ():  # else the run's own check has seen them
        together = dict(zip(edges, values, strict=True))
        tried = checked(TrainConfig, config.model_dump() | together, where="search space")
        check(tried, classes=2)
        if "weights" in edges and split_behind(tried):  # of which the run's own check knows nothing
            raise InputError(
                "search space weights",
                found=f"{tried.weights}, of a model that has seen patients",
                expected="published weights",
                fix="--set weights=PATH for all trials",
            )


def schedules_of(config: TrainConfig, space: Space) -> list[dict[int, int]]:
    """List the unfreeze schedules that trials may have."""
    choices = _edges("schedule", space["schedule"]) if "schedule" in space else [config.schedule]
    return [schedule_of(each) for each in choices]


def drawn(space: Space, config: TrainConfig, *, draws: int, seed: int) -> list[dict[str, Any]]:
    """Draw configurations; those that see the same views stand together, so that they share what is still there.

    The first is the run without a search, as far as the space holds it.

    Args:
        space: checked already.
        config: what all trials share, with the values that its fields would have without a search.
        draws: of the random fields; each is combined with every point of the grid, where the space has grids.
        seed: the same seed draws the same ones.

    >>> [each["lr"] for each in drawn({"lr": tune.grid_search([0.1, 0.2])}, TrainConfig(), draws=1, seed=0)]
    [0.1, 0.2]
    """
    random = np.random.RandomState(seed)
    grids = {name: domain[GRID] for name, domain in space.items() if isinstance(domain, dict)}
    points = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    found = []
    for draw in range(draws):
        sampled = {
            name: domain.sample(random_state=random) for name, domain in space.items() if isinstance(domain, Domain)
        }
        if draw == 0:
            sampled |= _unsearched(space, config)
        found += [{name: (sampled | point)[name] for name in space} for point in points]
    first = _view_group(found[0])
    return sorted(found, key=lambda params: (_view_group(params) != first, _view_group(params)))


def _unsearched(space: Space, config: TrainConfig) -> dict[str, Any]:
    """List the values that random fields would have without a search, as far as the space holds them."""
    values = {name: getattr(config, name) for name, domain in space.items() if isinstance(domain, Domain)}
    return {name: value for name, value in values.items() if _holds(space[name], value)}


def _holds(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Categorical):
        return value in domain.categories
    below = domain.upper - isinstance(domain, Integer)  # Ray's integers end before it
    return value is not None and bool(domain.lower <= value <= below)


def _view_group(params: Mapping[str, Any]) -> str:
    return json.dumps([params.get(name) for name in OF_THE_VIEWS], default=str)


def _edges(name: str, domain: Any) -> list[Any]:
    """List the values of a choice or a grid, the ends of a range."""
    if isinstance(domain, dict) and isinstance(domain.get(GRID), list):
        return list(domain[GRID])
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Float | Integer):
        return [domain.lower, domain.upper]
    raise InputError(
        f"search space {name}",
        found=repr(domain),
        expected="tune.choice, tune.loguniform, tune.grid_search, …",
        fix="correct jobs/tune.py",
    )
