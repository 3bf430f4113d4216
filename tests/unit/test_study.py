"""Several slices of one patient: one verdict, with their disagreement, and no slice lost from the list."""

import asyncio
import math

import numpy as np
import pytest
from tests.service import MAX_BYTES, NAMED, NO, Prediction, Service, assert_problem, png

from neuralblack.errors import InputError
from neuralblack.evaluation.patients import Slices
from neuralblack.service.decoder import DecoderDownError
from neuralblack.service.study import verdict

GLIOMA = {"glioma": 0.9, "pituitary": 0.1}
PITUITARY = {"glioma": 0.2, "pituitary": 0.8}


async def decode(data):
    """The file's last byte says what becomes of it."""
    if data.endswith(b"!"):
        raise InputError("/data/Jane Doe.png", found="a broken PNG", expected="one slice", fix="export it again")
    return data[-1:]


async def classify(question):
    shares = {b"g": GLIOMA, b"p": PITUITARY, b"0": {"glioma": 1.0, "pituitary": 0.0}}.get(question)
    return NO if shares is None else Prediction(max(shares, key=shares.get), shares)


def ask(*ends, service=None, **options):
    service = service or Service(decode=decode, classify=classify, **options)
    files = [("file", ("Jane Doe.png", end if len(end) > 1 else png() + end)) for end in ends]
    return service.request("POST", "/study", files=files)


def test_slices_are_joined_by_the_mean_of_their_log_probabilities():
    answer = ask(b"g", b"p", b"g").json()

    odds = (9 * 9 / 4) ** (1 / 3)  # glioma against pituitary, the geometric mean
    assert answer["status"] == "ok" and answer["label"] == "glioma"
    assert answer["probabilities"] == pytest.approx({"glioma": odds / (1 + odds), "pituitary": 1 / (1 + odds)})
    assert answer["disagreement"] == {"agreeing": pytest.approx(2 / 3), "slices": 3, "refused": 0, "unreadable": 0}
    assert [each["label"] for each in answer["slices"]] == ["glioma", "pituitary", "glioma"]
    assert not answer.keys() & {"prediction_set", "coverage", "reasons"}
    assert answer["model"] == NAMED and answer["request_id"] and answer["notice"]


def test_its_verdict_is_the_one_that_reports_measure():
    rows = np.array([[1 - 1e-12, 1e-12], [1e-4, 0.9999], [1e-4, 0.9999]])

    measured = Slices(np.zeros(3, np.int64), rows, ["a"] * 3).by_patient().probabilities[0]

    said = verdict([dict(zip(("glioma", "pituitary"), row, strict=True)) for row in rows.tolist()])
    assert list(said.values()) == pytest.approx(measured) and said["pituitary"] > 0.5


def test_one_slice_gives_its_own_probabilities():
    assert ask(b"p").json()["probabilities"] == pytest.approx(PITUITARY)


def test_a_probability_rounded_to_zero_forbids_no_class():
    answer = ask(b"0", *[b"p"] * 40).json()

    assert answer["label"] == "pituitary" and all(math.isfinite(p) for p in answer["probabilities"].values())


def test_what_cannot_be_used_is_listed_counted_and_left_out():
    answer = ask(b"g", b"!", b"?", b"x" * (MAX_BYTES + 1)).json()

    assert answer["probabilities"] == pytest.approx(GLIOMA)
    assert answer["disagreement"] == {"agreeing": 1.0, "slices": 4, "refused": 1, "unreadable": 2}
    assert [each["index"] for each in answer["slices"]] == [0, 1, 2, 3]
    assert [each["status"] for each in answer["slices"]] == ["ok", "unreadable", "refused", "unreadable"]
    assert [each.get("reasons", [{}])[0].get("code") for each in answer["slices"]] == [
        None,
        "unreadable",
        "colour",
        "too_large",
    ]


