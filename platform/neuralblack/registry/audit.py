"""Who made which model the champion, when and why: audit.jsonl, each line with the hash of the one before.

A line is added before anything moves, so the last one of a name may be of a move that was cut off and never came into
force: the next begins with the same model. A changed, removed or exchanged line breaks the chain, which every reader
checks, unless it is the last, of which only the model is compared with what the name means. Where the end was removed,
the next move would begin with a model that the lines before don't lead to: it is refused, and so is a file with one.
Whoever may write the whole file can write a new chain: an operator who fears that keeps the last line's hash elsewhere.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from neuralblack.config import checked
from neuralblack.errors import InputError
from neuralblack.files import write_bytes

AUDIT = "audit.jsonl"
FIRST = "0" * 64  # stands before the first line

ROLL_BACK = "roll back"

Entry = Mapping[str, Any]


class OneCheck(BaseModel):
    """A question of the gate, as far as it is shown."""

    name: str
    passed: bool


class Line(BaseModel):
    """What every line has, and what is shown of it; `gate.Judgement` adds more."""

    time: str
    by: str
    action: Literal["promote", "challenge", "roll back"]
    alias: str
    before: str | None
    after: str
    forced: str | None = None
    checks: list[OneCheck] = []


def read_audit(registry: Path) -> list[Entry]:
    """Read all lines, oldest first; raises InputError naming the first that does not follow the one before.

    The first move of a name may begin with a model: earlier versions promoted without an audit.
    """
    path = registry / AUDIT
    previous, entries, last = FIRST, list[Entry](), dict[str, Entry]()
    meant = defaultdict[str, set[str | None]](set)  # by a name, before its moves
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            whole = entry["previous"] == previous
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise InputError(
                f"{path}:{number}",
                found="a line that does not follow from the one before",
                expected="the file as it was written, each line with the hash of the one before",
                fix="compare it with a backup; nothing is promoted until it is whole",
            )
        checked(Line, entry, where=f"{path}:{number}")
        before = last.get(entry["alias"])
        if before and not leads_to(before, entry["before"]):
            raise InputError(
                f"{path}:{number}",
                found=f"a move of the {entry['alias']} from {entry['before']}",
                expected=f"one from {before['after']}, as the move before says",
                fix="compare it with a backup, lines are missing; nothing is promoted until it is whole",
            )
        if entry["action"] == ROLL_BACK and entry["after"] not in meant[entry["alias"]]:
            raise InputError(
                f"{path}:{number}",
                found=f"a roll-back of the {entry['alias']} to {entry['after']}",
                expected="a model that it meant before",
                fix="compare it with a backup; nothing is promoted until it is whole",
            )
        entries.append(entry)
        meant[entry["alias"]].add(entry["before"])
        last[entry["alias"]] = entry
        previous = _hash(line)
    return entries


def add_entry(registry: Path, entry: Entry) -> None:
    """Add a line with the time and who; the caller holds the registry's lock. InputError where the chain is broken."""
    read_audit(registry)
    lines = _lines(registry / AUDIT)
    facts = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": os.environ.get("USER") or f"user {os.getuid()}",
        **entry,
        "previous": _hash(lines[-1]) if lines else FIRST,
    }
    line = json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()
    write_bytes(registry / AUDIT, b"".join(each + b"\n" for each in [*lines, line]))  # a crash leaves no half line


def leads_to(entry: Entry, model: str | None) -> bool:
    """Tell whether a name can mean a model after its last line: the new one, or the old one where it was cut off."""
    return model in (entry["after"], entry["before"])


def in_force(entries: Sequence[Entry], alias: str, now: str | None) -> list[Entry]:
    """Leave out a name's moves that were cut off: the next one, or the name now, is where they began.

    >>> lines = [{"alias": "c", "before": before, "after": after} for before, after in ((None, "a"), ("a", "b"))]
    >>> [entry["after"] for entry in in_force(lines, "c", "b")], [entry["after"] for entry in in_force(lines, "c", "a")]
    (['a', 'b'], ['a'])
    """
    ours = [entry for entry in entries if entry["alias"] == alias]
    went_on = [*(entry["before"] for entry in ours), now][1:]
    return [entry for entry, model in zip(ours, went_on, strict=True) if entry["after"] == model]


def earlier(entries: Sequence[Entry], alias: str) -> str | None:
    """Find the model that a roll-back of an alias goes to: what it meant before the newest promotion still in force.

    >>> lines = [{"action": "promote", "alias": "c", "before": None, "after": "a"}]
    >>> lines += [{"action": "promote", "alias": "c", "before": "a", "after": "b"}]
    >>> earlier(lines, "c"), earlier([*lines, {"action": "roll back", "alias": "c", "before": "b", "after": "a"}], "c")
    ('a', None)
    """
    behind: list[str | None] = []
    for entry in entries:
        if entry["alias"] != alias:
            continue
        if entry["action"] == ROLL_BACK:
            del behind[-1:]
        else:
            behind.append(entry["before"])
    return behind[-1] if behind else None


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
