"""The HTTP face of a model. It knows neither Ray nor torch, so tests call it in their own process."""

import base64
import io
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Annotated, Literal, Protocol

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from neuralblack.data.slices import Prepared
from neuralblack.service.decoder import DecoderDownError
from neuralblack.service.problems import Problem, answer_problems
from neuralblack.service.uploads import FIELD, read_upload

NOTICE = "Research use only; not a diagnosis."
PAGE = {  # address -> file in page/, media type
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Classified(Protocol):
    """What the app needs of a prediction; `inference.predictor.Prediction` is one."""

    @property
    def label(self) -> str | None:
        """The most probable class; None where the slice was refused."""

    @property
    def probabilities(self) -> dict[str, float] | None:
        """One probability for each class of the model, 0..1, of sum 1."""


class ModelName(BaseModel):
    """Which model answered."""

    name: str = Field(description="The name on the model's card.")
    hash: str = Field(description="The hash of its manifest, which covers every weight.")


class Answer(BaseModel):
    """The prediction for one slice."""

    status: Literal["ok", "refused"] = "ok"
    label: str | None = Field(None, description="The most probable class.")
    probabilities: dict[str, float] | None = Field(
        None, description="One for each class the model knows; they sum to 1."
    )
    model: ModelName
    preprocessing: int = Field(description="Version of the preprocessing between the file and the model.")
    request_id: str = Field(description="Also in the header X-Request-ID; quote it when something is wrong.")
    notice: str = NOTICE
    preview: str | None = Field(None, description="The slice as the model sees it, a PNG as data URI; on request.")


class Trouble(BaseModel):
    """Why there is no prediction."""

    error: str = Field(description="A sentence for people.")
    code: str = Field(description="A word for programs.")
    request_id: str


def build_app(
    decode: Callable[[bytes], Awaitable[Prepared]],
    classify: Callable[[Prepared], Awaitable[Classified]],
    *,
    ready: Callable[[], bool],
    model: Mapping[str, object],
    max_bytes: int = 20 * 2**20,
    id_header: bool = True,
) -> FastAPI:
    """Build the service around two functions.

    Args:
        decode: an upload's bytes -> the prepared slice, in a limited process; raises InputError.
        classify: such a slice -> its prediction, batched with those of other requests.
        ready: whether the model is loaded and warm. Until then there are no predictions, only 503.
        model: facts about it for the page and the answers; at least `name`, `hash` and `preprocessing` (its version).
        max_bytes: largest upload.
        id_header: False where the server adds X-Request-ID to every response by itself, as Serve does.
    """
    app = FastAPI(
        title="NeuralBlack",
        description=f"Brain-tumour subtypes from MRI slices. {NOTICE}",
        docs_url=None,  # FastAPI's pages for /openapi.json load their scripts from elsewhere
        redoc_url=None,
    )
    answer_problems(app, id_header=id_header)
    name = ModelName(name=str(model["name"]), hash=str(model["hash"]))
    version = int(str(model["preprocessing"]))

    @app.post(
        "/predict",
        response_model_exclude_none=True,
        responses={status: {"model": Trouble} for status in (400, 413, 415, 422, 500, 503)},
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(
        request: Request,
        preview: Annotated[bool, Query(description="Also return the slice as the model sees it.")] = False,
    ) -> Answer:
        """Classify one slice: the body is the file (PNG, JPEG, TIFF, MATLAB v7.3), or a form with a field `file`."""
        if not ready():
            raise _not_ready()
        data = await read_upload(request, max_bytes=max_bytes)
        try:
            slice_ = await decode(data)
        except DecoderDownError:
            raise Problem(
                503, "decoder_down", "The service cannot read files at the moment. Try again soon.", retry_after_s=5
            ) from None
        prediction = await classify(slice_)
        return Answer(
            status="refused" if prediction.label is None else "ok",
            label=prediction.label,
            probabilities=prediction.probabilities,
            model=name,
            preprocessing=version,
            request_id=request.state.request_id,
            preview=_data_uri(slice_.pixels) if preview else None,
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that this process answers; it need not be able to classify yet."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"model": Trouble}})
    async def readiness() -> JSONResponse:
        """Say whether a slice sent now would be classified, and by which model."""
        if not ready():
            raise _not_ready()
        return JSONResponse({"status": "ready", "model": name.model_dump()})

    @app.get("/model")
    async def facts() -> dict[str, object]:
        """Describe the model that answers here."""
        return {**model, "max_bytes": max_bytes, "notice": NOTICE}

    page = resources.files("neuralblack.service") / "page"
    for address, (file, kind) in PAGE.items():
        _add_file(app, address, page.joinpath(file).read_bytes(), kind)
    return app


_BODY = {
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/png", "image/jpeg", "image/tiff", "application/octet-stream")
    }
    | {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "string", "format": "binary"}},
            }
        }
    },
}


def _not_ready() -> Problem:
    return Problem(503, "not_ready", "The model is still being loaded. Try again in a few seconds.", retry_after_s=2)


def _add_file(app: FastAPI, address: str, content: bytes, kind: str) -> None:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.add_api_route(address, file, methods=["GET", "HEAD"], include_in_schema=False)


def _data_uri(slice_: NDArray[np.uint8]) -> str:
    """Draw a slice (S, S) uint8 as a PNG that a page can show without another request."""
    buffer = io.BytesIO()
    Image.fromarray(slice_).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
