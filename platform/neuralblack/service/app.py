"""The HTTP face of a model. It knows neither Ray nor torch, so tests call it in their own process."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from starlette.responses import Response

from neuralblack.data.slices import Box
from neuralblack.errors import InputError
from neuralblack.service.answers import (
    HEAT_MAP_NOTE,
    NO_CARD,
    NOTICE,
    Prediction,
    heat_map,
    json_response,
    named,
    preview,
    result,
)
from neuralblack.service.auth import Holders
from neuralblack.service.decoder import DecoderDownError
from neuralblack.service.described import DESCRIBED, describe
from neuralblack.service.example_slices import is_example
from neuralblack.service.feedback import OFF, FeedbackFolder, key_of, read_opinion
from neuralblack.service.marks import BOX, box_of, marked_by
from neuralblack.service.meter import MEDIA_TYPE, Meter
from neuralblack.service.open_inference import OpenInference, classify_all, read_inference
from neuralblack.service.overload import Places, turn
from neuralblack.service.pages import add_page
from neuralblack.service.problems import FAILED, Problem, answer_problems
from neuralblack.service.routes import MODEL_PLACES, OPEN, READER, Bare, flags, guarded
from neuralblack.service.study import BODY_SLICES, MOST_SLICES, answer_study, read_study
from neuralblack.service.uploads import read_upload

log = logging.getLogger(__name__)

Question = Any  # what the decoder gives and the classifier takes: the app only draws its pixels


def build_app(
    decode: Callable[[bytes], Awaitable[Question]],
    classify: Callable[[Question], Awaitable[Prediction]],
    *,
    ready: Callable[[], bool],
    model: Mapping[str, object],
    card: str | None = None,
    explain: Callable[[Question, str], Awaitable[NDArray[np.uint8]]] | None = None,
    mark: Callable[[Question, Box], Question] | None = None,
    listeners: Sequence[Callable[[Question, Prediction], None]] = (),
    token: str | None = None,
    readers: Holders | None = None,
    feedback: FeedbackFolder | None = None,
    max_bytes: int = 20 * 2**20,
    max_pending: int | None = None,
    deadline_s: float | None = None,
    meter: Meter | None = None,
    id_header: bool = True,
) -> FastAPI:
    """Build the service around two functions, or three.

    Args:
        decode: an upload's bytes -> the preprocessed slice (S, S) uint8, or what holds it as `pixels`, in a limited
            process; raises InputError, or DecoderDownError where it is not the file's fault.
        classify: what `decode` gave -> its prediction, batched with those of other requests.
        ready: whether the model is loaded, warm and able to answer. While it is not there are no predictions, only 503.
        model: facts about it for the page and the answers; at least `name`, `hash`, `classes` and `preprocessing` (its
            version).
        card: what a report says of it, Markdown; None: nothing was written.
        explain: what `decode` gave and its label -> where the network looked, (S, S) uint8 with 255 where it did most;
            raises InputError where the model's folder is at fault. None: this model or engine cannot say.
        mark: what `decode` gave and the box of a tumour in pixels of the upload -> the same, marked; raises InputError
            for a box outside it. None: the model takes no box.
        listeners: each hears every classified slice with its prediction, refused ones too (but not for want of a box,
            nor the page's examples, nor what is asked again), in the event loop and before the reply: it must return at
            once and not raise.
        token: who asks must send it, or a reader's; None: everybody may. `auth.token_from` decides.
        readers: name -> token of those who may say what a slice is.
        feedback: where that is kept; None: nowhere, and nothing is.
        max_bytes: largest slice; a study may have `BODY_SLICES` times as many.
        max_pending: slices worked on at once, from the head of a request to its answer; more get 429. A body of several
            slices counts as so many from its head on, so that no more than `max_pending` times `max_bytes` are held.
        deadline_s: for one request, its upload and its time in the queue included; after that 408 or 503.
        meter: what counts; none given: the app's own.
        id_header: False where the server adds X-Request-ID to every response by itself, as Serve does.
    """
    app = FastAPI(
        title="NeuralBlack",
        description=f"Brain-tumour subtypes from MRI slices. {NOTICE}",
        docs_url=None,  # FastAPI's own would load its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would trust the request's Host, and be a shape of its own
    )
    answer_problems(app, id_header=id_header)
    service = _Service(
        decode,
        classify,
        explain,
        listeners,
        mark=mark,
        ready=ready,
        model=model,
        card=card,
        max_bytes=max_bytes,
        places=Places(max_pending),
        deadline_s=deadline_s,
        meter=meter or Meter(),
        token=token is not None,
        feedback=feedback,
    )
    readers = readers or {}
    guard = guarded({"": token, **readers}, service.unauthorised) if token else Bare
    readers_guard = guarded(readers, service.unauthorised, READER) if feedback else Bare
    for path, method, endpoint in (
        ("/predict", "POST", service.predict),
        ("/study", "POST", service.study),
        ("/feedback", "POST", service.feedback),
        ("/model", "GET", service.facts),
        ("/card", "GET", service.card),
        ("/metrics", "GET", service.metrics),
        ("/health", "GET", service.health),
        ("/ready", "GET", service.readiness),
        ("/v2", "GET", service.protocol.server),
        ("/v2/health/live", "GET", service.protocol.live),
        ("/v2/health/ready", "GET", service.protocol.ready),
        *((place, "GET", service.protocol.model) for place in MODEL_PLACES),
        *((f"{place}/ready", "GET", service.protocol.model_ready) for place in MODEL_PLACES),
        *((f"{place}/infer", "POST", service.infer) for place in MODEL_PLACES),
    ):
        route_class = Bare if path in OPEN else readers_guard if path == "/feedback" else guard
        app.router.add_api_route(path, endpoint, methods=[method], route_class_override=route_class, **DESCRIBED[path])
    for path, endpoint in (("/health", service.health), ("/ready", service.readiness)):  # some load balancers ask so
        app.router.add_api_route(path, endpoint, methods=["HEAD"], route_class_override=Bare, include_in_schema=False)
    add_page(app)
    describe(app, token=token is not None)
    return app


class _Service:
    """What the routes share, and what each of them does."""

    def __init__(
        self,
        decode: Callable[[bytes], Awaitable[Question]],
        classify: Callable[[Question], Awaitable[Prediction]],
        explain: Callable[[Question, str], Awaitable[NDArray[np.uint8]]] | None,
        listeners: Sequence[Callable[[Question, Prediction], None]],
        *,
        mark: Callable[[Question, Box], Question] | None,
        ready: Callable[[], bool],
        model: Mapping[str, object],
        card: str | None,
        max_bytes: int,
        places: Places,
        deadline_s: float | None,
        meter: Meter,
        token: bool,
        feedback: FeedbackFolder | None,
    ) -> None:
        self._decode, self._classify, self._explain, self._ready = decode, classify, explain, ready
        self._listeners, self._mark = listeners, mark
        self._max_bytes, self._places, self._deadline_s = max_bytes, places, deadline_s
        self._meter, self._token, self._feedback = meter, token, feedback
        self._most_slices = min(MOST_SLICES, places.most or MOST_SLICES)
        self._facts, self._card = dict(model), card
        self._model = named(model)
        self.protocol = OpenInference(model, takes_box=mark is not None, must_be_ready=self._must_be_ready)
        self._tail = {"model": self._model, "preprocessing": int(str(model["preprocessing"]))}
        meter.describe(name=self._model["name"], version=self._model["version"], pending=lambda: places.taken)

    async def predict(self, request: Request) -> Response:
        """Classify one slice: the body is the file, or a form with a field `file`."""
        with self._meter.trouble("predict"):
            draw, explain, again = flags(request, "preview", "explain", "again", beside=(BOX,))
            box = box_of(request)
            self._must_take(box)
            self._must_be_ready()
            if explain and self._explain is None:
                raise Problem(422, "no_explanation", "This model cannot show where it looked. Ask without explain.")
            async with turn(self._places, deadline_s=self._deadline_s) as mine:
                data = await read_upload(request, max_bytes=self._max_bytes)
                mine.uploaded = True
                question, prediction = await self._ask(data, box, again=again)
                answer = result(prediction) | self._end(request)
                if draw:
                    answer |= preview(question)
                if explain and self._explain is not None and prediction.label is not None:
                    answer["heat_map"] = heat_map(await self._heat(self._explain(question, prediction.label)))
                    answer["heat_map_note"] = HEAT_MAP_NOTE
        self._meter.request("predict", answer["status"])
        return json_response(answer)

    async def study(self, request: Request) -> Response:
        """Give one verdict on several slices of one patient: a form with 1 to 64 fields `file`."""
        with self._meter.trouble("study"):
            flags(request)
            self._must_be_ready()
            async with turn(self._places, self._room(request), deadline_s=self._deadline_s) as mine:
                files = await read_study(request, max_bytes=self._max_bytes, most=self._most_slices)
                mine.uploaded = True
                mine.need(len(files))
                answer = await answer_study(files, self._predict, max_bytes=self._max_bytes) | self._end(request)
        self._meter.request("study", answer["status"])
        return json_response(answer)

    async def infer(self, request: Request) -> Response:
        """Classify slices in the Open Inference Protocol: whole files in the tensor `image`, as JSON or binary data."""
        with self._meter.trouble("infer"):
            flags(request)
            name = self.protocol.asked_model(request)
            self._must_be_ready()
            async with turn(self._places, self._room(request), deadline_s=self._deadline_s) as mine:
                asked = await read_inference(request, max_bytes=self._max_bytes, most=self._most_slices)
                mine.uploaded = True
                self._must_take(asked.boxes)
                mine.need(len(asked.files))
                predictions = await classify_all(asked, self._predict)
                response = self.protocol.answer(name, asked, predictions)
        self._meter.request("infer", "ok" if all(one.status == "ok" for one in predictions) else "refused")
        return response

    async def feedback(self, request: Request) -> Response:
        """Keep what a reader says of a slice: a form with the slice again in `file` and its class in `label`."""
        with self._meter.trouble("feedback"):
            if self._feedback is None:
                raise Problem(403, "feedback_off", OFF)
            flags(request)
            key_of(request)
            self._must_be_ready()
            async with turn(self._places, deadline_s=self._deadline_s) as mine:
                opinion = await read_opinion(request, classes=self._feedback.classes, max_bytes=self._max_bytes)
                mine.uploaded = True
                question = await self._read(opinion.data)
                prediction = await self._classify(question)  # heard by nobody: it was counted when it was asked about
                outcome = await self._feedback.keep(request, opinion, question, prediction)
                agrees = opinion.label == prediction.label
                answer = {"status": outcome, "label": opinion.label, "agrees": agrees} | self._end(request)
        self._meter.request("feedback", outcome)
        return json_response(answer)

    async def facts(self, request: Request) -> Response:
        """Describe the model that answers here, and what it takes."""
        limits = {
            "max_bytes": self._max_bytes,
            "max_study_bytes": BODY_SLICES * self._max_bytes,
            "max_slices": self._most_slices,
        }
        can = {
            "explains": self._explain is not None,
            "needs_box": self._mark is not None,
            "feedback": self._feedback is not None,
            "card": self._card is not None,
        }
        return json_response(self._facts | self._model | limits | can | {"notice": NOTICE})

    async def card(self, request: Request) -> Response:
        """Give the model's card, with its numbers and its limits, as Markdown."""
        if self._card is None:
            raise Problem(404, "no_card", NO_CARD)
        return Response(self._card, media_type="text/markdown")

    async def metrics(self, request: Request) -> Response:
        """Say what this replica has counted, in Prometheus' text format."""
        return Response(self._meter.text(), headers={"Content-Type": MEDIA_TYPE})

    async def health(self, request: Request) -> Response:
        """Say that this process answers; it need not be able to classify yet."""
        return json_response({"status": "ok"})

    async def readiness(self, request: Request) -> Response:
        """Say whether a slice sent now would be classified, by which model, and whether a token is asked for."""
        self._must_be_ready()
        return json_response({"status": "ready", "model": self._model, "token": self._token})

    def unauthorised(self, path: str) -> None:
        """Count a request without the token."""
        self._meter.request("infer" if path.endswith("/infer") else path.strip("/"), "unauthorised")

    async def _predict(self, data: bytes, box: Box | None = None) -> Prediction:
        return (await self._ask(data, box))[1]

    async def _ask(self, data: bytes, box: Box | None = None, *, again: bool = False) -> tuple[Question, Prediction]:
        started = perf_counter()
        question = await self._read(data)
        if box and self._mark:
            question = marked_by(self._mark, question, box)
        decoded = perf_counter()
        prediction = await self._classify(question)
        self._meter.slice(prediction, started=started, decoded=decoded, again=again)
        # Without the box that the model needs nothing was judged, and a made-up slice is no input.
        if not again and (box or self._mark is None) and not is_example(data):
            for listener in self._listeners:
                listener(question, prediction)
        return question, prediction

    async def _read(self, data: bytes) -> Question:
        try:
            return await self._decode(data)
        except DecoderDownError:
            sentence = "The service cannot read files at the moment. Try again soon."
            raise Problem(503, "decoder_down", sentence, retry_after_s=5) from None

    async def _heat(self, explained: Awaitable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        try:
            return await explained
        except InputError as error:  # of the model's folder, and so the operator's: the upload was read before
            log.error("no heat map: %s", error)
            raise Problem(500, "internal", FAILED) from None

    def _room(self, request: Request) -> int:
        """Count the places of a body of several slices: the largest slices that it has room for.

        One that does not say its length (chunked) counts as the longest; one that is too long is not kept at all.
        """
        stated = request.headers.get("content-length", "")
        slices = -(-int(stated) // self._max_bytes) if stated.isdecimal() else BODY_SLICES
        return max(1, min(slices, BODY_SLICES, self._most_slices))

    def _must_take(self, box: object) -> None:
        if box and self._mark is None:
            raise Problem(422, "no_box_taken", "This model looks at whole slices. Ask without a box.")

    def _must_be_ready(self) -> None:
        if not self._ready():
            sentence = "The model is being loaded, or loaded again. Try again in a few seconds."
            raise Problem(503, "not_ready", sentence, retry_after_s=2)

    def _end(self, request: Request) -> dict[str, Any]:
        return self._tail | {"request_id": request.state.request_id, "notice": NOTICE}
