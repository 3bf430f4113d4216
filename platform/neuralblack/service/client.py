"""A client for Python programs: standard library only, keeps its connection, and tries again where that helps."""

import http.client
import json
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from neuralblack.errors import InputError
from neuralblack.files import is_address
from neuralblack.service.auth import VARIABLE, bearer, is_plain
from neuralblack.service.idempotency import KEY, KEY_WORDS

TRY_AGAIN = (429, 503)  # overloaded; being loaded, or too slow this time
IF_ASKED_TO = (502, 504)  # with Retry-After: our proxy lost a replica, or its patience; without: something in between
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
MEDIA_TYPE = "application/octet-stream"  # the service looks at the bytes


class ServiceError(RuntimeError):
    """The service gave no answer, and trying again did not help."""

    def __init__(self, status: int, code: str, sentence: str, request_id: str) -> None:
        super().__init__(f"{status} {code}: {sentence}" + (f" (request {request_id})" if request_id else ""))
        self.status, self.code, self.sentence, self.request_id = status, code, sentence, request_id


class Client:
    """Ask a NeuralBlack service.

    One slice:

        client = Client("http://127.0.0.1:8000", token=os.environ.get("NEURALBLACK_TOKEN"))
        answer = client.predict("slice.png")
        print(answer["label"] if answer["status"] == "ok" else answer["reasons"])

    The slices of one patient:

        answer = client.study(sorted(Path("patient").glob("*.png")))
        print(answer["label"], answer["disagreement"]["agreeing"])

    Answers are those of /openapi.json. Asking changes nothing on the server, and what a reader says is kept once under
    its key, so every request may be repeated; it is where the service is overloaded (429), not ready or too slow (503),
    lost a replica or its answer (502 and 504 with Retry-After), or cannot be reached. A file's name is never sent. Use
    one client in one thread.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retries: int = 5,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: http:// or https://, host, port, and a path where the service is behind one.
            token: the service's, where it asks for one.
            retries: attempts after the first.
            timeout_s: for connecting and for each piece of an answer.
            sleep: what waits between attempts.

        Raises:
            InputError: not such a URL, or a token that cannot be sent.
        """
        secure, host, port, self._prefix = _parts(url)
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
            if secure
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )
        self._headers = bearer(token, where="token", fix=f"give the service's own, the value of {VARIABLE} there")
        self._retries, self._sleep = retries, sleep

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def predict(
        self,
        slice_: str | Path | bytes,
        *,
        box: Sequence[int] | None = None,
        explain: bool = False,
        preview: bool = False,
    ) -> dict[str, Any]:
        """Classify one slice, a file or its bytes; raises InputError (no such file) or ServiceError.

        `box` is (x0, y0, x1, y1) around the tumour, in pixels of the slice, for a model that needs it.
        """
        wanted = {name: "true" for name, flag in (("explain", explain), ("preview", preview)) if flag}
        if box is not None:
            wanted["box"] = ",".join(map(str, box))
        address = "/predict" + ("?" + urlencode(wanted) if wanted else "")
        return self._ask("POST", address, _content(slice_), {"Content-Type": MEDIA_TYPE})

    def study(self, slices: Sequence[str | Path | bytes]) -> dict[str, Any]:
        """Get one verdict on the slices of one patient; raises InputError (no such file) or ServiceError."""
        body, kind = _form([("file", _content(slice_)) for slice_ in slices])
        return self._ask("POST", "/study", body, {"Content-Type": kind})

    def feedback(
        self, slice_: str | Path | bytes, label: str, *, patient: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Say what a slice is; it is on the service's disk when this returns. The token must be a reader's.

        Args:
            slice_: the slice again, because the service has not kept it: a file or its bytes.
            label: one of the model's classes.
            patient: whose it is; the service keeps only a keyed hash, and trains and tests on different patients by it.
            key: the same for a repetition by your program, 8 to 64 letters, digits, dots, - or _; none given: a new
                one, under which this call repeats itself.

        Raises:
            InputError: no such file, or another key.
            ServiceError: the service does not collect feedback, or does not take this.
        """
        if key is not None and not KEY.fullmatch(key):
            raise InputError("key", found=repr(key[:80]), expected=KEY_WORDS, fix="give another one, or none")
        fields = [("file", _content(slice_)), ("label", label.encode())]
        body, kind = _form(fields + ([("patient", patient.encode())] if patient else []))
        return self._ask("POST", "/feedback", body, {"Content-Type": kind, "Idempotency-Key": key or uuid4().hex})

    def model(self) -> dict[str, Any]:
        """Look up the facts of the model that answers; raises ServiceError."""
        return self._ask("GET", "/model")

    def metrics(self) -> str:
        """Fetch what one replica has counted, in Prometheus' text format; raises ServiceError."""
        try:
            status, headers, content = self._once("GET", "/metrics", b"", {})
        except (OSError, http.client.HTTPException) as error:
            sentence = f"The service cannot be reached ({type(error).__name__})."
            raise ServiceError(0, "unreachable", sentence, "") from error
        if status != 200:
            raise _error(status, headers, content)
        return content.decode("utf-8", "replace")  # who reads it says that it is no text

    def ready(self) -> bool:
        """Say whether a slice sent now would be classified; asks once."""
        try:
            status, _, _ = self._once("GET", "/ready", b"", {})
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def _ask(
        self, method: str, address: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            asked_for = 0.0
            try:
                status, answer_headers, content = self._once(method, address, body, headers or {})
            except (OSError, http.client.HTTPException) as error:
                if last:
                    sentence = f"The service cannot be reached ({type(error).__name__})."
                    raise ServiceError(0, "unreachable", sentence, "") from error
            else:
                if status == 200 and (answer := _object(content)):
                    return answer
                retry_after = answer_headers.get("Retry-After")
                if last or status not in (TRY_AGAIN if retry_after is None else TRY_AGAIN + IF_ASKED_TO):
                    raise _error(status, answer_headers, content)
                asked_for = _seconds(retry_after)
            self._sleep(asked_for + _jitter(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, address: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Message, bytes]:
        """Ask once. A kept connection that the server has closed meanwhile counts as an attempt, too."""
        try:
            self._connection.request(method, self._prefix + address, body or None, {**self._headers, **headers})
            response = self._connection.getresponse()
            return response.status, response.headers, response.read()
        except BaseException:
            self._connection.close()  # half a conversation is of no use to the next request
            raise


def metrics_of(where: str, *, token: str | None, timeout_s: float = 30.0) -> str:
    """Read metrics from a file, or ask at an http address: a service's, or that of a node of a Ray cluster.

    Raises:
        InputError: no such file, nobody answers there with metrics, or a token that cannot be sent.
    """
    if not is_address(where):
        return _content(where).decode("utf-8", "replace")
    with Client(where, token=token, timeout_s=timeout_s) as client:
        try:
            return client.metrics()
        except ServiceError as error:
            raise InputError(
                where,
                found=str(error).rstrip(".") if error.status else f"no answer ({type(error.__cause__).__name__})",
                expected="metrics of a service or of a node",
                fix="start it, or give its address; where it asks for a token, NEURALBLACK_TOKEN",
            ) from None


def _parts(url: str) -> tuple[bool, str, int | None, str]:
    """Take an address apart: whether by TLS, host, port, path without a slash behind it; raises InputError."""
    found = repr(url[:200])
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        name = host.encode("idna").decode()  # as it is looked up
        if parts.scheme in ("http", "https") and host and is_plain(name + parts.path):
            return parts.scheme == "https", host, port, parts.path.rstrip("/")
    except ValueError as error:  # brackets or a port of something else, a host that has no name
        found += f", {error}"
    raise InputError(
        "url",
        found=found,
        expected="http:// or https://, a host, a port of 0 to 65535, and a path of plain letters",
        fix="such as http://127.0.0.1:8000",
    )


def _form(fields: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Write multipart/form-data, files in `file` without their names: the body, and its media type."""
    boundary = uuid4().hex  # no file holds it but by a miracle
    body = b""
    for name, content in fields:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="slice"\r\nContent-Type: {MEDIA_TYPE}' if name == "file" else ""
        body += head.encode() + b"\r\n\r\n" + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _content(slice_: str | Path | bytes) -> bytes:
    if isinstance(slice_, bytes):
        return slice_
    try:
        return Path(slice_).read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is no file's
        raise InputError(
            slice_,
            found=getattr(error, "strerror", None) or "no file",
            expected="a readable file",
            fix="give the path of one",
        ) from None


def _jitter(attempt: int) -> float:
    """Draw a wait in seconds, "full jitter": clients that were refused together must not come back together.

    Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt))


def _seconds(retry_after: str | None) -> float:
    """Read Retry-After where it is a number of seconds, bounded; it may be a date, which our service never sends."""
    return min(float(retry_after), 60.0) if retry_after and retry_after.isdecimal() else 0.0


def _error(status: int, headers: Message, content: bytes) -> ServiceError:
    body = _object(content)
    request_id = body.get("request_id") or headers.get("X-Request-ID") or ""
    sentence = body.get("error") or "The answer is not one of the service's; something stands in between."
    return ServiceError(status, str(body.get("code") or "unknown"), str(sentence), str(request_id))


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
