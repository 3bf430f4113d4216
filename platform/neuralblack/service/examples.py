"""Example answers for /openapi.json, most made by what makes the real ones; a test asks the app for each status."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request

from neuralblack.data.readers import KINDS
from neuralblack.errors import InputError
from neuralblack.service.answers import NO_CARD, NOTICE, named, result
from neuralblack.service.feedback import NO_ROOM, OFF
from neuralblack.service.inference_messages import OUTPUT_NAMES
from neuralblack.service.meter import Meter
from neuralblack.service.open_inference import IMAGE, SERVER, SERVER_METADATA, Inference, OpenInference
from neuralblack.service.overload import Places, slow_upload
from neuralblack.service.problems import Problem, as_problem
from neuralblack.service.routes import MODEL_PLACES, READER, TOKEN, flags
from neuralblack.service.study import BODY_SLICES, MOST_SLICES, no_form, study_too_large, summed_up
from neuralblack.service.uploads import checked_upload, too_large

MODEL = {
    "name": "lite0-0f6c1d2e3a4b",
    "hash": "9d3c51f0a2b7".ljust(64, "0"),
    "classes": ["glioma", "meningioma", "pituitary"],
    "preprocessing": 1,
    "size": 256,
    "engine": "openvino-bf16",
}
CARD = "# lite0-0f6c1d2e3a4b\n\nResearch use only; not a medical device.\n"
TEXTS = ("/card", "/metrics")  # the paths that do not answer in JSON
MAX_BYTES = 20 * 2**20
DEADLINE_S = 10
REQUEST_ID = "3f0a9c"
# As `cluster/haproxy.sh` says them in the service's place.
ENDED = "The replica at work on this request ended. Try again."
LATE = "The answer took too long. Try again in a few seconds."


@dataclass(frozen=True)
class Why:
    """A reason."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Said:
    """A prediction."""

    status: str
    label: str | None = None
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    coverage: float | None = None
    reasons: tuple[Why, ...] = ()


OK = Said("ok", "pituitary", {"glioma": 0.0625, "meningioma": 0.03125, "pituitary": 0.90625}, ("pituitary",), 0.9375)
REFUSED = Said("refused", reasons=(Why("colour", "The picture has colours; an MRI slice has none."),))


def answers() -> dict[str, dict[str, Any]]:
    """Make the answers of each path by what they show."""
    end = {"model": named(MODEL), "preprocessing": 1, "request_id": REQUEST_ID, "notice": NOTICE}
    protocol = OpenInference(MODEL, takes_box=False, must_be_ready=lambda: None)
    limits = {"max_bytes": MAX_BYTES, "max_study_bytes": BODY_SLICES * MAX_BYTES, "max_slices": MOST_SLICES}
    can = {"explains": True, "needs_box": False, "feedback": False, "card": True}
    made: dict[str, dict[str, Any]] = {
        "/predict": {"a prediction": result(OK) | end, "a refusal": result(REFUSED) | end},
        "/study": {"a verdict": summed_up([OK, OK, REFUSED]) | end},
        "/feedback": {"kept": {"status": "kept", "label": "glioma", "agrees": False} | end},
        "/model": {"facts": MODEL | named(MODEL) | limits | can | {"notice": NOTICE}},
        "/health": {"alive": {"status": "ok"}},
        "/ready": {"ready": {"status": "ready", "model": named(MODEL), "token": False}},
        "/v2": {"metadata": SERVER_METADATA},
        "/v2/health/live": {"alive": {"live": True}},
        "/v2/health/ready": {"ready": {"ready": True}},
    }
    for place in MODEL_PLACES:
        made[place] = {"metadata": protocol.metadata(SERVER)}
        made[f"{place}/ready"] = {"ready": {"name": SERVER, "ready": True}}
        made[f"{place}/infer"] = {
            "a prediction": _inferred(protocol, OK, asks_status=False),
            "a refusal, status asked for": _inferred(protocol, REFUSED, asks_status=True),
        }
    return made


