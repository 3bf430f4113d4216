"""The Open Inference Protocol (KServe's V2, over REST) on the service: clients of other servers ask it unchanged.

Slices come as whole files, one an element of the tensor `image`, and go the way of POST /predict. A refused slice has
no class, and every number would be taken for one by whoever looks for the largest: so it ends the request with 422,
unless the output `status` is asked for by name.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from neuralblack import __version__
from neuralblack.data.slices import Box
from neuralblack.errors import InputError
from neuralblack.service.answers import NOTICE, Prediction, json_response, named, whys
from neuralblack.service.inference_messages import OUTPUT_NAMES, InferRequest, InputTensor, OutputName
from neuralblack.service.problems import Problem
from neuralblack.service.routes import flags
from neuralblack.service.study import BODY_SLICES
from neuralblack.service.tensors import (
    NUMBERS,
    Tensor,
    Values,
    check_shape,
    from_bytes,
    from_json,
    split_body,
    to_bytes,
    to_json,
)
from neuralblack.service.uploads import FRAME_BYTES, checked_upload, read_body, size_of

SERVER = "neuralblack"
HEADER = "Inference-Header-Content-Length"
IMAGE, BOX = Tensor("image", "BYTES", (-1,)), Tensor("box", "INT64", (-1, 4))
SERVER_METADATA = {"name": SERVER, "version": __version__, "extensions": ["binary_tensor_data"]}
INPUTS = {"image": IMAGE, "box": BOX}
MOST_MARKS = 2048  # commas and brackets of a request's JSON; 64 slices with their boxes have 500
NONE = -1.0  # stands where a refused slice has no number: never a probability, and JSON has no NaN


@dataclass(frozen=True)
class Inference:
    """One request: `files` with as many `boxes`, none where it has none; `outputs` by whether each goes as bytes."""

    id: str
    files: list[bytes]
    boxes: list[Box]
    outputs: dict[OutputName, bool]
    asks_status: bool


class OpenInference:
    """The protocol's routes that only tell, and what an answer tells of the model."""

    def __init__(self, model: Mapping[str, Any], *, takes_box: bool, must_be_ready: Callable[[], None]) -> None:
        """Describe a model.

        Args:
            model: its `name`, `hash`, `classes` and `preprocessing`.
            takes_box: whether each slice comes with the box of a tumour.
            must_be_ready: raises Problem 503 while nothing can be classified.
        """
        known = named(model)
        self._names, self._version = (SERVER, known["name"]), known["version"]
        self._classes, self._takes_box, self._must_be_ready = tuple(model["classes"]), takes_box, must_be_ready
        self._facts = {
            "classes": ",".join(self._classes),
            "name": known["name"],
            "hash": known["hash"],
            "preprocessing": int(model["preprocessing"]),
            "notice": NOTICE,
        }

    async def server(self, request: Request) -> Response:
        """Say what this server is and which extensions of the Open Inference Protocol it speaks."""
        flags(request)
        return json_response(SERVER_METADATA)

    async def live(self, request: Request) -> Response:
        """Say that this process answers; it need not be able to classify yet."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """Say whether a slice sent now would be classified."""
        self._must_be_ready()
        return json_response({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """Say whether this model, in this version, would classify a slice sent now."""
        name = self.asked_model(request)
        self._must_be_ready()
        return json_response({"name": name, "ready": True})

    async def model(self, request: Request) -> Response:
        """Describe the tensors that the model takes and gives, and the one version of it that is served."""
        flags(request)
        return json_response(self.metadata(self.asked_model(request)))

    def metadata(self, name: str) -> dict[str, Any]:
        """Describe the model, under one of its names."""
        inputs = [IMAGE.as_json() | {"parameters": {"content_type": "base64"}}]
        classes = {"parameters": {"classes": self._facts["classes"]}}
        return {
            "name": name,
            "versions": [self._version],
            "platform": "neuralblack",
            "inputs": [*inputs, BOX.as_json()] if self._takes_box else inputs,
            "outputs": [
                each.as_json() | (classes if len(each.shape) > 1 else {})
                for each in outputs_of(len(self._classes)).values()
            ],
        }

    def asked_model(self, request: Request) -> str:
        """Find the model that an address names; raises Problem 404 for another one, or another version."""
        name, version = request.path_params["model_name"], request.path_params.get("model_version", self._version)
        return self.known(str(name), str(version))

    def known(self, name: str, version: str) -> str:
        """Give back the name of the model that is served; raises Problem 404 for another one, or another version."""
        if name not in self._names or version != self._version:
            names = " and ".join(self._names)
            sentence = f"There is no such model here. Its names are {names}, its only version is {self._version}."
            raise Problem(404, "unknown_model", sentence)
        return name

    def answer(self, name: str, asked: Inference, predictions: Sequence[Prediction]) -> Response:
        """Write down what was asked for; raises Problem 422 where a slice is refused and `status` was not asked for."""
        if not asked.asks_status:
            _no_refusal(predictions)
        described, values = outputs_of(len(self._classes)), values_of(predictions, self._classes)
        outputs, parts = [], []
        for output, binary in asked.outputs.items():
            tensor = described[output].as_json() | {"shape": [len(predictions), *described[output].shape[1:]]}
            if binary:
                parts.append(to_bytes(values[output]))
                outputs.append(tensor | {"parameters": {"binary_data_size": len(parts[-1])}})
            else:
                outputs.append(tensor | {"data": to_json(values[output])})
        head = {"model_name": name, "model_version": self._version}
        head |= {"id": asked.id} if asked.id else {}
        return _response(head | {"parameters": self._facts, "outputs": outputs}, parts)


async def read_inference(request: Request, *, max_bytes: int, most: int) -> Inference:
    """Read a request, as JSON or with bytes behind it.

    Args:
        request: its body is no longer than `BODY_SLICES` times `max_bytes`, its JSON than one slice in base64.
        max_bytes: largest slice.
        most: slices.

    Raises:
        Problem: 400 no request of the protocol, 413 too large or too many, 400, 413 or 415 as for any upload.
    """
    whole = BODY_SLICES * max_bytes
    try:
        body = await read_body(request, max_bytes=whole)
    except Problem as problem:
        sentence = f"The request is larger than {size_of(whole)}. Send fewer slices."
        raise Problem(413, problem.code, sentence) from None
    head, rest = split_body(body, request.headers.get(HEADER))
    asked = _parsed(head, most_bytes=max_bytes * 4 // 3 + FRAME_BYTES)
    values = _values(asked.inputs, rest, most=most)
    if IMAGE.name not in values:
        raise IMAGE.bad("is missing: it holds the slices, each a whole file")
    files = [checked_upload(bytes(each), max_bytes=max_bytes) for each in values[IMAGE.name]]
    boxes = [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in values.get(BOX.name, [])]
    if boxes and len(boxes) != len(files):
        raise BOX.bad("must have a box for each slice of image")
    return Inference(asked.id, files, boxes, _outputs(asked), any(each.name == "status" for each in asked.outputs))


async def classify_all(
    asked: Inference, classify: Callable[[bytes, Box | None], Awaitable[Prediction]]
) -> list[Prediction]:
    """Classify all slices at the same time, so that they share batches; raises what the first of them raised."""
    boxes: Sequence[Box | None] = asked.boxes or [None] * len(asked.files)
    answers = await asyncio.gather(*map(classify, asked.files, boxes), return_exceptions=True)
    for index, answer in enumerate(answers):
        if isinstance(answer, InputError):
            raise Problem(422, "unreadable", str(answer.at(f"image[{index}]")))
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def outputs_of(classes: int) -> dict[OutputName, Tensor]:
    """Describe the outputs of a model of so many classes, by name."""
    tensors: dict[OutputName, Tensor] = {
        "label": Tensor("label", "BYTES", (-1,)),
        "probabilities": Tensor("probabilities", "FP32", (-1, classes)),
        "prediction_set": Tensor("prediction_set", "BOOL", (-1, classes)),
        "coverage": Tensor("coverage", "FP32", (-1,)),
        "status": Tensor("status", "BYTES", (-1,)),
        "reasons": Tensor("reasons", "BYTES", (-1,)),
    }
    return tensors


def values_of(predictions: Sequence[Prediction], classes: Sequence[str]) -> dict[OutputName, Values]:
    """Write predictions as the outputs of `outputs_of`.

    Where a slice is refused its label is empty, its set too, and its numbers are -1. `reasons` are JSON, as in the
    answer of /predict. Without calibration no class is ruled out and `coverage` is -1.
    """
    shares = [[(one.probabilities or {}).get(name, NONE) for name in classes] for one in predictions]
    coverage = [NONE if one.coverage is None else one.coverage for one in predictions]
    return {
        "label": [(one.label or "").encode() for one in predictions],
        "probabilities": np.array(shares, NUMBERS["FP32"]),
        "prediction_set": _members(predictions, classes),
        "coverage": np.array(coverage, NUMBERS["FP32"]),
        "status": [one.status.encode() for one in predictions],
        "reasons": [json.dumps(whys(one.reasons), ensure_ascii=False).encode() for one in predictions],
    }


def _members(predictions: Sequence[Prediction], classes: Sequence[str]) -> NDArray[np.bool_]:
    sets = [classes if one.prediction_set is None else one.prediction_set for one in predictions]
    known = [
        [one.label is not None and name in each for name in classes]
        for one, each in zip(predictions, sets, strict=True)
    ]
    return np.array(known, NUMBERS["BOOL"])


def _no_refusal(predictions: Sequence[Prediction]) -> None:
    for index, one in enumerate(predictions):
        if one.status != "ok":
            why = " ".join(reason.sentence for reason in one.reasons)
            sentence = f"The slice image[{index}] is refused: {why} Ask for the output status to hear of each slice."
            raise Problem(422, "refused", sentence)


def _parsed(head: bytes, *, most_bytes: int) -> InferRequest:
    """Check a request's JSON; first that it cannot become much more in memory than it is."""
    if len(head) > most_bytes:
        sentence = f"The request's JSON is larger than {size_of(most_bytes)}. Send slices as binary tensor data."
        raise Problem(413, "too_large", sentence)
    if sum(head.count(mark) for mark in b",[{") > MOST_MARKS:
        raise Problem(413, "too_many", "The request's JSON has more parts than any number of slices needs.")
    try:
        return InferRequest.model_validate_json(head)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]  # not the client's own words
        where = ".".join(map(str, place)) or "its top"
        raise Problem(400, "invalid_request", f"The request does not fit at {where}: {first['msg']}.") from None


