"""Files that are whole or not there: atomic writes, a lock, and folders whose hashes are written last."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuralblack.errors import InputError, PassingError

MANIFEST = "manifest.json"
DESKTOP = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.IGNORECASE)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

log = logging.getLogger(__name__)


def is_address(path: str | Path) -> bool:
    """Tell an address such as s3://bucket/slices from a path."""
    return "://" in str(path)


def sha256(path: Path) -> str:
    """Hash a file's bytes; hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: object) -> bytes:
    """Write JSON that is the same bytes for the same value, so that it can be hashed."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def digest(value: object) -> str:
    """Hash a JSON value; hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def read_json(path: Path) -> Any:
    """Read one JSON file; raises InputError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else f"no readable JSON ({type(error).__name__})"
        kind = PassingError if isinstance(error, OSError) else InputError  # a network disk may be out of reach
        raise kind(path, found=found, expected="a JSON file", fix="make the folder again; it is not whole") from None


def is_json(path: Path) -> bool:
    """Tell whether a file holds one JSON value to its end."""
    try:
        json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: readers see the old file or the new one, and a full disk leaves the old."""
    with no_space_is_said(path), replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Have a name beside `path` for a new file, which takes the place of `path` behind the block, or is removed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write a JSON value in one step."""
    write_bytes(path, canonical_json(value))


def check_new_folder(path: Path) -> None:
    """Raise InputError where `new_folder` could not make this folder, so that long work need not end with that."""
    if path.name in ("", ".."):
        raise InputError(path, found="a folder without a name of its own", expected="a new folder", fix="give its name")
    place = next(parent for parent in path.absolute().parents if os.access(parent, os.F_OK))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "a folder that cannot be written to" if place.is_dir() else "a file"
        raise InputError(place, found=found, expected=f"a folder to write {path.name} in", fix="choose another place")


def check_replaceable(path: Path, own: Sequence[str], *, what: str) -> None:
    """Raise InputError where `new_folder` could not make this folder, or would take away what another program wrote.

    Args:
        path: the folder that is to be made, or made anew.
        own: names of the files that are written there; the first is never missing.
        what: it is, for the message.

    """
    check_new_folder(path)
    if not path.exists():
        return
    names = files_in(path) if path.is_dir() else {"a file"}
    others = sorted(names.difference(own))
    if others or (names and own[0] not in names):
        raise InputError(
            path,
            found=f"something that is no {what}: {(others or sorted(names))[0]}",
            expected=f"a new folder, or one with nothing but an earlier {what} in it",
            fix="move it away, or choose another folder; nothing of it was touched",
        )


def make_folder(path: Path) -> None:
    """Make a folder where it is missing, and those above it. Raises InputError that says why it cannot be made."""
    try:
        with no_space_is_said(path):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        place = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
        found = f"a folder in which none can be made ({error.strerror})" if place.is_dir() else "a file in its place"
        expected = "a folder" if place == path else f"a folder to make {path.name} in"
        raise InputError(
            place, found=found, expected=expected, fix="choose another place, or ask whose it is"
        ) from None


