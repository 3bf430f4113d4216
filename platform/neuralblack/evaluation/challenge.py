"""The promotion gate: a challenger's evaluation, beside the champion's on the same slices, and then the promotion."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuralblack.config import with_overrides
from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import differences
from neuralblack.evaluation.compare import paired
from neuralblack.evaluation.metrics_file import PREDICTIONS, read_metrics
from neuralblack.inference.engines import build_engine
from neuralblack.registry.aliases import alias_for, alias_now
from neuralblack.registry.gate import Check, Judgement, Rule, beats_baselines, has_patients, is_calibrated, not_worse
from neuralblack.registry.model_folder import ID_DIGITS, ModelFolder, model_path, open_model
from neuralblack.registry.promotion import promote


def challenge(
    run: Path,
    registry: Path,
    *,
    evaluation: Path | None = None,
    champions: Path | None = None,
    overrides: Sequence[str] = (),
    force: str = "",
) -> tuple[ModelFolder, Judgement]:
    """Judge a run's model and make it the champion, or what `alias_for` says.

    Args:
        run: a run or a model folder.
        registry: the registry's folder.
        evaluation: what `evaluate` wrote of this model; may be missing only where the gate is forced.
        champions: of the champion, on the same slices; none given: what it was promoted with.
        overrides: FIELD=VALUE of `Rule`.
        force: the reason to go past the gate; not past an evaluation that is not this model's, for it would be kept.

    Raises:
        InputError: the gate did not pass and was not forced, it cannot be asked, or the evaluation is of another model
            or none.

    """
    rule, source = with_overrides(Rule(), overrides), open_model(model_path(run))
    if evaluation is not None:
        _metrics_of(source.hash, evaluation)
    champion = alias_now(registry, alias_for(source))
    rival = None if champion == source.id else champion
    if rival and champions is None:
        champions = registry / "evaluations" / rival
    try:
        if evaluation is None:
            raise InputError(
                "--evaluation",
                found="nothing",
                expected="what `neuralblack evaluate` wrote of this run",
                fix="neuralblack evaluate RUN DATASET --out REPORT, then --evaluation REPORT; or --force 'REASON'",
            )
        judgement = judge(
            source.hash,
            evaluation,
            rule=rule,
            golden=lambda: build_engine(source),
            gated="gate" in source.calibration or not source.calibration,
            champion=rival,
            champions=champions,
        )
    except InputError as error:
        if not force:
            raise
        judgement = Judgement(rule, [Check("evaluation", False, error.found, error.expected)])
    judgement = replace(judgement, forced=force)
    model = promote(run, registry, judgement, expected=champion, evaluation=evaluation)
    return model, judgement


def judge(
    model_hash: str,
    evaluation: Path,
    *,
    rule: Rule,
    golden: Callable[[], object],
    gated: bool,
    champion: str | None,
    champions: Path | None,
) -> Judgement:
    """Judge a challenger.

    Args:
        model_hash: of the challenger.
        evaluation: what `evaluate` wrote of it.
        rule: the gate's numbers.
        golden: builds an engine of the model, which raises InputError where its golden slices don't come out.
        gated: whether the model knows what it must refuse; one that was refitted on all patients does not.
        champion: the champion's id; None where there is none, and then nothing is asked about it.
        champions: what `evaluate` wrote of the champion.

    Raises:
        InputError: an evaluation is not there, of another model, or of other slices than the champion's.

    """
    metrics = _metrics_of(model_hash, evaluation)
    checks = [
        has_patients(rule, metrics),
        beats_baselines(rule, metrics),
        is_calibrated(rule, metrics),
        _golden(golden),
    ]
    if not gated:
        checks.append(Check("refusal", False, "limits of nothing: a refitted model", "a model that held patients out"))
    if champion:
        if champions is None or not (champions / PREDICTIONS).exists():
            raise InputError(
                champions or "the registry",
                found=f"no evaluation of the champion {champion}",
                expected="one of the same slices, to compare with",
                fix=f"neuralblack evaluate REGISTRY/models/{champion} DATASET --out R, then --champion-evaluation R",
            )
        known = read_metrics(champions)["model"]
        if not champion.endswith(f"-{known['hash'][:ID_DIGITS]}"):
            raise InputError(
                champions,
                found=f"an evaluation of {known['name']}",
                expected=f"one of the champion {champion}",
                fix=f"neuralblack evaluate REGISTRY/models/{champion} DATASET --out R, then --champion-evaluation R",
            )
        ours, theirs = paired(evaluation, champions)
        checks.append(not_worse(rule, differences((ours, theirs))[rule.metric], than=champion))
    return Judgement(rule, checks)


def _metrics_of(model_hash: str, evaluation: Path) -> dict[str, Any]:
    """Read what `evaluate` wrote of a model; raises InputError where it wrote it of another one."""
    metrics = read_metrics(evaluation)
    found = metrics["model"]
    if found.get("hash") != model_hash:
        raise InputError(
            evaluation,
            found=f"an evaluation of {found.get('name', 'a model without a name')}",
            expected=f"one of the model with the hash {model_hash[:12]}",
            fix="evaluate this run: neuralblack evaluate RUN DATASET --out REPORT",
        )
    return metrics


def _golden(build: Callable[[], object]) -> Check:
    expected = "an engine that answers them as eager fp32 does"
    try:
        build()
    except InputError as error:
        return Check("golden slices", False, error.found, expected)
    return Check("golden slices", True, "the answers of eager fp32", expected)