def _outputs(asked: InferRequest) -> dict[OutputName, bool]:
    """Find what is to go out, all where nothing is named, and whether as bytes; raises Problem 400 for a name twice."""
    usual = asked.parameters.binary_data_output
    wanted = {
        each.name: usual if each.parameters.binary_data is None else each.parameters.binary_data
        for each in asked.outputs
    }
    if len(wanted) < len(asked.outputs):
        raise Problem(400, "invalid_request", "An output is asked for twice.")
    return wanted or dict.fromkeys(OUTPUT_NAMES, usual)


def _values(inputs: Sequence[InputTensor], rest: bytes, *, most: int) -> dict[str, Values]:
    """Read the inputs, whose bytes are in `rest` in their order, and nothing else is."""
    values: dict[str, Values] = {}
    at = 0
    for given in inputs:
        tensor, size = INPUTS[given.name], given.parameters.binary_data_size
        if given.name in values:
            raise tensor.bad("is there twice")
        check_shape(tensor, datatype=given.datatype, shape=given.shape, most=most)
        if given.data is not None and size is None:
            values[given.name] = from_json(tensor, given.data, given.shape)
        elif given.data is None and size is not None and at + size <= len(rest):
            values[given.name] = from_bytes(tensor, rest[at : at + size], given.shape)
            at += size
        else:
            raise tensor.bad("must have either data or a binary_data_size of bytes that are there")
    if at != len(rest):
        raise Problem(400, "bad_length", "There are bytes behind the last tensor.")
    return values


def _response(head: dict[str, Any], parts: Sequence[bytes]) -> Response:
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    if not parts:
        return Response(text, media_type="application/json")
    return Response(b"".join((text, *parts)), media_type="application/octet-stream", headers={HEADER: str(len(text))})
