"""The service that most tests of the page look at: the real app under uvicorn in this process, over quick fakes.

A made-up slice says by its first pixel what the classifier answers, so a test decides by the files that it chooses.
"""

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from tests.service import READER_TOKEN

from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.service.app import build_app
from neuralblack.service.feedback import FeedbackFolder

CLASSES = ["glioma", "meningioma", "pituitary"]
MODEL = {"name": "tiny-0123456789ab", "hash": "0123456789abcdef" * 4, "preprocessing": 1, "classes": CLASSES}
CARD = """---
library_name: neuralblack
---

# tiny-0123456789ab

> Research use only: not a medical device, and no prediction here is a diagnosis.

## What it is for

It says of one slice which of these classes it shows. **Not for**: diagnosis. *Nobody* may rely on <b>it</b>.

## Numbers

| | 613 slices | 95% interval | 45 patients | 95% interval |
|---|---|---|---|---|
| accuracy | 90.7% | 86.1% to 94.2% | 91.1% | 82.2% to 97.8% |
| macro f1 | 89.6% | 84.5% to 93.5% | 90.3% | 80.9% to 97.6% |

## Known limits and leaks

- Heat maps are Grad-CAM: they show what spoke for a class, and often lie beside the tumour.
- Made with `neuralblack train`.
"""
SIZE = 64  # pixels of a slice
TOKEN = "0123456789abcdef-token"  # where a test closes the service
START_S = 30
GLIOMA, MENINGIOMA, UNSURE, PLAIN, REFUSED, UNMARKED = range(6)  # first pixels


@dataclass(frozen=True)
class Reason:
    code: str
    sentence: str


@dataclass(frozen=True)
class Prediction:
    status: str = "ok"
    label: str | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    coverage: float | None = None
    reasons: tuple[Reason, ...] = field(default=())


def shares(*values: float) -> dict[str, float]:
    return dict(zip(CLASSES, values, strict=True))


ANSWERS = {
    GLIOMA: Prediction("ok", "glioma", shares(0.91, 0.0895, 0.0005), ("glioma", "meningioma"), 0.9),
    MENINGIOMA: Prediction("ok", "meningioma", shares(0.2, 0.75, 0.05), ("meningioma",), 0.998),
    UNSURE: Prediction("ok", "glioma", shares(0.4, 0.3, 0.3), ("glioma", "meningioma", "pituitary"), 0.9),
    PLAIN: Prediction("ok", "glioma", shares(0.91, 0.0895, 0.0005)),  # by a model that was never calibrated
    UNMARKED: Prediction("refused", reasons=(Reason("no_box", "This model judges a marked tumour. Draw one."),)),
    REFUSED: Prediction(
        "refused",
        reasons=(
            Reason("colour", "The picture has colours; an MRI slice has none."),
            Reason("unlike", "Nothing like it was among the slices that the model learned from."),
        ),
    ),
}


def slice_file(path: Path, says: int = GLIOMA) -> Path:
    """Write a slice that the fake classifier answers with `ANSWERS[says]`."""
    pixels = np.tile(np.arange(SIZE, dtype=np.uint8) * 3, (SIZE, 1))
    pixels[0, 0] = says
    Image.fromarray(pixels).save(path, "PNG")
    return path


def broken_file(path: Path) -> Path:
    """Write a PNG that ends in the middle."""
    path.write_bytes(slice_file(path).read_bytes()[:60])
    return path


async def decode(data: bytes) -> np.ndarray:
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    except (OSError, SyntaxError):
        raise InputError("upload", found="half a file", expected="one slice", fix="export it again") from None


async def classify(slice_: np.ndarray) -> Prediction:
    return ANSWERS[int(slice_[0, 0]) if slice_.shape == (SIZE, SIZE) else MENINGIOMA]  # no file of a test's own


async def explain(slice_: np.ndarray, label: str) -> np.ndarray:
    return np.tile(np.arange(SIZE, dtype=np.uint8) * 4, (SIZE, 1))


@contextmanager
def page_service(*, heard: list[bytes] | None = None, **options: object) -> Iterator[str]:
    """Serve the app over the fakes, with `options` of `build_app`; its address. `heard` gets all that browsers send."""
    options = {"classify": classify, "explain": explain, "model": MODEL, "card": CARD} | options
    app = build_app(decode, ready=lambda: True, **options)

    async def listening_app(scope, receive, send):
        async def listen():
            message = await receive()
            if heard is not None:
                heard.append(message.get("body", b""))
            return message

        if heard is not None:
            heard.append(repr(scope).encode())  # address and headers
        await app(scope, listen, send)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(listening_app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_S
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), "uvicorn does not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_S)


@contextmanager
def collecting_service(folder: Path, *, size: int = SIZE, **options: object) -> Iterator[str]:
    """Serve the app like `page_service`, with feedback of one reader on slices of `size` pixels, kept in `folder`."""
    readers = {"anna": READER_TOKEN}
    kept = FeedbackFolder(folder, b"k" * 32, readers, tuple(CLASSES), MODEL["hash"], Preprocessing(size=size))
    with page_service(feedback=kept, readers=readers, **options) as url:
        yield url
