"""What the service answers: the shapes of its interface, and the bytes that follow them.

The shapes describe the interface in /openapi.json; the answers themselves are plain dictionaries, because checking our
own answer against our own shape costs more than all the rest of a request. A test holds one against the other.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from starlette.responses import Response

NO_CARD = "This model was promoted without a report, so it has no card."
NOTICE = "Research use only; not a diagnosis."
HEAT_MAP_NOTE = "It shows where the network looked, not where the tumour is."
# Vermillion, of Okabe and Ito's palette (2008) for readers who are colour-blind or not.
HEAT_MAP_RGB = (213, 94, 0)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))  # one, not one for each answer


class Reason(Protocol):
    """Why a slice is refused; `inference.predictor.Reason` is one."""

    @property
    def code(self) -> str:
        """A word for programs."""

    @property
    def sentence(self) -> str:
        """A sentence for people."""


class Prediction(Protocol):
    """What the app needs of a prediction; `inference.predictor.Prediction` is one."""

    @property
    def status(self) -> str:
        """Either "ok" or "refused"."""

    @property
    def label(self) -> str | None:
        """The most probable class; None where refused."""

    @property
    def probabilities(self) -> dict[str, float] | None:
        """One calibrated probability for each class of the model, 0..1, of sum 1; None where refused."""

    @property
    def prediction_set(self) -> tuple[str, ...] | None:
        """The classes that cannot be ruled out, most probable first; None where refused."""

    @property
    def coverage(self) -> float | None:
        """For which share of slices, 0..1, sets are meant to hold the truth; None where refused or not calibrated."""

    @property
    def reasons(self) -> Sequence[Reason]:
        """Why it is refused; empty where it is not."""


class ModelName(BaseModel):
    """Which model answered."""

    name: str = Field(description="The name on the model's card.")
    version: str = Field(description="The first 12 digits of the hash.")
    hash: str = Field(description="The hash of its manifest, which covers every weight.")


class Why(BaseModel):
    """One reason for a refusal."""

    code: str = Field(description="A word for programs.")
    sentence: str = Field(description="A sentence for people.")


class Answer(BaseModel):
    """The answer for one slice: a prediction, or a refusal with its reasons and without a label."""

    status: Literal["ok", "refused"] = Field(description="`refused`: this does not look like a slice the model knows.")
    label: str = Field("", description="The most probable class. Absent where refused.")
    probabilities: dict[str, float] = Field(
        {}, description="One for each class the model knows; they sum to 1. Absent where refused."
    )
    prediction_set: list[str] = Field(
        [], description="The classes that cannot be ruled out, the most probable first. Absent where refused."
    )
    coverage: float = Field(
        0.0,
        description="The share of slices for which sets are meant to hold the truth. "
        "Absent where refused or not calibrated.",
    )
    reasons: list[Why] = Field([], description="Why it is refused. Only there where it is.")
    model: ModelName
    preprocessing: int = Field(description="Version of the preprocessing between the file and the model.")
    request_id: str = Field(description="Also in the header X-Request-ID; quote it when something is wrong.")
    notice: str
    preview: str = Field("", description="The slice as the model sees it, a grey PNG as data URI; on request.")
    height: int = Field(0, description="Of the upload in pixels, upright; with the preview.")
    width: int = Field(0, description="Of the upload in pixels, upright; with the preview.")
    heat_map: str = Field(
        "", description="A PNG as data URI to lay over the preview: one colour, as opaque as it counted; on request."
    )
    heat_map_note: str = Field("", description="What the heat map is not.")


class StudySlice(BaseModel):
    """What one slice of a study came to."""

    index: int = Field(description="Its place in the request, from 0.")
    status: Literal["ok", "refused", "unreadable"]
    label: str = Field("", description="Its own most probable class. Only there where ok.")
    probabilities: dict[str, float] = Field({}, description="Only there where ok.")
    reasons: list[Why] = Field([], description="Only there where not ok.")


class Disagreement(BaseModel):
    """How far the slices of a study agree."""

    agreeing: float = Field(
        0.0, description="Share of the slices that count whose own label is the verdict. Absent where none counts."
    )
    slices: int = Field(description="All slices of the request.")
    refused: int = Field(description="Those that do not look like a slice the model knows; they don't count.")
    unreadable: int = Field(description="Those that could not be read; they don't count.")


class StudyAnswer(BaseModel):
    """One verdict over the slices of one patient. It has no prediction set: no guarantee holds for a mean."""

    status: Literal["ok", "refused"]
    label: str = Field("", description="The most probable class of all slices together. Absent where refused.")
    probabilities: dict[str, float] = Field(
        {}, description="Softmax of the mean of the slices' log-probabilities. Absent where refused."
    )
    reasons: list[Why] = Field([], description="Why there is no verdict. Only there where refused.")
    disagreement: Disagreement
    slices: list[StudySlice]
    model: ModelName
    preprocessing: int
    request_id: str
    notice: str


class FeedbackAnswer(BaseModel):
    """What became of a reader's feedback; it is on the server's disk when this arrives."""

    status: Literal["kept", "repeated"] = Field(description="`repeated`: it was kept before, under the same key.")
    label: str = Field(description="What the reader says it is.")
    agrees: bool = Field(description="Whether the model says so, too.")
    model: ModelName
    preprocessing: int
    request_id: str
    notice: str


class Facts(BaseModel):
    """The model that answers, what it takes, and what the service can do with it."""

    name: str = Field(description="The name on the model's card.")
    version: str = Field(description="The first 12 digits of the hash.")
    hash: str = Field(description="The hash of its manifest, which covers every weight.")
    classes: list[str] = Field(description="What it can say, in the order of its outputs.")
    preprocessing: int = Field(description="Version of the preprocessing between the file and the model.")
    size: int = Field(0, description="Pixels a side of a prepared slice.")
    engine: str = Field("", description="What runs the network.")
    max_bytes: int = Field(description="Of the largest slice.")
    max_study_bytes: int = Field(description="Of the largest study.")
    max_slices: int = Field(description="Of a study.")
    explains: bool = Field(description="Whether it can show where it looked.")
    needs_box: bool = Field(description="Whether each slice must come with the box of its tumour.")
    feedback: bool = Field(description="Whether readers may say what a slice is.")
    card: bool = Field(description="Whether the model was promoted with a report, whose card /card gives.")
    notice: str


class Health(BaseModel):
    """It answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """A slice that is sent now would be classified."""

    status: Literal["ready"]
    model: ModelName
    token: bool = Field(description="Whether a token is asked for.")


