"""The examples of /openapi.json are what the app says: each of them is asked for."""

import asyncio
import errno
import os
import re
from pathlib import Path

import pytest
from tests.service import READER_TOKEN, SLICE, Service, feedback_folder, image, png

import neuralblack
from neuralblack.data.readers import KINDS
from neuralblack.errors import InputError
from neuralblack.service.examples import CARD, MAX_BYTES, MODEL, OK, REFUSED, REQUEST_ID, answers, problems
from neuralblack.service.inference_messages import OUTPUT_NAMES

COLOURED = b"\xff\xd8\xff\xe0" + bytes(100)
ASKED = {"X-Request-ID": REQUEST_ID}
READER = ASKED | {"Authorization": f"Bearer {READER_TOKEN}", "Idempotency-Key": "of-an-example"}


async def decode(data):
    return data


async def classify(question):
    return REFUSED if question == COLOURED else OK


async def explain(question, label):
    return SLICE


def service(**options):
    options = {"decode": decode, "classify": classify, "explain": explain, "max_bytes": MAX_BYTES} | options
    return Service(model=MODEL, **options)


def feedback(of, label="glioma"):
    files = {"file": ("a.png", png())}
    return of.request("POST", "/feedback", files=files, data={"label": label}, headers=READER)


def infer(of, file, **members):
    return of.request("POST", "/v2/models/neuralblack/infer", json={"inputs": [image(file)]} | members, headers=ASKED)


def keeping(folder):
    """A service that keeps feedback of slices, below `folder`."""

    async def pixels(data):
        return SLICE

    async def classify(question):
        return OK

    kept = feedback_folder(folder)
    return service(decode=pixels, classify=classify, feedback=kept, readers=kept.readers)


@pytest.fixture(scope="module")
def operations():
    """Every operation of the description: (path, method, operation)."""
    paths = service().request("GET", "/openapi.json").json()["paths"]
    return [(path, method, each) for path, methods in paths.items() for method, each in methods.items()]


def test_every_operation_says_what_it_does_and_shows_what_it_answers(operations):
    for path, _, operation in operations:
        assert 10 < len(operation["summary"]) < 50 < len(operation["description"]) + 20, path
        assert operation["summary"][0].isupper() and operation["description"].endswith("."), path
        for status, response in operation["responses"].items():
            assert len(response["description"]) > 10, (path, status)
            shown = [each for each in response["content"].values() if each.keys() & {"example", "examples"}]
            assert shown and all(each["schema"] for each in response["content"].values()), (path, status)


def test_every_error_that_is_shown_has_the_one_body(operations):
    for path, _, operation in operations:
        for status, response in operation["responses"].items():
            if status != "200":
                shown = response["content"]["application/json"]["example"]
                assert set(shown) == {"error", "code", "request_id"}, (path, status)


def test_the_answers_that_are_shown_are_those_of_the_app(tmp_path):
    of, shown = service(card=CARD), answers()

    said = {
        ("/predict", "a prediction"): of.predict(content=png(), headers=ASKED),
        ("/predict", "a refusal"): of.predict(content=COLOURED, headers=ASKED),
        ("/study", "a verdict"): of.request(
            "POST", "/study", files=[("file", ("a", each)) for each in (png(), png(), COLOURED)], headers=ASKED
        ),
        ("/feedback", "kept"): feedback(keeping(tmp_path)),
    }
    for place in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"):
        outputs = [{"name": name} for name in OUTPUT_NAMES]
        said[f"{place}/infer", "a prediction"] = infer(of, png(), id="mine-1")
        said[f"{place}/infer", "a refusal, status asked for"] = infer(of, COLOURED, id="mine-1", outputs=outputs)
    for path in shown:
        for name in shown[path]:
            address = path.format(model_name="neuralblack", model_version=MODEL["hash"][:12])
            response = said.get((path, name)) or of.request("GET", address, headers=ASKED)
            assert response.json() == shown[path][name], (path, name)
    assert of.request("GET", "/card").text == CARD


