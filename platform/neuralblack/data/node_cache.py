"""Files on this node's disk that can be made again: in use while they are open, and the oldest go first."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from neuralblack.errors import InputError
from neuralblack.files import lock

ROOM_LOCK = "room.lock"  # held by whoever removes files of a folder
HEADROOM = 1.1  # of a file's bytes, what must be free on the disk before it is begun
SPARE, SPARE_BYTES = 0.1, 10 << 30  # of the disk stays free, but no more: checkpoints are written there, too


def folder_on_this_node(name: str) -> Path:
    """Make a folder of this user under the temporary one, or where NEURALBLACK_CACHE says.

    Raises:
        InputError: it is somebody else's, who could put anything there, or cannot be made.

    """
    parent = os.environ.get("NEURALBLACK_CACHE") or f"{tempfile.gettempdir()}/neuralblack-{os.getuid()}"
    folder, found = Path(parent) / name, ""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(each.lstat().st_uid != os.getuid() or each.is_symlink() for each in (folder.parent, folder)):
            found = "a folder of another user"
    except OSError as error:
        found = f"no folder, and none can be made ({error.strerror})"
    if found:
        raise InputError(
            folder, found=found, expected="one of your own", fix="export NEURALBLACK_CACHE=FOLDER on every node"
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
        return _made_room(folder, need, max_bytes=max_bytes)


def begin_in_use(path: Path, need: int, *, max_bytes: int) -> int | None:
    """Make room for a file, and begin it with its space taken and in use; its descriptor, or None where none is left.

    All of it under one lock, so that no two are promised the same room. The file's name ends in .bin.
    """
    with lock(path.parent / ROOM_LOCK):
        if not _made_room(path.parent, need, max_bytes=max_bytes):
            return None
        descriptor = open_in_use(path)
        try:
            os.posix_fallocate(descriptor, 0, need)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        return descriptor


def _made_room(folder: Path, need: int, *, max_bytes: int) -> bool:
    files = sorted(folder.rglob("*.bin"), key=lambda path: path.stat().st_mtime)
    room = {path: _room_of(path) for path in files}
    for path in files:
        if _fits(folder, room, need, max_bytes):
            break
        if _removed(path):
            del room[path]
    return _fits(folder, room, need, max_bytes)


def _fits(folder: Path, room: Mapping[Path, tuple[int, int]], need: int, max_bytes: int) -> bool:
    disk = shutil.disk_usage(folder)
    written, promised = sum(taken for taken, _ in room.values()), sum(holes for _, holes in room.values())
    free = disk.free - promised - min(SPARE * disk.total, SPARE_BYTES)
    return written + promised + need <= max_bytes and free >= HEADROOM * need


def _room_of(path: Path) -> tuple[int, int]:
    """Bytes that a file takes, and of one that is in use those that it may still come to: its holes."""
    found = path.stat()
    written = found.st_blocks * 512
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return written, max(found.st_size - written, 0)
    finally:
        os.close(descriptor)
    return written, 0


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
