"""What /openapi.json says beyond the code: bodies, every status that can come, and who needs a token."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from neuralblack.service.answers import Answer, Facts, FeedbackAnswer, Health, Readiness, StudyAnswer, Trouble
from neuralblack.service.auth import SCHEME
from neuralblack.service.examples import add_examples
from neuralblack.service.feedback import LABEL, PATIENT
from neuralblack.service.idempotency import KEY
from neuralblack.service.inference_messages import (
    InferAnswer,
    InferRequest,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from neuralblack.service.marks import BOX
from neuralblack.service.open_inference import HEADER, SERVER
from neuralblack.service.routes import MODEL, MODEL_PLACES
from neuralblack.service.uploads import FIELD

WORK = (400, 401, 408, 413, 422, 429, 500, 502, 503, 504)
MEANING = {
    400: "Nothing was sent, or a form or a request of tensors that cannot be read.",
    401: "The token is missing or wrong.",
    403: "The operator has not switched feedback on; nothing is kept.",
    404: "There is no such model or version, or nothing was written about it.",
    408: "The upload did not arrive in time.",
    409: "Another slice or class came under this Idempotency-Key.",
    413: "The upload is too large.",
    415: "The upload is of no kind this service reads.",
    422: "The file cannot be read as a slice, or a parameter does not fit.",
    429: "The service has as much to do as it can hold; Retry-After says when to come back.",
    500: "The service failed; its log says more under the request's id.",
    502: "The replica at work on it ended, says the proxy; Retry-After says when to come back.",
    503: "The model is being loaded, or the answer would take too long; Retry-After says when to come back.",
    504: "No answer came in time, says the proxy; Retry-After says when to come back.",
    507: "There is no room to keep it, or its folder is out of reach.",
}
RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
SHAPES = "#/components/schemas/{model}"
_FILE = {"type": "string", "format": "binary"}
SLICE_BODY = {
    "required": True,
    "content": {
        kind: {"schema": _FILE}
        for kind in ("image/png", "image/jpeg", "image/tiff", "application/dicom", "application/octet-stream")
    }
    | {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _FILE}},
        }
    },
}
STUDY_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {FIELD: {"type": "array", "minItems": 1, "items": _FILE}},
            }
        }
    },
}

INFER_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": SHAPES.format(model=InferRequest.__name__)}},
        "application/octet-stream": {"schema": _FILE},
    },
}
BINARY_ANSWER: dict[str, Any] = {
    "description": "JSON, and behind it the outputs that were asked for as binary data.",
    "headers": {
        HEADER: {"description": "Where the JSON ends; only there with binary data.", "schema": {"type": "integer"}}
    },
    "content": {"application/octet-stream": {"schema": _FILE}},
}
FEEDBACK_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD, LABEL],
                "properties": {
                    FIELD: _FILE | {"description": "The slice again: the service has not kept it."},
                    LABEL: {"type": "string", "description": "One of the model's classes."},
                    PATIENT: {
                        "type": "string",
                        "maxLength": 128,
                        "description": "Whose it is; only a keyed hash of it is kept.",
                    },
                },
            }
        }
    },
}


def troubles(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers, all of one shape."""
    return {
        status: {"model": Trouble, "description": MEANING[status]}
        | ({"headers": RETRY} if status in (429, 502, 503, 504) else {})
        for status in statuses
    }


def _flag(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": {"type": "boolean", "default": False},
        "description": description,
    }


