"""What a user might call a patient by goes into a request in every place, and comes out nowhere."""

import logging

import pytest
from tests.service import Service, image, png

from neuralblack.errors import InputError

SENTINEL = "Jane-Doe-1950"


async def broken(data):
    raise InputError(f"/uploads/{SENTINEL}.png", found="a broken PNG", expected="one slice", fix="export it again")


async def buggy(question):
    raise KeyError(SENTINEL)


def form(field="file", content=None):
    body = png() if content is None else content
    return {"files": {field: (f"{SENTINEL}.png", body, f"image/{SENTINEL}")}, "data": {SENTINEL: SENTINEL}}


REQUESTS = {
    "whole": ("POST", "/predict", form()),
    "pictures": ("POST", "/predict?preview=true", form()),
    "unknown-parameter": ("POST", f"/predict?preview=true&{SENTINEL}={SENTINEL}", form()),
    "wrong-field": ("POST", "/predict", form(SENTINEL)),
    "no-slice": ("POST", "/predict", form(content=SENTINEL.encode())),
    "wrong-parameter": ("POST", f"/predict?preview={SENTINEL}", form()),
    "raw": ("POST", "/predict", {"content": SENTINEL.encode()}),
    "boundary": (
        "POST",
        "/predict",
        {"content": b"x", "headers": {"Content-Type": f"multipart/form-data; boundary={SENTINEL}"}},
    ),
    "study": ("POST", "/study", form()),
    "wrong-study": ("POST", f"/study?{SENTINEL}={SENTINEL}", form(SENTINEL)),
    "feedback": ("POST", "/feedback", form()),
    "infer": ("POST", "/v2/models/neuralblack/infer", {"json": {"inputs": [image(png())]}}),
    "wrong-infer": ("POST", "/v2/models/neuralblack/infer", {"json": {SENTINEL: SENTINEL}}),
    "wrong-tensor": ("POST", "/v2/models/neuralblack/infer", {"json": {"inputs": [image(b"", name=SENTINEL)]}}),
    "no-slice-inferred": ("POST", "/v2/models/neuralblack/infer", {"json": {"inputs": [image(SENTINEL.encode())]}}),
    "another-model": ("POST", f"/v2/models/{SENTINEL}/versions/{SENTINEL}/infer", {"content": SENTINEL.encode()}),
    "nothing-there": ("GET", f"/patients/{SENTINEL}", {}),
    "wrong-method": (SENTINEL, "/predict", {}),
}
HEADERS = {
    "X-Patient": SENTINEL,
    "X-Request-ID": f"{SENTINEL} {SENTINEL}",  # an id that may be repeated has no blank
    "Content-Disposition": f"attachment; filename={SENTINEL}",
    "Authorization": f"Bearer {SENTINEL}",
    "Origin": f"http://{SENTINEL}",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"decode": broken}, {"classify": buggy}, {"token": "x" * 16}, {"max_bytes": 10}, {"ready": False}],
    ids=["well", "broken", "buggy", "no-token", "too-large", "not-ready"],
)
def test_a_name_in_a_request_is_in_no_answer_log_or_metric(request_, options, caplog):
    method, address, content = request_
    service = Service(**options)
    with caplog.at_level(logging.DEBUG, logger="neuralblack"):
        response = service.request(method, address, **{**content, "headers": HEADERS | content.get("headers", {})})
        metrics = service.request("GET", "/metrics", headers={"Authorization": "Bearer " + "x" * 16})

    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    for place in (response.text, str(response.headers), metrics.text, "\n".join(ours)):
        assert SENTINEL.lower() not in place.lower()
    assert metrics.status_code == 200
