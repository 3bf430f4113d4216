"""Phantoms: made-up scans of made-up patients, in the real file layout, for the demo and the tests.

neuralblack phantoms OUT && neuralblack prepare OUT/figshare OUT/images --out DATASET

Every patient is one head in space (`phantom_anatomy`) with at most one tumour (`phantom_tumours`), cut in three
views at neighbouring places. No person was scanned; a result on phantoms says that the machinery works, and
nothing about medicine.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from neuralblack.data.mat_writer import write_cvind, write_mat
from neuralblack.data.phantom_anatomy import Head, draw_head
from neuralblack.data.phantom_shapes import Array, vector
from neuralblack.data.phantom_tumours import Tumour, draw_tumour
from neuralblack.data.readers import read_slice
from neuralblack.errors import InputError
from neuralblack.files import files_in, new_folder
from neuralblack.labels import CLASSES, FIGSHARE_CODES

log = logging.getLogger(__name__)

VIEWS = {"axial": 2, "coronal": 1, "sagittal": 0}  # view -> the axis it is cut across
FOLDS = 5
DRAWN = 224  # pixels; larger slices are interpolated, as scanners do
PATIENT = "phantom"  # and a number
WRITTEN = re.compile(r"figshare/([0-9]+|cvind)\.mat|images/no tumour/p[0-9]+_[a-z]+_[0-9]+\.png")
THIN = 1.0  # millimetres to both sides in the healthy: so near that `data.duplicates` knows the slices for one person's
PIVOT = vector(0, -17, -6)  # a tilted head turns about this place
TUMOURS = tuple(label for label in CLASSES if label in FIGSHARE_CODES.values())


@dataclass(frozen=True)
class Phantom:
    """One slice: image (S, S) int16, mask (S, S) bool, border (2k,) float64 as x1, y1, x2, y2, ... in pixels."""

    image: NDArray[np.int16]
    mask: NDArray[np.bool_]
    border: NDArray[np.float64]


@dataclass(frozen=True)
class Patient:
    """A head, what grows in it, and how it lay in the scanner."""

    label: str
    head: Head
    tumour: Tumour | None
    target: NDArray[np.float32]  # (3,) the place the slices go through
    reach: float  # millimetres to both sides of it
    turn: NDArray[np.float32]  # (3, 3)
    seed: int

    @classmethod
    def draw(cls, label: str, *, seed: int) -> "Patient":
        """Draw a patient; the healthy are cut where a tumour could have been, so the place tells nothing."""
        rng = np.random.default_rng(seed)
        head = Head.draw(rng)
        shown = label if label in TUMOURS else str(rng.choice(TUMOURS))
        tumour = draw_tumour(rng, shown)
        assert tumour is not None
        target = head.find(tumour.middle)
        turn = _rotation(rng.normal(0, np.deg2rad(3.5), 3))
        if label in TUMOURS:
            return cls(label, head, tumour, target, 0.4 * tumour.radius, turn, seed)
        return cls(label, head, None, target, THIN, turn, seed)


def draw_phantom(patient: Patient, view: str, *, offset: float = 0.0, size: int = 512) -> Phantom:
    """Cut one slice.

    Args:
        patient: whom.
        view: a key of VIEWS.
        offset: -1..1, from one side of the tumour towards the other; 0 is its middle.
        size: pixels along each side, 32 or more.
    """
    if view not in VIEWS:
        raise InputError("view", found=view, expected=", ".join(VIEWS), fix="choose one of these")
    rng = np.random.default_rng([patient.seed, VIEWS[view]])  # a series has one coil, frame and noise
    drawn = min(size, DRAWN)
    field = rng.uniform(215, 262)  # millimetres of the picture's side
    points = patient.head.place(_plane(patient, view, offset, drawn, field, rng))
    edge = max(1.3, 0.9 * field / drawn)
    if patient.tumour is None:
        tissue = draw_head(patient.head, points, points, edge=edge)
        outline = np.full(tissue.shape, np.inf, np.float32)
    else:
        tissue = draw_head(patient.head, points, patient.tumour.push(points), edge=edge)
        outline = patient.tumour.draw(tissue, points, edge=edge)
    border = _trace(outline) * (size / drawn)
    tissue *= _coil(rng, drawn)
    return Phantom(_scan(tissue, size, rng, offset), _fill(border, size), border)


def write_phantoms(
    out: Path,
    *,
    patients: int = 40,
    slices: int = 3,
    size: int = 512,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write slices of made-up patients; return how many.

    Tumours go to OUT/figshare as 1.mat, 2.mat, ... with cvind.mat, the fold of each patient; healthy heads, for
    which the archive has no code, to OUT/images/no tumour as 16-bit PNGs.

    Args:
        out: a new folder; it appears when it is whole, in place of phantoms that were there.
        patients: 4 or more, dealt to the four classes in turn.
        slices: neighbouring slices for each patient and view.
        size: pixels along each side.
        seed: the same seed gives the same scans.
        progress: called with slices done and slices in all.
    """
    _check(out, patients, slices, size)
    replaced = out.is_dir() and any(out.iterdir())
    offsets = np.linspace(-1, 1, slices) if slices > 1 else np.zeros(1)
    codes = {label: code for code, label in FIGSHARE_CODES.items()}
    folds: list[int] = []
    total, done = patients * len(VIEWS) * slices, 0
    with new_folder(out) as folder:
        scans, healthy = folder / "figshare", folder / "images" / "no tumour"
        scans.mkdir()
        healthy.mkdir(parents=True)
        for number in range(patients):
            label = CLASSES[number % len(CLASSES)]
            patient = Patient.draw(label, seed=seed * 100_003 + number)
            for view in VIEWS:
                for index, offset in enumerate(offsets, 1):
                    phantom = draw_phantom(patient, view, offset=float(offset), size=size)
                    if label in codes:
                        folds.append(number // len(CLASSES) % FOLDS + 1)
                        write_mat(
                            scans / f"{len(folds)}.mat",
                            label=codes[label],
                            patient=f"{PATIENT}{number:03}",
                            image=phantom.image,
                            mask=phantom.mask,
                            border=phantom.border,
                        )
                    else:
                        picture = Image.fromarray(phantom.image.astype(np.uint16))
                        picture.save(healthy / f"p{number:03}_{view}_{index}.png", compress_level=1)
                    done += 1
                    if progress:
                        progress(done, total)
        write_cvind(scans / "cvind.mat", np.array(folds))
    if replaced:
        log.info("the phantoms that were in %s before are replaced", out)
    return total


def _is_made_up(out: Path) -> bool:
    """Tell whether a folder holds phantoms and nothing else, or nothing: the archive itself has the same layout."""
    if not out.is_dir():
        return False
    names = files_in(out)
    if not all(map(WRITTEN.fullmatch, names)):
        return False
    first = out / "figshare" / "1.mat"
    try:
        return not names or str(read_slice(first, where=first).patient).startswith(PATIENT)
    except InputError:
        return False


def _check(out: Path, patients: int, slices: int, size: int) -> None:
    if out.exists() and not _is_made_up(out):
        raise InputError(out, found="something that is no phantoms", expected="a new folder", fix="choose another OUT")
    for name, value, least in (("--patients", patients, len(CLASSES)), ("--slices", slices, 1), ("--size", size, 32)):
        if value < least:
            raise InputError(name, found=value, expected=f"{least} or more", fix=f"say {name} {least}")


def _plane(patient: Patient, view: str, offset: float, pixels: int, field: float, rng: np.random.Generator) -> Array:
    """Millimetres in space of every pixel of a slice, (3, pixels, pixels), the front or the top of the head upwards."""
    across = VIEWS[view]
    inverse = patient.turn.T @ (patient.target - PIVOT) + PIVOT
    at = inverse[across] + np.float32(offset * patient.reach)
    steps = (((np.arange(pixels) + 0.5) / pixels - 0.5) * field).astype(np.float32)
    column, row = np.meshgrid(steps, -steps)
    shift = rng.normal(0, 5, 2)
    right, up = column + np.float32(shift[0]), row + np.float32(shift[1])
    level = np.full_like(right, at)
    if view == "axial":
        flat = np.stack([right, up - 17, level])
    elif view == "coronal":
        flat = np.stack([right, level, up - 22])
    else:
        flat = np.stack([level, -right, up - 22])  # the face looks to the left
    pivot = PIVOT[:, None, None]
    return np.asarray(np.tensordot(patient.turn, flat - pivot, 1) + pivot, np.float32)


def _coil(rng: np.random.Generator, pixels: int) -> Array:
    """A receive coil's uneven sensitivity, (pixels, pixels) about 1: stronger near some edge, slowly varying."""
    steps = np.linspace(-1, 1, pixels, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    slope, bowl, wave = rng.normal(0, 0.10, 2), rng.uniform(-0.05, 0.25), rng.uniform(0, 2 * np.pi, 2)
    field = 1 + slope[0] * x + slope[1] * y + bowl * (x * x + y * y - 0.4)
    return np.asarray(field + 0.05 * np.cos(2.5 * x + wave[0]) * np.cos(2.5 * y + wave[1]), np.float32)


def _scan(tissue: Array, size: int, rng: np.random.Generator, offset: float) -> NDArray[np.int16]:
    """Interpolate to `size`, add a magnitude image's noise (Rician), and scale as some scanner would."""
    level, peak = rng.uniform(0.006, 0.028), rng.uniform(700, 12000)
    if size != len(tissue):
        tissue = np.asarray(Image.fromarray(tissue).resize((size, size), Image.Resampling.BICUBIC))
    noise = np.random.default_rng([int(rng.integers(2**32)), round(1000 * (offset + 1))])
    real, imaginary = noise.standard_normal((2, size, size), dtype=np.float32) * np.float32(level)
    magnitude = np.hypot(tissue + real, imaginary)
    return np.asarray((magnitude * (peak / 1.1)).clip(0, 32767).round(), np.int16)


def _trace(outline: Array, *, corners: int = 48) -> NDArray[np.float64]:
    """Outline of the part where `outline` is negative, seen from its middle: x1, y1, ... in pixels; empty for none."""
    rows, columns = np.nonzero(outline < 0)
    if not len(rows):
        return np.zeros(0)
    y, x = rows.mean(), columns.mean()
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    bins = np.round(np.arctan2(rows - y, columns - x) / (2 * np.pi) * corners).astype(int) % corners
    radii = np.full(corners, 0.5)
    np.maximum.at(radii, bins, np.hypot(rows - y, columns - x) + 0.3)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    return np.asarray((points + 0.5).ravel(), np.float64)


def _fill(border: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    picture = Image.new("1", (size, size))
    if len(border):
        ImageDraw.Draw(picture).polygon([tuple(point) for point in (border - 0.5).reshape(-1, 2)], fill=1)
    return np.asarray(picture, bool)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn about x, then y, then z, by radians."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[one, one] = step[other, other] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    return turn.astype(np.float32)
