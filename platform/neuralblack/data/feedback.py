"""What readers said of slices: a file each, the prepared slice as a grey PNG with all the rest as JSON in its text.

One file, so that nothing can be half there. It holds no name: the patient is a keyed hash, and neither the file's name
nor anything else of the upload but its prepared pixels is kept. Those are a scan of a patient all the same.
"""

import hmac
import json
import os
import re
import time
import unicodedata
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, Field

from neuralblack.config import checked
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.files import sync_folder, write_bytes

TEXT = "neuralblack"  # the key of the JSON in the PNG's text
KEY = "NEURALBLACK_FEEDBACK_KEY"
KEPT_BY = ".key"  # of a folder: what its key makes of no name, by which another key is found out
LEAST_KEY = 32  # characters: 128 bits in hex digits
UNFINISHED = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{8}")  # what `write_feedback` writes before it has its name
STALE_S = 3600.0  # nobody writes one file for so long
NEW_KEY = f"export {KEY}=$(openssl rand -hex 32), and keep it apart from the slices"
SAME_KEY = "export the one that the service was started with: by another no patient is found"


class Said(BaseModel, frozen=True, extra="forbid"):
    """What the model had answered; a refusal has neither label nor probability."""

    status: Literal["ok", "refused"]
    label: str | None = None
    probability: float | None = Field(None, ge=0, le=1)


class Feedback(BaseModel, frozen=True, extra="forbid"):
    """What one reader said of one slice."""

    format: Literal[1] = 1
    at: datetime = Field(description="When it came, UTC.")
    reader: str = Field(description="The name beside the reader's token.")
    label: str = Field(description="What the reader says it is.")
    answer: Said = Field(description="What the model said then.")
    model: str = Field(pattern="^[0-9a-f]{64}$", description="The hash of the model that answered.")
    patient: str | None = Field(pattern="^[0-9a-f]{32}$", description="Keyed hash; None where no patient was named.")
    preprocessing: Preprocessing


def key_from(environ: Mapping[str, str], *, fix: str = SAME_KEY) -> bytes:
    """Read the key of patients' hashes; raises InputError where there is none, or a short one."""
    key = environ.get(KEY, "").strip()
    if len(key) < LEAST_KEY:
        raise InputError(
            f"environment {KEY}",
            found=f"a key of {len(key)} characters" if key else "no key",
            expected=f"at least {LEAST_KEY} characters that nobody can guess",
            fix=fix,
        )
    return key.encode()


def keyed(key: bytes, text: str) -> str:
    """Hash a text so that only who has the key can tell which text it was: HMAC-SHA-256, its first 32 hex digits.

    Blanks around it, and other ways to write the same letters, make no difference.

    >>> keyed(b"k", " p1 ") == keyed(b"k", "p1"), keyed(b"k", "p1") == keyed(b"l", "p1")
    (True, False)
    """
    return hmac.digest(key, unicodedata.normalize("NFC", text.strip()).encode(), "sha256").hex()[:32]


def check_key(folder: Path, key: bytes) -> None:
    """Compare a key with the one that patients were hashed by in a folder, where that is known.

    By another key no patient is found: slices of patients who are tested on would be learnt from. Raises InputError.
    """
    kept_by = folder / KEPT_BY
    if kept_by.exists() and kept_by.read_text("utf-8", "replace").strip() != keyed(key, ""):
        raise InputError(
            f"environment {KEY}",
            found=f"another key than the one that {folder} was kept by",
            expected="the same",
            fix=f"export that one, or name another folder; where that one was wrong, remove {KEPT_BY} there",
        )


def mark_key(folder: Path, key: bytes) -> None:
    """Note in a folder which key its patients are hashed by; raises InputError where it was another."""
    check_key(folder, key)
    if not (folder / KEPT_BY).exists():
        write_bytes(folder / KEPT_BY, f"{keyed(key, '')}\n".encode())


