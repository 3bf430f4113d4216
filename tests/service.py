"""The HTTP app over fakes, asked in this process: no Ray, no torch, no socket."""

import asyncio
import base64
import io
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image

from neuralblack.data.preprocessing import Preprocessing
from neuralblack.service.app import build_app
from neuralblack.service.feedback import FeedbackFolder

MODEL = {
    "name": "tiny-0123456789ab",
    "hash": "0123456789ab" * 5 + "0123",
    "preprocessing": 1,
    "classes": ["glioma", "pituitary"],
}
NAMED = {"name": MODEL["name"], "version": "0123456789ab", "hash": MODEL["hash"]}
MAX_BYTES = 100_000
SLICE = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


@dataclass(frozen=True)
class Reason:
    code: str
    sentence: str


@dataclass(frozen=True)
class Prediction:
    label: str | None = "pituitary"
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = ("pituitary",)
    coverage: float | None = 0.9
    status: str = "ok"
    reasons: tuple[Reason, ...] = ()


SHARES = {"glioma": 0.25, "pituitary": 0.75}
YES = Prediction(probabilities=SHARES)
NO = Prediction(None, None, None, None, "refused", (Reason("colour", "The picture has colours."),))


READER_TOKEN = "anna-may-say-what-it-is"


def feedback_folder(folder):
    """A folder for what one reader, anna, says of slices of the fakes."""
    readers, classes = {"anna": READER_TOKEN}, tuple(MODEL["classes"])
    return FeedbackFolder(folder, b"k" * 32, readers, classes, MODEL["hash"], Preprocessing(size=64))


class Service:
    """The app over fakes: the decoder takes any bytes, the classifier always says pituitary."""

    def __init__(self, *, ready=True, decode=None, classify=None, **options):
        self.decoded = []
        self.app = build_app(
            decode or self.decode,
            classify or self.classify,
            ready=ready if callable(ready) else lambda: ready,
            **({"model": MODEL, "max_bytes": MAX_BYTES} | options),
        )

    async def decode(self, data):
        self.decoded.append(data)
        return SLICE

    async def classify(self, slice_):
        return YES

    def client(self):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://service")

    def request(self, method, address, **options):
        async def ask():
            async with self.client() as client:
                return await client.request(method, address, **options)

        return asyncio.run(ask())

    def predict(self, **options):
        return self.request("POST", options.pop("address", "/predict"), **options)


def png(size=64):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def image(*files, **changed):
    """Files as the tensor `image` of the Open Inference Protocol, in JSON."""
    data = [base64.b64encode(each).decode() for each in files]
    return {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data} | changed


def picture(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def assert_problem(response, status, code, *words):
    """Every refusal has the one shape."""
    assert response.status_code == status
    body = response.json()
    assert set(body) == {"error", "code", "request_id"}
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["error"]
    for word in words:
        assert word in body["error"]
