"""What a model must have shown before it may become the champion: rules over numbers that the caller measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, Field

PATIENTS = "patients"  # the check that no other model can change
HIGHER = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "accuracy_at_90")  # numbers of which more is better


class Rule(BaseModel, frozen=True, extra="forbid"):
    """The gate's numbers; they are written into the audit with every decision."""

    metric: str = Field("macro_f1", pattern=f"^({'|'.join(HIGHER)})$", description="one of " + ", ".join(HIGHER))
    margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="The champion may be better by less than this, at the 95% interval's lower end; a fold of 45 "
        "patients bounds a difference to a few points.",
    )
    most_ece: float = Field(0.15, ge=0, le=1, description="Largest calibration error.")
    least_patients: int = Field(
        10,
        ge=2,
        description="Fewest patients that a model is judged by; of ten without an error a quarter may be wrong.",
    )


@dataclass(frozen=True)
class Check:
    """One question of the gate, and what it found."""

    name: str
    passed: bool
    found: str
    expected: str


@dataclass(frozen=True)
class Judgement:
    """All checks by one rule; `forced` is the reason of whoever went past them."""

    rule: Rule = field(default_factory=Rule)
    checks: Sequence[Check] = ()
    forced: str = ""

    @property
    def passed(self) -> bool:
        """Whether there were checks and none failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Say it for the audit."""
        checks = [asdict(check) for check in self.checks]
        return {"rule": self.rule.model_dump(), "checks": checks, "forced": self.forced or None}


def has_patients(rule: Rule, metrics: Mapping[str, Any]) -> Check:
    """Ask for patients enough to be judged by: two on whom two models agree prove nothing."""
    count = metrics["patients"]
    return Check(PATIENTS, count >= rule.least_patients, f"{count} patients", f"at least {rule.least_patients}")


def beats_baselines(rule: Rule, metrics: Mapping[str, Any]) -> Check:
    """Ask for a higher number than every baseline's on the same slices.

    One that only votes is no surer of one slice than of another: at any coverage it is as right as it is of all.
    """
    said = {
        name: one["accuracy"] if one[rule.metric] is None and rule.metric == "accuracy_at_90" else one[rule.metric]
        for name, one in metrics["baselines"].items()
    }
    rivals = {name: number for name, number in said.items() if number is not None}
    best = max(rivals, key=lambda name: rivals[name], default=None)
    own = metrics[rule.metric]
    if best is None:
        return Check("baselines", False, "an evaluation without baselines", "one with them")
    passed = own is not None and own > rivals[best]
    return Check("baselines", passed, f"{rule.metric} {_said(own)}", f"more than {rivals[best]:.3f}, of {best}")


def is_calibrated(rule: Rule, metrics: Mapping[str, Any]) -> Check:
    """Ask for a calibration error within the limit."""
    error = metrics["ece"]
    passed = error is not None and error <= rule.most_ece
    return Check("calibration", passed, f"a calibration error of {_said(error)}", f"at most {rule.most_ece:g}")


def not_worse(rule: Rule, difference: Sequence[float] | None, *, than: str) -> Check:
    """Ask that the interval of the difference to the champion, on the same patients, does not reach past the margin."""
    expected = f"{rule.metric} at most {rule.margin:g} below the champion's, at the lower end of the 95% interval"
    if difference is None:
        found = f"too few patients, or no {rule.metric} of one of the two, to compare it with {than}"
        return Check("champion", False, found, expected)
    low, high = difference
    return Check("champion", low >= -rule.margin, f"{low:+.3f} to {high:+.3f} beside {than}", expected)


def _said(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