def test_a_study_without_one_good_slice_has_no_verdict():
    response = ask(b"?", b"!")

    answer = response.json()
    assert response.status_code == 200 and answer["status"] == "refused"
    assert answer["reasons"][0]["code"] == "no_slice"
    assert not answer.keys() & {"label", "probabilities"}
    assert answer["disagreement"] == {"slices": 2, "refused": 1, "unreadable": 1}
    assert "Jane" not in response.text


def test_slices_of_a_study_are_asked_at_the_same_time():
    async def run():
        barrier = asyncio.Barrier(5)

        async def together(question):
            await asyncio.wait_for(barrier.wait(), 10)
            return await classify(question)

        async with Service(decode=decode, classify=together).client() as client:
            return await client.post("/study", files=[("file", ("a", png() + b"g"))] * 5)

    assert asyncio.run(run()).json()["disagreement"]["agreeing"] == 1.0


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": png()}, 400, "bad_form"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "bad_form"),
        ({"files": {"picture": ("a.png", png())}}, 400, "no_file"),
        ({"data": {"file": "text"}, "files": {"file": ("a.png", png())}}, 400, "no_file"),
        ({"files": [("file", ("a.png", b"x"))] * 65}, 413, "too_many"),
        ({"files": [("file", ("a.png", bytes(MAX_BYTES)))] * 5}, 413, "too_large"),
        ({"content": b"short", "headers": {"Content-Length": str(10**12)}}, 400, "bad_form"),
    ],
    ids=["raw", "junk", "wrong-field", "a-text", "65-slices", "large", "raw-that-promises-too-much"],
)
def test_what_cannot_be_a_study_is_refused_in_words(options, status, code):
    service = Service()

    assert_problem(service.request("POST", "/study", **options), status, code)
    assert service.decoded == []


def test_a_form_without_its_last_boundary_is_refused_and_not_answered_for_fewer_slices():
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + png() + b"g\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    service = Service(decode=decode, classify=classify)

    for end in (b"--x--", b"--x--\r\n"):  # a client may leave out the line's end behind it
        whole = service.request("POST", "/study", content=part * 2 + end, headers=form)
        assert whole.json()["disagreement"]["slices"] == 2
    for cut in (b"", b"--x", b"--x-"):
        response = service.request("POST", "/study", content=part * 2 + cut, headers=form)
        assert_problem(response, 400, "bad_form", "ends before its last boundary")


def test_as_many_slices_as_there_are_places_fit_and_more_never_could():
    assert ask(*[b"g"] * 4, max_pending=4).status_code == 200
    assert_problem(ask(*[b"g"] * 5, max_pending=4), 413, "too_many", "4 slices")


def test_a_study_that_finds_too_few_places_is_told_to_come_back():
    async def run():
        entered, leave = asyncio.Event(), asyncio.Event()

        async def wait(question):
            entered.set()
            await leave.wait()
            return await classify(question)

        service = Service(decode=decode, classify=wait, max_pending=4)
        async with service.client() as client:
            first = asyncio.create_task(client.post("/predict", content=png() + b"g"))
            await entered.wait()
            study = await client.post("/study", files=[("file", ("a", png() + b"g"))] * 4)
            leave.set()
            assert (await first).status_code == 200
            again = await client.post("/study", files=[("file", ("a", png() + b"g"))] * 4)
            return study, again

    study, again = asyncio.run(run())

    assert_problem(study, 429, "overloaded")
    assert again.status_code == 200  # nothing of the refused study has kept a place


def test_a_decoder_that_is_down_is_not_said_of_the_slices():
    async def down(data):
        raise DecoderDownError("no process")

    assert_problem(ask(b"g", b"p", service=Service(decode=down)), 503, "decoder_down")


def test_a_bug_in_one_slice_is_not_hidden_in_a_list():
    async def buggy(question):
        raise KeyError("x")

    assert_problem(ask(b"g", b"p", service=Service(classify=buggy)), 500, "internal")


def test_the_limits_of_a_study_are_among_the_models_facts():
    facts = Service().request("GET", "/model").json()

    assert facts["max_slices"] == 64 and facts["max_study_bytes"] == 4 * MAX_BYTES
