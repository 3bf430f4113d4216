"""Find the scans in folders that people give: of which kind each is, and what its files say by name and place."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from neuralblack.data.readers import MAT, READERS, reader_for
from neuralblack.data.readers.figshare import read_cvind
from neuralblack.data.walk import check_name, files_below
from neuralblack.errors import InputError
from neuralblack.labels import FOLDER_NAMES, from_folder

FOLD_FILE = "cvind.mat"
FOLDER = "folder-"  # opens the name of a patient whom a folder says
ABOVE = "/../"  # in the name of one whom a folder above the class folders says; no folder is called ".."
NAMING = 3  # of such patients; a dataset that names them otherwise is prepared again
SPLIT = re.compile(  # folders that tell parts of a collection apart
    r"(cross[ _-]?)?(train|test|val|valid|dev|eval|fold|split|part|set)(ing|idation|uation)?"
    r"([ _-]?(set|data|image|img|slice))*s?[ _-]?\d*",
    re.IGNORECASE,
)
NO_PATIENTS = "if the folders below the class folders are no patients, put slices directly into the class folders"
NO_SITES = (
    "if the folders above the class folders are no patients but sites, give each as a source of its own; else have "
    "patients on top: PATIENT/CLASS/slice.png"
)


@dataclass(frozen=True)
class File:
    """One scan to read. `id` is the source's name and the path below it; `label` is None where the file has its own.

    `patient` is the first folder above the class's in which scans of the source differ, but for Training, Testing and
    the like (SPLIT); where there is none, the folder directly below the class's, named with source and class folder.
    Folders above that are no patients, such as sites, make too few patients, which is seen, and none is in two of them.
    """

    id: str
    path: Path
    size: int
    mtime_ns: int
    label: str | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Source:
    """One folder of scans: figshare's `.mat` files (with their fold file) or images in class subfolders."""

    name: str
    kind: Literal["figshare", "images"]
    files: tuple[File, ...]
    ignored: tuple[str, ...]
    fold_file: File | None = None

    def folds(self) -> dict[str, int] | None:
        """Return the author's fold of every file by id, 0 in no fold; None where the source has no fold file.

        `<n>.mat` has entry n of cvind, counted from 1. Raises InputError where a name has no number, two have the same,
        or cvind is wrong.
        """
        if self.fold_file is None:
            return None
        numbers = {file.id: _number(file) for file in self.files}
        of_number: dict[int, File] = {}
        for file in self.files:
            if (first := of_number.setdefault(numbers[file.id], file)) is not file:
                raise InputError(
                    file.path,
                    found=f"the number {numbers[file.id]}, as in {first.path}",
                    expected=f"one file for each number, whose fold {FOLD_FILE} says",
                    fix="keep one file for each number, or give the others as another source",
                )
        folds = read_cvind(self.fold_file.path, max(numbers.values()))
        return {identity: int(folds[number - 1]) for identity, number in numbers.items()}


def find_sources(folders: Sequence[Path]) -> list[Source]:
    """Look through folders, in an order that does not depend on the order they are given in.

    Hidden files are skipped; files of no known format are listed as ignored. Raises InputError where a folder is
    missing, given within another, holds no scans, holds both kinds or a link to a folder, or has images in a folder
    that is no class.
    """
    resolved = sorted({folder.resolve(): folder for folder in folders}.items())
    for path, given in resolved:
        if not path.is_dir():
            raise InputError(
                given,
                found="a file" if path.exists() else "nothing",
                expected="a folder of scans",
                fix="give the folder that holds the .mat files or the class folders",
            )
        for other, _ in resolved:
            if other in path.parents:
                raise InputError(
                    given, found=f"a folder within {other}", expected="folders apart", fix="give only one of the two"
                )
    names = _names([path for path, _ in resolved])
    sources = [_source(given, name) for (_, given), name in zip(resolved, names, strict=True)]
    return sorted(sources, key=lambda source: source.name)


def _names(paths: Sequence[Path]) -> list[str]:
    """Name folders by their last part, with as many parents as tell them apart.

    >>> _names([Path("/scans/a/images"), Path("/scans/b/images"), Path("/scans/figshare")])
    ['a/images', 'b/images', 'figshare']
    """
    depths = [1] * len(paths)

    def names() -> list[str]:
        return ["/".join(path.parts[1:][-depth:]) or "root" for path, depth in zip(paths, depths, strict=True)]

    while len(set(names())) < len(paths):
        current = names()
        depths = [depth + (current.count(name) > 1) for depth, name in zip(depths, current, strict=True)]
    return names()


