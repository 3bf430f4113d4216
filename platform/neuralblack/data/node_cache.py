"""Files on this node's disk that can be made again: in use while they are open, and the oldest go first."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from neuralblack.errors import InputError
from neuralblack.files import lock

ROOM_LOCK = "room.lock"  # held by whoever removes files of a folder
HEADROOM = 1.1  # of a file's bytes, what must be free on the disk before it is begun


def folder_on_this_node(name: str) -> Path:
    """Make a folder of this user under the temporary one, or where NEURALBLACK_CACHE says.

    Raises:
        InputError: it is somebody else's, who could put anything there.

    """
    parent = os.environ.get("NEURALBLACK_CACHE") or f"{tempfile.gettempdir()}/neuralblack-{os.getuid()}"
    folder = Path(parent) / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(each.lstat().st_uid != os.getuid() or each.is_symlink() for each in (folder.parent, folder)):
        raise InputError(
            folder,
            found="a folder of another user",
            expected="one of your own",
            fix="export NEURALBLACK_CACHE=FOLDER on every node",
        )
    return folder


def open_in_use(path: Path, *, create: bool = True) -> int:
    """Open a file for reading and writing, marked as in use, so that `make_room` leaves it alone; its descriptor.

    Without `create`, a FileNotFoundError where it is not there, or was removed while we waited.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # it was removed while we waited


def make_room(folder: Path, need: int, *, max_bytes: int) -> bool:
    """Remove the files that nobody has open and nobody has opened for longest, until there is room.

    Args:
        folder: everything of `max_bytes`.
        need: bytes of the file to come.
        max_bytes: of all files together.

    Returns:
        False where what is in use, or the disk, leaves no room.

    """
    with lock(folder / ROOM_LOCK):
        return _made_room(folder, need, max_bytes=max_bytes, spare=0)


def begin_in_use(path: Path, need: int, *, max_bytes: int, spare: float) -> int | None:
    """Make room for a file, and begin it with its space taken and in use; its descriptor, or None where none is left.

    All of it under one lock, so that no two are promised the same room. The file's name ends in .bin; `spare` is the
    share of the disk that stays free for others.
    """
    with lock(path.parent / ROOM_LOCK):
        if not _made_room(path.parent, need, max_bytes=max_bytes, spare=spare):
            return None
        descriptor = open_in_use(path)
        try:
            os.posix_fallocate(descriptor, 0, need)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        return descriptor


def _made_room(folder: Path, need: int, *, max_bytes: int, spare: float) -> bool:
    files = sorted(folder.rglob("*.bin"), key=lambda path: path.stat().st_mtime)
    used = sum(_taken(path) for path in files)
    for path in files:
        if _fits(folder, used, need, max_bytes, spare):
            break
        size = _taken(path)
        if _removed(path):
            used -= size
    return _fits(folder, used, need, max_bytes, spare)


def _fits(folder: Path, used: int, need: int, max_bytes: int, spare: float) -> bool:
    disk = shutil.disk_usage(folder)
    return used + need <= max_bytes and disk.free - spare * disk.total >= HEADROOM * need


def _taken(path: Path) -> int:
    """Bytes of a file; of one that is in use all that it may come to, though holes take nothing yet."""
    found = path.stat()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return max(found.st_size, found.st_blocks * 512)
    finally:
        os.close(descriptor)
    return found.st_blocks * 512


def _removed(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.with_suffix(".sum").unlink(missing_ok=True)
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