def inference_request() -> dict[str, Any]:
    """Make a request of the Open Inference Protocol with one small slice."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(0, 256, dtype=np.uint8).reshape(16, 16)).save(buffer, "PNG")
    data = [base64.b64encode(buffer.getvalue()).decode()]
    return {"inputs": [IMAGE.as_json() | {"shape": [1], "data": data}]}


def problems(path: str) -> dict[int, Problem]:
    """Make what a request to a path may hear, by status; those of other paths are among them."""
    broken = InputError("upload", found="half a file", expected="one slice", fix="export it again")
    protocol = OpenInference(MODEL, takes_box=False, must_be_ready=lambda: None)
    heard = {
        400: _problem_of(lambda: checked_upload(b"", max_bytes=MAX_BYTES)),
        401: Problem(401, "unauthorised", TOKEN),
        403: Problem(403, "feedback_off", OFF),
        404: _problem_of(lambda: protocol.known("another", "1")),
        408: slow_upload(DEADLINE_S),
        409: Problem(409, "other_feedback", "Something else came under this Idempotency-Key. Use a new one."),
        413: too_large(MAX_BYTES),
        415: _problem_of(lambda: checked_upload(KINDS.encode(), max_bytes=MAX_BYTES)),
        422: _problem_of(lambda: flags(Request({"type": "http", "query_string": b"misspelt=true"}))),
        429: _problem_of(lambda: Places(0).take(1)),
        500: as_problem(Exception()),
        502: Problem(502, "unavailable", ENDED),
        503: Problem(503, "not_ready", "The model is being loaded, or loaded again. Try again in a few seconds."),
        504: Problem(504, "too_slow", LATE),
        507: Problem(507, "no_room", NO_ROOM),
    }
    match path:
        case "/predict":
            heard[422] = as_problem(broken)
        case "/study":
            heard |= {400: no_form(), 413: study_too_large(BODY_SLICES * MAX_BYTES)}
        case "/feedback":
            heard |= {401: Problem(401, "unauthorised", READER), 422: as_problem(broken)}
        case "/card":
            heard[404] = Problem(404, "no_card", NO_CARD)
        case _ if path.endswith("/infer"):
            heard[422] = _problem_of(lambda: _inferred(protocol, REFUSED, asks_status=False))
    return heard


def add_examples(paths: dict[str, Any]) -> None:
    """Put the examples into the paths of a description."""
    made = answers()
    for path, operations in paths.items():
        for operation in operations.values():
            replies = operation["responses"]
            for status, problem in problems(path).items():
                if str(status) in replies:
                    body = json.loads(bytes(problem.response(REQUEST_ID).body))
                    replies[str(status)]["content"]["application/json"]["example"] = body
            if path in TEXTS:
                (content,) = replies["200"]["content"].values()
                content["example"] = CARD if path == "/card" else _counted()
            else:
                shown = {name: {"value": value} for name, value in made[path].items()}
                replies["200"]["content"]["application/json"]["examples"] = shown
            if path.endswith("/infer"):
                operation["requestBody"]["content"]["application/json"]["example"] = inference_request()


def _inferred(protocol: OpenInference, said: Said, *, asks_status: bool) -> Any:
    asked = Inference("mine-1", [b""], [], dict.fromkeys(OUTPUT_NAMES, False), asks_status)
    return json.loads(bytes(protocol.answer(SERVER, asked, [said]).body))


def _counted() -> str:
    meter = Meter()
    meter.request("predict", "ok")
    lines = meter.text().decode().splitlines(keepends=True)
    return "".join(line for line in lines if "neuralblack_requests_total" in line)


def _problem_of(call: Callable[[], object]) -> Problem:
    try:
        call()
    except Problem as problem:
        return problem
    raise AssertionError("an example of what is refused was not")