def _source(folder: Path, name: str) -> Source:
    mats: list[File] = []
    images: list[File] = []
    fold_files: list[File] = []
    ignored: list[str] = []
    for path in sorted(files_below(folder), key=lambda path: natural(path.relative_to(folder).as_posix())):
        relative = path.relative_to(folder).as_posix()
        reader = reader_for(path)
        if reader is None:
            ignored.append(relative)
        elif reader is not MAT:
            images.append(_file(path, f"{name}/{relative}"))
        elif path.name.lower() == FOLD_FILE:
            fold_files.append(_file(path, f"{name}/{relative}"))
        else:
            mats.append(_file(path, f"{name}/{relative}"))
    if len(fold_files) > 1:
        raise InputError(
            folder,
            found=f"{len(fold_files)} fold files: {', '.join(file.id for file in fold_files)}",
            expected=f"one {FOLD_FILE}",
            fix="keep the one that came with these scans; two versions are in circulation",
        )
    if mats and images:
        raise InputError(
            folder,
            found=f"{len(mats)} .mat files and {len(images)} images",
            expected="one kind of scans in a source",
            fix="give their folders as two sources",
        )
    if mats:
        return Source(name, "figshare", tuple(mats), tuple(ignored), *fold_files)
    ignored += [file.id.removeprefix(f"{name}/") for file in fold_files]
    if images:
        return Source(name, "images", _labelled(images, folder, name), tuple(ignored))
    raise InputError(
        folder,
        found=f"no scans, but other files like {ignored[0]}" if ignored else "no files",
        expected=f".mat files, or class folders of images ({', '.join(READERS)})",
        fix="check the folder; unpack archives first",
    )


def _labelled(images: Sequence[File], folder: Path, name: str) -> tuple[File, ...]:
    """Give each image the class of the nearest folder that names one, and a patient where folders say whose it is."""
    found: list[File] = []
    unknown: set[Path] = set()
    above: list[tuple[str, ...]] = []
    for file in images:
        parts = file.id.removeprefix(f"{name}/").split("/")[:-1]
        depth = max((depth for depth, part in enumerate(parts, start=1) if from_folder(part)), default=0)
        if not depth:
            unknown.add(file.path.parent)
            continue
        below = "/".join([f"{FOLDER}{name}", *parts[depth - 1 : depth + 1]]) if len(parts) > depth else None
        above.append(tuple(part for part in parts[: depth - 1] if not SPLIT.fullmatch(part)))
        found.append(replace(file, label=from_folder(parts[depth - 1]), patient=below))
    shared = 0  # levels in which all are the same
    while len({each[shared : shared + 1] for each in above}) == 1 and above[0][shared:]:
        shared += 1
    heads = [each[shared] if len(each) > shared else None for each in above]
    if len({*heads, None}) > 2:
        found = [
            replace(file, patient=f"{FOLDER}{name}{ABOVE}{head}") if head else file
            for file, head in zip(found, heads, strict=True)
        ]
    if unknown:
        places = ", ".join(path.relative_to(folder).as_posix() for path in sorted(unknown))
        raise InputError(
            folder,
            found=f"images in folders that are no class: {places}",
            expected=f"class folders named like {', '.join(FOLDER_NAMES)} (with or without 'tumor')",
            fix="give the folder above it" if unknown == {folder} else "rename them, or move them out of this folder",
        )
    return tuple(found)


def in_several_classes(patients: Iterable[str]) -> int:
    """Count names of patients' folders that several class folders of a source have: the same people, or others.

    >>> in_several_classes(["folder-scans/glioma/p1", "folder-scans/pituitary/p1", "folder-scans/glioma/p2", "p1"])
    1
    >>> in_several_classes(["folder-7"])  # what a file says may look like that
    0
    >>> in_several_classes(["folder-scans/../a/p1", "folder-scans/../b/p1"])
    0
    """
    named = (name for name in set(patients) if name.startswith(FOLDER) and ABOVE not in name)
    parts = (name.rsplit("/", 2) for name in named if name.count("/") > 1)
    counts = Counter((source, folder) for source, _, folder in parts)
    return sum(count > 1 for count in counts.values())


def natural(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Order names as people do: numbers by their value, and before letters.

    >>> sorted(["10.mat", "9.mat", "a/1.mat"], key=natural)
    ['9.mat', '10.mat', 'a/1.mat']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts), text


def _file(path: Path, identity: str) -> File:
    check_name(identity)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            path, found=error.strerror, expected="a readable file", fix="mend the link or remove it"
        ) from error
    return File(identity, path, status.st_size, status.st_mtime_ns)


def _number(file: File) -> int:
    if not re.fullmatch(r"[0-9]+", file.path.stem) or int(file.path.stem) == 0:
        raise InputError(
            file.path,
            found="a name without a number",
            expected=f"<n>.mat with n from 1, as {FOLD_FILE} counts files",
            fix=f"restore the name, or take {FOLD_FILE} away to have folds made by patient",
        )
    return int(file.path.stem)
