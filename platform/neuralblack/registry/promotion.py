"""Promotion: a run's model is copied into the registry under its hash and becomes the champion, if it earned it.

registry/models/ID        whole models, never changed
registry/evaluations/ID   what each was promoted with: the next challenger is compared with its predictions
registry/aliases/NAME     which model a name means now
registry/audit.jsonl      every move, with its reason
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from neuralblack.errors import InputError
from neuralblack.files import check_manifest, lock, make_folder, new_folder, read_json
from neuralblack.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    LOCK,
    MARKED,
    alias_for,
    alias_now,
    point_alias,
    read_alias,
    resolve,
)
from neuralblack.registry.audit import AUDIT, ROLL_BACK, Entry, add_entry, earlier, in_force, leads_to, read_audit
from neuralblack.registry.gate import PATIENTS, Check, Judgement
from neuralblack.registry.model_folder import ModelFolder, model_path, open_model

log = logging.getLogger(__name__)

ANY = "any"  # no model has this id
CARD = "README.md"  # of an evaluation: the model's card, Markdown


def promote(
    run: Path,
    registry: Path,
    judgement: Judgement,
    *,
    expected: str | None = ANY,
    evaluation: Path | None = None,
) -> ModelFolder:
    """Copy a run's model into the registry and make it the champion, or what `alias_for` says.

    A model that is there already is not copied again, unless its copy is damaged: then this mends it. A corrupt or
    incomplete run is refused by the file's name, and the alias stays where it was. Two at once wait for each other.

    Args:
        run: a run or a model folder.
        registry: the registry's folder, made where there is none.
        judgement: what the gate found; written into the audit.
        expected: the model that the alias meant when the judgement was made, None for none. Another one by now, and
            nothing moves: of two promotions beside the same champion one wins.
        evaluation: of the model, kept beside it; not in place of the one with which it became what it is: the next
            challenger is compared with that, and a change of it would have no line in the audit.

    Raises:
        InputError: the gate did not pass and was not forced, another promotion was faster, or something is damaged,
            the audit included.

    """
    source = open_model(model_path(run))
    if not judgement.passed and not judgement.forced:
        raise _not_passed(run, [check for check in judgement.checks if not check.passed])
    if evaluation and not evaluation.is_dir():
        raise InputError(
            evaluation, found="no folder", expected="what `neuralblack evaluate` wrote", fix="evaluate the model first"
        )
    alias = alias_for(source)
    make_folder(registry)
    with lock(registry / LOCK):
        before = alias_now(registry, alias)
        if expected not in (ANY, before):
            raise InputError(
                registry,
                found=f"the {alias} {before}, made by somebody else meanwhile",
                expected=f"{expected or 'none'}, beside which this model was judged",
                fix="promote again: it is then judged beside the new one",
            )
        if before != source.id:
            _check_ends(registry)
        model = _take_in(source, registry)
        kept = registry / "evaluations" / source.id
        if evaluation and before == source.id and kept.is_dir():
            log.warning(
                "%s is the %s already, and what it was promoted with stays; to compare with %s: "
                "promote RUN --champion-evaluation %s",
                source.id,
                alias,
                evaluation,
                evaluation,
            )
        elif evaluation:
            with new_folder(kept) as folder:
                shutil.copytree(evaluation, folder, dirs_exist_ok=True)
        if before != source.id:
            _move(registry, alias, before, source.id, action="promote", **judgement.as_json())
    return model


def read_card(registry: Path, model_id: str) -> str | None:
    """Read the card that a model was promoted with; None where that was forced without an evaluation."""
    try:
        return (registry / "evaluations" / model_id / CARD).read_text("utf-8")
    except FileNotFoundError:
        return None


def name_challenger(run: Path, registry: Path) -> ModelFolder:
    """Copy a run's model into the registry and name it the challenger, which may answer behind the champion, unheard.

    Raises:
        InputError: there is no champion, it is this model, or it was trained on another kind of dataset; or something
            is damaged.

    """
    source = open_model(model_path(run))
    if alias_for(source) != CHAMPION:
        raise InputError(
            run,
            found=f"{source.id}, which must be shown a marked tumour",
            expected="a model that can be asked what the champion is asked",
            fix=f"neuralblack promote, which makes it {alias_for(source)}",
        )
    read_alias(registry, CHAMPION)  # no folder is made for a registry without one
    with lock(registry / LOCK):
        champion = resolve(registry, CHAMPION)
        if source.id == champion.id:
            raise InputError(run, found=f"the champion, {source.id}", expected="another model", fix="name another run")
        refuse_unlike(champion, source, where=run)
        before = alias_now(registry, CHALLENGER)
        if before != source.id:
            _check_ends(registry)
        model = _take_in(source, registry)
        if before != source.id:
            _move(registry, CHALLENGER, before, source.id, action="challenge")
    return model


def refuse_unlike(champion: ModelFolder, challenger: ModelFolder, *, where: object) -> None:
    """Refuse a challenger that cannot be asked the champion's slices, or whose answers cannot be compared."""
    for what, ours, theirs in (
        ("classes", champion.classes, challenger.classes),
        ("preprocessing", champion.spec, challenger.spec),
    ):
        if ours != theirs:
            raise InputError(
                where,
                found=f"{challenger.id} with the {what} {theirs}",
                expected=f"those of the champion {champion.id}, {ours}",
                fix="a challenger that was trained on the champion's kind of dataset",
            )