def behind_link(path: Path) -> Path:
    """Follow a link to a folder, so that what is written lies where the link points, perhaps on another disk."""
    return path.resolve() if path.is_symlink() and path.is_dir() else path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside `path` and move it there when the block ends; an error leaves what was there before.

    A kill leaves it too, or for the moment between two renames as `.NAME.xxxxxxxx.old`, which the next writer puts
    back before its block starts. Writers of the same path wait for each other, so nobody clears what another one fills.
    A link to a folder stays, and what it points to is filled. Raises InputError where no folder can be made there.
    """
    path = behind_link(path)
    check_new_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with no_space_is_said(path), passing_lock(path.with_name(f".{path.name}.writing.lock")):
        clear_leftovers(path)
        try:
            temporary.mkdir()
            yield temporary
            _sync_files(temporary)
            _swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Take away what a killed writer of `new_folder(path)` left beside it; put the old folder back if it is gone.

    `new_folder` does so itself. Who wants to look at `path` before that may call it where no other writer can be at
    work: under a lock that every writer of this path holds.
    """
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(\.old)?")
    for left in sorted(path.parent.iterdir()):
        if not ours.fullmatch(left.name):
            continue
        if left.suffix == ".old" and not _is_there(path):
            log.info("putting %s back, moved aside by an interrupted run", path)
            left.rename(path)
        else:
            log.info("removing %s, left by an interrupted run", left)
            _remove(left)


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a lock file, and yield its descriptor; others wait, or get a BlockingIOError where they don't want to.

    The kernel frees it when the process ends, however it ends. Another handle in the same process waits too.
    Raises InputError where the folder may only be read.
    """
    with read_only_is_said(path.parent):
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield file.fileno()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do while a forked child has the handle too


def is_held(path: Path) -> bool:
    """Tell whether somebody holds a lock file; the file is only read, and who only looks is not seen by others who do.

    Whoever wants to hold it in that moment without waiting is refused: they should try again (see `hold_run`).
    Raises InputError where the file cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(
            path, found=f"no readable file ({type(error).__name__})", expected="a lock file", fix="ask whose it is"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def write_manifest(folder: Path, extra: Mapping[str, object] | None = None) -> str:
    """Write the SHA-256 of every file in `folder`, last of all; return the manifest's own hash."""
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    manifest = {"files": files, **(extra or {})}
    write_json(folder / MANIFEST, manifest)
    return digest(manifest)


def check_manifest(folder: Path) -> str:
    """Compare every file with the manifest; return the manifest's hash. Raises InputError naming what differs first."""
    if not folder.is_dir():
        raise InputError(folder, found="nothing", expected="a folder with a manifest.json", fix="check the path")
    if not (folder / MANIFEST).exists():
        raise InputError(
            folder, found="no manifest.json", expected="a complete folder", fix="write it again; it was interrupted"
        )
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise InputError(folder / MANIFEST, found="no file list", expected="SHA-256 by file", fix="restore the folder")
    if not all(isinstance(expected, str) for expected in manifest["files"].values()):
        raise InputError(folder / MANIFEST, found="no hash", expected="SHA-256 by file", fix="restore the folder")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                folder / MANIFEST, found=f"the name {name}", expected="files of this folder", fix="restore it"
            )
        found = sha256(path) if path.is_file() else "nothing"
        if found != expected:
            raise InputError(
                path,
                found=found[:12],
                expected=f"SHA-256 {expected[:12]}, as its manifest says",
                fix="restore the file from a good copy",
            )
    return digest(manifest)


def strangers(folder: Path) -> list[str]:
    """List the files of a folder that its manifest does not: whoever replaces the folder would take them away."""
    return sorted(files_in(folder) - {MANIFEST, *read_json(folder / MANIFEST).get("files", {})})


def files_in(folder: Path) -> set[str]:
    """Name all files below a folder, but for those that a desktop leaves where somebody has looked."""
    paths = [path for path in folder.rglob("*") if not path.is_dir() and not DESKTOP.fullmatch(path.name)]
    return {path.relative_to(folder).as_posix() for path in paths}


@contextmanager
def no_space_is_said(path: Path, *, fix: str = "free some space or choose another disk") -> Iterator[None]:
    """Turn "no space left" into an InputError; safetensors reports it as an error of its own with the same words."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) not in NO_SPACE and "os error 28" not in str(error):
            raise
        raise PassingError(
            path,
            found="no space left on the disk",
            expected="room to write",
            fix=fix,
        ) from None


@contextmanager
def read_only_is_said(folder: Path) -> Iterator[None]:
    """Turn "permission denied" and "read-only file system" into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise InputError(
            folder,
            found="a folder that cannot be written to",
            expected="one that may be changed",
            fix="choose another place, or ask whose it is",
        ) from None


@contextmanager
def passing_lock(path: Path) -> Iterator[None]:
    """Hold a lock file that is gone afterwards."""
    while True:
        with lock(path) as descriptor:
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
                continue  # whoever held it took it away: what we hold now, nobody else can find
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _swap(temporary: Path, path: Path) -> None:
    """Move what is at `path` aside and `temporary` there; an error in between moves the old one back."""
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        if _is_there(path):
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if _is_there(old) and not _is_there(path):
            old.rename(path)
        raise
    sync_folder(path.parent)
    if _is_there(old):
        _remove(old)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _remove(path: Path) -> None:
    """Remove a folder, or a file or link that was in its place; what cannot be removed stays for the next writer."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
