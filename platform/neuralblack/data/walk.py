"""The files below a folder of scans: hidden ones are left out, and nothing else without a word."""

import os
from collections.abc import Iterator
from pathlib import Path

from neuralblack.errors import InputError

MACOS = "__MACOSX"  # a folder of its archives, which holds no file of a person's


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, in no order.

    Hidden files and folders, such as the ._ files that macOS puts beside others, are left out.

    Raises:
        InputError: a folder that cannot be read, a link to a folder (not followed: it may lead in a circle), or a link
            to nothing. Their scans would be missing.
    """
    for top, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != MACOS]
        for path in (Path(top, name) for name in (*folders, *files) if not name.startswith(".")):
            if path.is_symlink() and not path.is_file():
                raise InputError(
                    path,
                    found="a linked folder" if path.is_dir() else "a link to nothing",
                    expected="files, links to files, and folders that lie here; links to others are not followed",
                    fix="move its files here, or take the link away",
                )
            if path.is_file():
                yield path


def check_name(name: str) -> None:
    """Raise InputError where a file's name is not UTF-8: no manifest and no table can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            repr(name), found="a name that is not UTF-8", expected="readable file names", fix="rename the file"
        ) from None


def _refuse(error: OSError) -> None:
    raise InputError(
        error.filename,
        found=str(error.strerror),
        expected="a folder that can be read",
        fix="chmod u+rx it, or mount what it stands for",
    )