def test_the_request_that_is_shown_is_answered(operations):
    bodies = [operation["requestBody"]["content"] for path, _, operation in operations if path.endswith("/infer")]

    for each in bodies:
        asked = each["application/json"]["example"]
        assert service().request("POST", "/v2/models/neuralblack/infer", json=asked).status_code == 200


async def broken(data):
    raise InputError("upload", found="half a file", expected="one slice", fix="export it again")


async def buggy(data):
    raise KeyError


async def slow():
    yield png()[:10]
    await asyncio.Event().wait()


def other_feedback(folder):
    of = keeping(folder)
    feedback(of)
    return feedback(of, "pituitary")


def large(address, kind, size):
    headers = ASKED | {"Content-Type": kind, "Content-Length": str(size)}
    return service().request("POST", address, content=b"", headers=headers)


HAPROXY = Path(neuralblack.__file__).with_name("cluster") / "haproxy.sh"
PROXYS = (502, 504)  # nothing of the app says these
INFER = "/v2/models/{model_name}/infer"
FORM = "multipart/form-data; boundary=x"
TROUBLES = {
    ("/predict", 400): lambda _: service().predict(content=b"", headers=ASKED),
    ("/predict", 401): lambda _: service(token="x" * 16).predict(content=png(), headers=ASKED),
    ("/predict", 408): lambda _: service(deadline_s=0.05).predict(content=slow(), headers=ASKED),
    ("/predict", 413): lambda _: large("/predict", "image/png", MAX_BYTES + 1),
    ("/predict", 415): lambda _: service().predict(content=KINDS.encode(), headers=ASKED),
    ("/predict", 422): lambda _: service(decode=broken).predict(content=png(), headers=ASKED),
    ("/predict", 429): lambda _: service(max_pending=0).predict(content=png(), headers=ASKED),
    ("/predict", 500): lambda _: service(classify=buggy).predict(content=png(), headers=ASKED),
    ("/predict", 503): lambda _: service(ready=False).predict(content=png(), headers=ASKED),
    ("/study", 400): lambda _: service().request("POST", "/study", content=png(), headers=ASKED),
    ("/study", 413): lambda _: large("/study", FORM, 5 * MAX_BYTES),
    ("/study", 422): lambda _: service().request("POST", "/study?misspelt=true", headers=ASKED),
    ("/feedback", 401): lambda folder: keeping(folder).request("POST", "/feedback", headers=ASKED),
    ("/feedback", 403): lambda _: feedback(service()),
    ("/feedback", 409): other_feedback,
    ("/card", 404): lambda _: service().request("GET", "/card", headers=ASKED),
    (INFER, 404): lambda _: service().request("POST", "/v2/models/another/infer", headers=ASKED),
    (INFER, 422): lambda _: infer(service(), COLOURED),
    ("/v2", 422): lambda _: service().request("GET", "/v2?misspelt=true", headers=ASKED),
}


def assert_shown(response, path, status):
    shown, body = problems(path)[status], response.json()
    assert (response.status_code, body["code"], body["request_id"]) == (status, shown.code, REQUEST_ID)
    assert re.sub(r"[\d.]+ s\b", "N s", body["error"]) == re.sub(r"[\d.]+ s\b", "N s", shown.sentence)


@pytest.mark.parametrize(("path", "status"), TROUBLES)
def test_the_errors_that_are_shown_are_those_of_the_app(path, status, tmp_path):
    assert_shown(TROUBLES[path, status](tmp_path), path, status)


def test_the_full_disk_that_is_shown_is_said_so_by_the_app(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    assert_shown(feedback(keeping(tmp_path)), "/feedback", 507)


@pytest.mark.parametrize("status", PROXYS)
def test_the_errors_of_the_proxy_that_are_shown_are_those_of_its_configuration(status):
    shown = problems("/predict")[status]
    [line] = [line for line in HAPROXY.read_text().splitlines() if f"http-error status {status} " in line]

    assert f'"error": "{shown.sentence}", "code": "{shown.code}"' in line and "Retry-After" in line


def test_every_error_that_is_shown_somewhere_is_asked_for():
    assert {status for _, status in TROUBLES} | {507, *PROXYS} == set(problems("/predict"))