# What FastAPI is told of each route.
DESCRIBED: dict[str, dict[str, Any]] = {
    "/predict": {
        "summary": "Classify one slice",
        "response_model": Answer,
        "responses": troubles(*WORK, 415),
        "openapi_extra": {
            "requestBody": SLICE_BODY,
            "parameters": [
                _flag("preview", "Also return the slice as the model sees it."),
                _flag("explain", "Also return where the network looked for its label."),
                _flag(
                    "again",
                    "This slice was answered before, and is only to be shown: it counts neither in classes and drift "
                    "nor for a challenger.",
                ),
                {
                    "name": BOX,
                    "in": "query",
                    "required": False,
                    "schema": {"type": "string", "pattern": r"^\d+,\d+,\d+,\d+$"},
                    "description": "x0,y0,x1,y1 around the tumour, as 120,80,200,160: pixels of the upload, upright, "
                    "half-open. For a model that is shown marked tumours (`needs_box` of /model), which refuses one "
                    "without.",
                },
            ],
        },
    },
    "/study": {
        "summary": "Give one verdict on a patient's slices",
        "response_model": StudyAnswer,
        "responses": troubles(*WORK),
        "openapi_extra": {"requestBody": STUDY_BODY},
    },
    "/feedback": {
        "summary": "Keep what a reader says of a slice",
        "response_model": FeedbackAnswer,
        "responses": troubles(*WORK, 403, 409, 415, 507),
        "openapi_extra": {
            "requestBody": FEEDBACK_BODY,
            "parameters": [
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": True,
                    "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
                    "description": "Made by the client for what it says; a repetition under it is kept once.",
                }
            ],
        },
    },
    "/model": {
        "summary": "Describe the model and the limits",
        "response_model": Facts,
        "responses": troubles(401, 500),
    },
    "/card": {
        "summary": "Show the model's card",
        "response_class": Response,
        "responses": {
            200: {
                "description": "The model's card: what it is for, its numbers, its limits.",
                "content": {"text/markdown": {"schema": {"type": "string"}}},
            }
        }
        | troubles(401, 404, 500),
    },
    "/metrics": {
        "summary": "Count what this replica has done",
        "response_class": Response,
        "responses": {
            200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        }
        | troubles(401, 500),
    },
    "/health": {"summary": "Say that the process answers", "response_model": Health, "responses": troubles(500)},
    "/ready": {
        "summary": "Say that slices would be classified",
        "response_model": Readiness,
        "responses": troubles(500, 503),
    },
}


def _places(place: str) -> list[dict[str, Any]]:
    """Describe the parts of an address that name a model."""
    parts = {"model_name": f"{SERVER}, or the model's own name."}
    if place != MODEL:
        parts["model_version"] = "The first 12 digits of the model's hash."
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": words}
        for name, words in parts.items()
    ]


def _of_model(place: str) -> dict[str, dict[str, Any]]:
    """Describe the routes of the Open Inference Protocol below one place."""
    where = {"openapi_extra": {"parameters": _places(place)}}
    head = {
        "name": HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "integer", "minimum": 0},
        "description": "How many of the body's bytes are JSON, where binary tensor data follow.",
    }
    return {
        place: {
            "summary": "Describe the model's tensors",
            "response_model": ModelMetadata,
            "responses": troubles(401, 404, 422, 500),
        }
        | where,
        f"{place}/ready": {
            "summary": "Say that the model can infer",
            "response_model": ModelReady,
            "responses": troubles(404, 500, 503),
        }
        | where,
        f"{place}/infer": {
            "summary": "Classify slices as tensors",
            "response_model": InferAnswer,
            "responses": {200: BINARY_ANSWER} | troubles(*WORK, 404, 415),
            "openapi_extra": {"requestBody": INFER_BODY, "parameters": [*_places(place), head]},
        },
    }


DESCRIBED |= {
    "/v2": {"summary": "Describe the server", "response_model": ServerMetadata, "responses": troubles(401, 422, 500)},
    "/v2/health/live": {"summary": "Say that the server answers", "response_model": Live, "responses": troubles(500)},
    "/v2/health/ready": {
        "summary": "Say that the server can infer",
        "response_model": Ready,
        "responses": troubles(500, 503),
    },
    **{path: described for place in MODEL_PLACES for path, described in _of_model(place).items()},
}


TAGS = {  # the first that an address starts with -> the heading that it stands under
    "/v2": "Open Inference Protocol",
    "/predict": "Slices",
    "/study": "Slices",
    "/feedback": "Slices",
    "/model": "The model",
    "/card": "The model",
    "/": "The service",
}


def describe(app: FastAPI, *, token: bool) -> None:
    """Let the app describe itself once, with the token where one is asked for: the routes that can say 401."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema["servers"] = [{"url": "."}]  # behind a proxy this service may be below an address of another
            schema["components"]["securitySchemes"] = SCHEME
            _, sent = models_json_schema([(InferRequest, "validation")], ref_template=SHAPES)
            schema["components"]["schemas"] |= sent["$defs"]
            add_examples(schema["paths"])
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["tags"] = [next(tag for start, tag in TAGS.items() if path.startswith(start))]
                    if path == "/feedback":
                        operation["security"] = [{"reader": []}]
                    elif "401" in operation["responses"]:
                        operation["security"] = [{"bearer": []}] if token else [{"bearer": []}, {}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
