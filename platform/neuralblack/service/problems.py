"""Everything that can go wrong with a request, in one shape: `{"error": sentence, "code", "request_id"}`."""

import logging
import re
import traceback
import uuid
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neuralblack.errors import InputError

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what may be repeated in a header and a log line
OVERLOAD = 429
SENTENCES = {
    404: ("not_found", "There is nothing at this address. The page is at /, the classifier at POST /predict."),
    405: ("wrong_method", "This address does not answer this method. Send a slice with POST to /predict."),
}
FAILED = "The service failed at this request. Try once more, or tell who runs it the request's id."
HEADERS = {
    # img-src data: is for the slice the server draws; everything else comes from this server or not at all.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CACHE = b"cache-control"
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Problem(Exception):  # noqa: N818 - it is an answer, not a failure of ours
    """A request ends here, with a status, a code for programs and a sentence for people."""

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence, self.retry_after_s = status, code, sentence, retry_after_s
        self.headers = dict(headers or {})

    def response(self, request_id: str) -> JSONResponse:
        """Write it down."""
        headers = self.headers | ({} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)})
        content = {"error": self.sentence, "code": self.code, "request_id": request_id}
        return JSONResponse(content, self.status, headers)


def answer_problems(app: FastAPI, *, id_header: bool = True) -> None:
    """Give every error of `app` the one shape, and every response a request id and the headers of a careful page.

    `id_header` False leaves the header X-Request-ID to a server that adds it by itself.
    """

    def found(request: Request, error: Exception) -> Response:
        problem, request_id = as_problem(error), request.state.request_id
        # Without its words, which may quote the upload. Overload comes a thousand times at once, and is counted.
        if problem.status != OVERLOAD:
            log.info("request %s: %d %s", request_id, problem.status, problem.code)
        return problem.response(request_id)

    for kind in (Problem, InputError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, found)
    app.add_middleware(_Frame, id_header=id_header)


def as_problem(error: Exception) -> Problem:
    """Find the answer to an error; what we did not foresee is 500, without its words."""
    match error:
        case Problem():
            return error
        case InputError():
            return Problem(422, "unreadable", str(error.at("upload")))
        case RequestValidationError():
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            return Problem(422, "invalid_request", f"The request does not fit: {wrong}.")
        case HTTPException() if error.status_code in SENTENCES:
            code, sentence = SENTENCES[error.status_code]
            return Problem(error.status_code, code, sentence, headers=error.headers)  # 405 says what is allowed
        case HTTPException():
            return Problem(error.status_code, "refused", "The request was refused; see the interface's /openapi.json.")
        case _:
            return Problem(500, "internal", FAILED)


class _Frame:
    """Around everything: the request id, the headers, and an answer where our own code fails."""

    def __init__(self, app: ASGIApp, *, id_header: bool) -> None:
        self.app, self.id_header = app, id_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_framed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message["headers"] = [*message.get("headers", ()), *_RAW_HEADERS]
                if all(name != CACHE for name, _ in headers):  # what says nothing may hold a scan: no disk gets it
                    headers.append((CACHE, b"no-store"))
                if self.id_header:
                    headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self.app(scope, receive, send_framed)
        except ClientDisconnect:
            log.info("request %s: the client hung up", request_id)
        except Exception as error:
            # Where it happened, but not the error's own words: they may quote the upload.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("request %s: %s\n%s", request_id, type(error).__name__, frames)
            if started:
                raise RuntimeError(f"request {request_id} failed behind the start of its answer") from None
            await as_problem(error).response(request_id)(scope, receive, send_framed)


def _request_id(scope: Scope) -> str:
    """Take over the client's or the proxy's id where it is harmless, else make one."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