def write_feedback(
    folder: Path, name: str, feedback: Feedback, pixels: NDArray[np.uint8]
) -> Literal["kept", "repeated", "other"]:
    """Keep what was said in FOLDER/NAME.png, on the disk when this returns.

    Args:
        folder: exists.
        name: of what is said; it is kept once, whoever else writes the same at the same time.
        feedback: what was said.
        pixels: (S, S) uint8, prepared as `feedback.preprocessing` says.

    Returns:
        kept; repeated where the same was kept before; other where something else was, which stays.

    Raises:
        InputError: what was kept under this name is damaged; it stays.
        OSError: no space left, or the folder is out of reach.
    """
    path = folder / f"{name}.png"
    temporary = folder / f".{name}.{uuid.uuid4().hex[:8]}"
    text = PngInfo()
    text.add_text(TEXT, feedback.model_dump_json())
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text)
    try:
        with temporary.open("xb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces: the first one stays
    except FileExistsError:
        before, kept = read_feedback(path)
        same = (before.label, before.patient) == (feedback.label, feedback.patient)
        return "repeated" if same and np.array_equal(kept, pixels) else "other"
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return "kept"


def read_feedback(path: Path) -> tuple[Feedback, NDArray[np.uint8]]:
    """Read one file; raises InputError where it is not one that `write_feedback` wrote."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()
            text, pixels = getattr(image, "text", {}).get(TEXT), np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _none(path, f"a file that does not open ({type(error).__name__})") from None
    if text is None:
        raise _none(path, "a PNG with nothing said in it")
    feedback = _parsed(path, text)
    side = feedback.preprocessing.size
    if pixels.dtype != np.uint8 or pixels.shape != (side, side):
        raise _none(path, f"{pixels.dtype} pixels of shape {pixels.shape}")
    return feedback, pixels


def list_feedback(folder: Path) -> list[Path]:
    """List what was said, in no particular order of time; raises InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(
            folder, found="no folder", expected="what `args: feedback` of the service names", fix="check the path"
        )
    return sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))


class Erased(NamedTuple):
    """How many slices were removed: those said of the patient, and the same pictures under another name or none."""

    named: int
    same: int


def erase_patient(folder: Path, patient: str, *, key: bytes) -> Erased:
    """Remove all that readers said of a patient; raises InputError, and removes nothing, where a file is damaged or the
    folder was kept by another key.

    The same pixels are the same patient's, so they go too, whoever sent them and whatever name came with them. What
    only looks alike stays: now and then that is somebody else. So does what else came under such another name.

    With it goes what a killed replica left unfinished, if it is theirs or not whole: whose it is cannot be said then.
    One that a replica is just writing may be among those; its reader hears that nothing was kept, and sends it again.

    Returns:
        How many slices that were. What was joined to a dataset before, or learnt from, is not among them.

    """
    check_key(folder, key)
    digits = keyed(key, patient)
    known: dict[Path, _Whose] = {}
    pictures: set[str] = set()
    gone: dict[str, bool] = {}  # name -> whether it was said of the patient; killed before its last step, one has two
    while True:  # again for what got its name meanwhile
        known |= {path: _whose(path) for path in list_feedback(folder) if path not in known}
        slices: list[tuple[Path, str, _Whose | None]] = [(path, path.stem, whose) for path, whose in known.items()]
        slices += [(path, name, _whose_if_whole(path)) for path, name in _unfinished(folder).items()]
        pictures |= {whose.pixels for _, _, whose in slices if whose and whose.patient == digits}
        theirs = [each for each in slices if each[2] is None or each[2].pixels in pictures]
        if not theirs:
            break
        # Those that name the patient come last: a run that is killed before finds the others by them again.
        for path, name, whose in sorted(theirs, key=lambda each: each[2] is not None and each[2].patient == digits):
            path.unlink(missing_ok=True)
            known.pop(path, None)
            if whose:
                gone[name] = whose.patient == digits
    sync_folder(folder)
    return Erased(named=sum(gone.values()), same=len(gone) - sum(gone.values()))


def sweep(folder: Path) -> None:
    """Remove what killed replicas left unfinished. Its readers got no answer, so they have sent it again, or may."""
    for path in _unfinished(folder):
        with suppress(FileNotFoundError):  # another replica is at it, too
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def _unfinished(folder: Path) -> dict[Path, str]:
    """Find the files without a name yet, each with the name that it was to have."""
    found = ((path, UNFINISHED.fullmatch(path.name)) for path in folder.iterdir())
    return {path: match[1] for path, match in found if match}


class _Whose(NamedTuple):
    patient: str | None  # keyed hash
    pixels: str  # their hash


def _whose(path: Path) -> _Whose:
    feedback, pixels = read_feedback(path)
    return _Whose(feedback.patient, pixels_hash(pixels))


def _whose_if_whole(path: Path) -> _Whose | None:
    try:
        return _whose(path)
    except InputError:
        return None


def pixels_hash(pixels: NDArray[np.uint8]) -> str:
    """Hash a prepared slice; hex digits."""
    return sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _parsed(path: Path, text: str) -> Feedback:
    try:
        values = json.loads(text)
    except ValueError:
        raise _none(path, "a text that is no JSON") from None
    return checked(Feedback, values, where=path)


def _none(path: Path, found: str) -> InputError:
    return InputError(path, found=found, expected="a slice that a reader sent", fix="take it out of the folder")
