"""Who made which model the champion, when and why: audit.jsonl, each line with the hash of the one before.

A line is added before anything moves. A changed, removed or exchanged line breaks the chain, which every reader checks,
unless it is the last, of which only the model is compared with what the name means. Whoever may write the whole file
can write a new chain: an operator who fears that keeps the last line's hash elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuralblack.errors import InputError
from neuralblack.files import write_bytes

AUDIT = "audit.jsonl"
FIRST = "0" * 64  # stands before the first line

Entry = Mapping[str, Any]


def read_audit(registry: Path) -> list[Entry]:
    """Read all lines, oldest first; raises InputError naming the first that does not follow the one before."""
    path = registry / AUDIT
    previous, entries = FIRST, []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            whole = (
                entry["previous"] == previous and isinstance(entry["alias"], str) and isinstance(entry["after"], str)
            )
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise InputError(
                f"{path}:{number}",
                found="a line that does not follow from the one before",
                expected="the file as it was written, each line with the hash of the one before",
                fix="compare it with a backup; nothing is promoted until it is whole",
            )
        entries.append(entry)
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
        if entry["action"] == "roll back":
            behind.pop()
        else:
            behind.append(entry["before"])
    return behind[-1] if behind else None


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
