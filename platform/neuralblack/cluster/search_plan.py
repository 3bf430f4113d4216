"""What a search was asked for, checked before a trial starts: who draws the trials' values, and what a trial takes."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from neuralblack.cluster.space import GRID, Space, check_space, drawn, schedules_of
from neuralblack.config import TrainConfig
from neuralblack.errors import InputError

SEARCHES: dict[str, str] = {
    # No PBT: it copies weights between trials of different schedules, so a stage would learn in one and stay frozen in
    # the next, the cosine of the learning rate would start in its middle, and nothing could be shared any more.
    "random": "values drawn at random, and every point of a grid where the space has one",
    "optuna": "Optuna's TPE, which draws where earlier trials did well (extra `optuna`)",
}
DRIVER_CPU = 0.01  # of a trial that only starts workers and waits for them


@dataclass(frozen=True)
class Plan:
    """A search's trials: what they share, what each may try, what each takes."""

    config: TrainConfig  # what all share
    space: Space
    search: str  # a key of SEARCHES
    draws: int  # configurations; each with every point of the grid, where the space has one
    points: list[dict[str, Any]] | None  # of all trials; None where each depends on how the earlier ones did
    workers: int  # of one trial
    gpus: bool  # one for each worker

    @property
    def trials(self) -> int:
        """How many there will be."""
        return self.draws if self.points is None else len(self.points)

    @property
    def first(self) -> dict[str, Any]:
        """The first trial's values: the run that would be without a search, as far as the space holds it."""
        return drawn(self.space, self.config, draws=1, seed=self.config.seed)[0]

    @property
    def schedules(self) -> list[dict[int, int]]:
        """The unfreeze schedules that trials may have."""
        return schedules_of(self.config, self.space)

    @property
    def of_workers(self) -> bool:
        """Whether a trial only starts workers and waits for them, in place of training by itself."""
        return self.workers > 1

    @property
    def each(self) -> dict[str, float]:
        """What one worker takes."""
        return {"CPU": 1.0, "GPU": float(self.gpus)}  # trials side by side use CPUs better than threads

    @property
    def driver_cpu(self) -> float:
        """What a trial takes beside its workers."""
        return DRIVER_CPU * self.of_workers

    @property
    def of_a_trial(self) -> dict[str, float]:
        """What a trial and its workers take together."""
        together = {name: value * self.workers for name, value in self.each.items() if value}
        return together | {"CPU": together["CPU"] + self.driver_cpu}

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a search to go on."""
        return {"space": said_of(self.space), "trials": self.draws, "workers": self.workers, "by": self.search}


def planned(config: TrainConfig, space: Space, *, search: str, draws: int, workers: int, gpus: bool) -> Plan:
    """Check a search, and draw its trials where that can be done beforehand; raises InputError."""
    check_space(config, space)
    return Plan(config, space, search, draws, points_of(search, space, config, draws=draws), workers, gpus)


def points_of(search: str, space: Space, config: TrainConfig, *, draws: int) -> list[dict[str, Any]] | None:
    """Draw all configurations beforehand, or None where each depends on how the earlier ones did.

    Raises InputError for a search that is not known, not installed, or has a grid where it can't.
    """
    if search not in SEARCHES:
        raise InputError("--search", found=search, expected="one of " + ", ".join(SEARCHES), fix="--search NAME")
    if search == "random":
        return drawn(space, config, draws=draws, seed=config.seed)
    grids = [name for name, domain in space.items() if isinstance(domain, dict)]
    if grids:
        raise InputError(
            f"search space {grids[0]}", found="a grid", expected="ranges and choices for optuna", fix="--search random"
        )
    if find_spec("optuna") is None:
        raise InputError(
            "--search optuna", found="no optuna", expected="the extra `optuna`", fix="pip install 'neuralblack[optuna]'"
        )
    return None


def said_of(space: Space) -> dict[str, str]:
    """Write a space down, for the run's facts."""
    return {
        name: f"grid {domain[GRID]}" if isinstance(domain, dict) else domain.domain_str
        for name, domain in space.items()
    }