def _not_passed(run: Path, failed: Sequence[Check]) -> InputError:
    """Say each number beside its limit, and what can change it."""
    names = {check.name for check in failed}
    ways = ["evaluate it on more patients (evaluate --folds)"] if PATIENTS in names else []
    ways += ["train a better one"] if names != {PATIENTS} else []
    return InputError(
        run,
        found="; ".join(f"{check.name}: {check.found}, not {check.expected}" for check in failed)
        or "a model that nothing was asked of",
        expected="what the gate asks of a champion",
        fix=f"{', '.join(ways)}, or --force 'REASON', which is written into the audit",
    )


def roll_back(registry: Path, *, alias: str = CHAMPION) -> tuple[str, str]:
    """Let a name mean again what it meant before the newest promotion; once more goes one further back.

    Returns:
        The ids of the model that it meant and of the one that it means now.

    Raises:
        InputError: there was none before, it is damaged, or the audit is.

    """
    _need_audit(registry)
    with lock(registry / LOCK):
        entries, before = _check_ends(registry), alias_now(registry, alias)
        after = earlier(in_force(entries, alias, before), alias)
        if before is None or after is None:
            raise InputError(
                registry, found=f"no {alias} before {before}", expected="two promotions", fix="promote another run"
            )
        resolve(registry, after)
        _move(registry, alias, before, after, action=ROLL_BACK)
    return before, after


def check_audit(registry: Path) -> list[dict[str, object]]:
    """Read the audit, and compare its end with what the names mean; raises InputError where they differ."""
    _need_audit(registry)
    entries = [dict(entry) for entry in _check_ends(registry)]
    for alias, entry in {str(entry["alias"]): entry for entry in entries}.items():
        now = alias_now(registry, alias)
        if now != entry["after"]:
            raise InputError(
                registry,
                found=f"the {alias} {now}, while the audit ends with {entry['after']}",
                expected="every move in the audit",
                fix="a promotion that was cut off: promote its run again; else somebody changed the name by hand",
            )
    return entries


def _check_ends(registry: Path) -> list[Entry]:
    """Read the audit; raise InputError where the audit is not whole, or a name means what its end cannot have led to.

    What a move that was cut off would leave is no fault. Nor is a champion without a line before it whose model may be
    from before there were audits: its card lacks what cards of all versions since say. Which of the two it is, nobody
    can tell.
    """
    first, last = dict[str, str | None](), dict[str, Entry]()
    entries = read_audit(registry)
    for entry in entries:
        first.setdefault(entry["alias"], entry["before"])
        last[entry["alias"]] = entry
    for alias in sorted({CHAMPION, CHALLENGER, MARKED, *last}):
        now = alias_now(registry, alias)
        if alias in last and not leads_to(last[alias], now):
            raise InputError(
                registry,
                found=f"the {alias} {now}, while the audit ends with {last[alias]['after']}",
                expected="every move in the audit",
                fix=f"put {AUDIT} back from a backup, or the name, if somebody changed it by hand",
            )
        begins = first.get(alias, now)
        if begins and not (alias == CHAMPION and _may_lack_audit(registry / "models" / begins)):
            raise InputError(
                registry,
                found=f"the {alias} {begins} without the line that made it that",
                expected=f"every move in {AUDIT}",
                fix="put it back from a backup, or promote into another registry",
            )
    return entries


def _may_lack_audit(model: Path) -> bool:
    """Tell whether a model can have been promoted before there was an audit; cards say `network_input` since."""
    return not (model / "card.json").exists() or "network_input" not in read_json(model / "card.json")


def _need_audit(registry: Path) -> None:
    if not (registry / AUDIT).exists():
        raise InputError(
            registry, found=f"no {AUDIT}", expected="a registry into which something was promoted", fix="--registry DIR"
        )


def _move(registry: Path, alias: str, before: str | None, after: str, *, action: str, **facts: object) -> None:
    add_entry(registry, {"action": action, "alias": alias, "before": before, "after": after, **facts})
    point_alias(registry, alias, after)


def _take_in(source: ModelFolder, registry: Path) -> ModelFolder:
    """Copy a model into the registry, unless it is there already, whole; the caller holds the registry's lock."""
    target = registry / "models" / source.id
    if _is_copy(target, source):
        log.info("%s is in the registry already", source.id)
    else:
        if target.exists():
            log.warning("%s in the registry is damaged; it is copied again", source.id)
        _copy(source, target)
    return open_model(target)


def _is_copy(target: Path, source: ModelFolder) -> bool:
    """Tell whether a folder holds this model, whole."""
    try:
        return check_manifest(target) == source.hash
    except (ValueError, OSError) as error:  # an InputError, or what a broken disk or a broken name raises
        if target.exists():
            log.warning("%s", error)
        return False


def _copy(source: ModelFolder, target: Path) -> None:
    with new_folder(target) as folder:
        shutil.copytree(source.path, folder, dirs_exist_ok=True)
        if check_manifest(folder) != source.hash:
            raise InputError(
                source.path, found="files that changed while they were copied", expected=source.id, fix="try again"
            )