class Trouble(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="A sentence for people.")
    code: str = Field(description="A word for programs.")
    request_id: str = Field(description="Also in the header X-Request-ID; quote it when something is wrong.")


def named(model: Mapping[str, object]) -> dict[str, str]:
    """Name a model by its facts, as `ModelName` describes it."""
    digits = str(model["hash"])
    return {"name": str(model["name"]), "version": digits[:12], "hash": digits}


def result(prediction: Prediction) -> dict[str, Any]:
    """Write down one slice's result: what a refusal lacks is absent, not null."""
    if prediction.status != "ok":
        return {"status": "refused", "reasons": whys(prediction.reasons)}
    written: dict[str, Any] = {
        "status": "ok",
        "label": prediction.label,
        "probabilities": prediction.probabilities,
    }
    if prediction.prediction_set is not None:
        written["prediction_set"] = list(prediction.prediction_set)
    if prediction.coverage is not None:
        written["coverage"] = prediction.coverage
    return written


def whys(reasons: Sequence[Reason]) -> list[dict[str, str]]:
    """Write down reasons."""
    return [{"code": reason.code, "sentence": reason.sentence} for reason in reasons]


def json_response(content: dict[str, Any]) -> Response:
    """Send plain values; a number that is none is a bug of ours and raises ValueError."""
    return Response(_ENCODER.encode(content).encode(), media_type="application/json")


def preview(question: object) -> dict[str, Any]:
    """Draw a question's slice as a grey PNG that a page can show without another request, and say how large it came."""
    pixels = pixels_of(question)
    height, width = getattr(question, "shape", None) or pixels.shape
    return {"preview": _data_uri(Image.fromarray(pixels)), "height": height, "width": width}


def heat_map(strength: NDArray[np.uint8]) -> str:
    """Draw a heat map (S, S) uint8, 255 where most was looked at, as a PNG of one colour that is as opaque as strong.

    So it can be laid over the preview as it is, and a slider needs to change only the picture's opacity.
    """
    colour = np.empty((*strength.shape, 4), np.uint8)
    colour[..., :3] = HEAT_MAP_RGB
    colour[..., 3] = strength
    return _data_uri(Image.fromarray(colour))


def pixels_of(question: object) -> NDArray[np.uint8]:
    """Find the slice (S, S) uint8 in what the decoder gave: its `pixels`, or itself."""
    return np.asarray(getattr(question, "pixels", question), np.uint8)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
