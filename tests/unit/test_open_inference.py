"""The Open Inference Protocol in this process: its answers are those of POST /predict, and how it says no."""

import asyncio
import json

import numpy as np
import pytest
from tests.service import (
    MAX_BYTES,
    NAMED,
    NO,
    SHARES,
    SLICE,
    YES,
    Prediction,
    Reason,
    Service,
    assert_problem,
    image,
    png,
)
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from neuralblack.data.preprocessing import marked
from neuralblack.data.slices import Prepared
from neuralblack.errors import InputError
from neuralblack.service.decoder import DecoderDownError

MODEL = "/v2/models/neuralblack"
INFER = f"{MODEL}/infer"
LENGTH = "Inference-Header-Content-Length"
JPEG = b"\xff\xd8\xff\xe0" + bytes(100)


def box(*numbers, **changed):
    return {"name": "box", "datatype": "INT64", "shape": [len(numbers) // 4, 4], "data": list(numbers)} | changed


def infer(service, *inputs, address=INFER, headers=None, **members):
    return service.predict(address=address, json={"inputs": list(inputs)} | members, headers=headers)


def outputs(response):
    """An answer's outputs by name: their data."""
    assert response.status_code == 200, response.text
    return {each["name"]: each["data"] for each in response.json()["outputs"]}


def binary(files, **members):
    """What the other implementation's client would send for files as binary data: body and headers."""
    tensor = InferInput("image", [len(files)], "BYTES").set_data_from_numpy(np.array(files, object))
    body, length = InferenceServerClient.generate_request_body([tensor], **members)
    return {"content": body, "headers": {LENGTH: str(length)}}


def by_length(no_of_length):
    """A classifier over what `as_length` decodes, which refuses one length."""

    async def classify(question):
        return NO if question == no_of_length else YES

    return classify


async def as_length(data):
    return len(data)


def test_a_slice_gets_the_answer_of_predict():
    service = Service()

    response = infer(service, image(png()), id="mine 1")

    expected = service.predict(content=png()).json()
    assert service.decoded == [png(), png()]
    assert response.headers["content-type"] == "application/json" and LENGTH not in response.headers
    answer = response.json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("neuralblack", NAMED["version"], "mine 1")
    assert answer["parameters"] == {
        "classes": "glioma,pituitary",
        "name": NAMED["name"],
        "hash": NAMED["hash"],
        "preprocessing": expected["preprocessing"],
        "notice": expected["notice"],
    }
    assert outputs(response) == {
        "label": [expected["label"]],
        "probabilities": list(expected["probabilities"].values()),
        "prediction_set": [False, True],
        "coverage": [pytest.approx(expected["coverage"])],
        "status": [expected["status"]],
        "reasons": ["[]"],
    }


def test_an_answer_has_the_shapes_that_the_metadata_promise():
    service = Service()
    described = service.request("GET", MODEL).json()["outputs"]

    given = infer(service, image(png(), JPEG)).json()["outputs"]

    for said, tensor in zip(described, given, strict=True):
        assert (said["name"], said["datatype"]) == (tensor["name"], tensor["datatype"])
        assert tensor["shape"] == [2, *said["shape"][1:]]
        assert len(tensor["data"]) == np.prod(tensor["shape"])


def test_slices_of_a_request_are_answered_in_their_order():
    files = [png(), JPEG, png(32)]

    async def classify(length):
        return Prediction(probabilities={"glioma": 1 / length, "pituitary": 1 - 1 / length})

    answer = outputs(infer(Service(decode=as_length, classify=classify), image(*files)))

    assert answer["probabilities"][::2] == pytest.approx([1 / len(each) for each in files])


def test_binary_data_give_the_same_as_json():
    service = Service()
    asked = [InferRequestedOutput(name) for name in ("probabilities", "label", "prediction_set")]

    response = service.predict(address=INFER, **binary([png(), JPEG], outputs=asked, request_id="r-1"))

    assert response.headers["content-type"] == "application/octet-stream"
    read = InferenceServerClient.parse_response_body(response.content, header_length=int(response.headers[LENGTH]))
    assert read.get_response()["id"] == "r-1"
    assert read.as_numpy("label").tolist() == [b"pituitary"] * 2
    assert read.as_numpy("probabilities").tolist() == [list(SHARES.values())] * 2
    assert read.as_numpy("prediction_set").tolist() == [[False, True]] * 2
    assert read.as_numpy("status") is None
    assert service.decoded == [png(), JPEG]


def test_an_output_says_for_itself_how_it_goes_out():
    asked = [{"name": "label", "parameters": {"binary_data": False}}, {"name": "status"}]

    response = infer(Service(), image(png()), outputs=asked, parameters={"binary_data_output": True})

    head, rest = response.content[: int(response.headers[LENGTH])], response.content[int(response.headers[LENGTH]) :]
    label, status = json.loads(head)["outputs"]
    assert label["data"] == ["pituitary"]
    assert status["parameters"] == {"binary_data_size": len(rest)} and "data" not in status
    assert rest == b"\x02\x00\x00\x00ok"


def test_a_refused_slice_ends_the_request_for_who_does_not_ask_for_its_status():
    service = Service(decode=as_length, classify=by_length(len(JPEG)))

    for asked in ({}, {"outputs": [{"name": "label"}, {"name": "probabilities"}]}):
        response = infer(service, image(png(), JPEG), **asked)
        assert_problem(response, 422, "refused", "image[1] is refused: The picture has colours.", "status")
    metrics = service.request("GET", "/metrics").text
    assert 'neuralblack_requests_total{outcome="refused",route="infer"} 2.0' in metrics


def test_who_asks_for_the_status_hears_of_each_slice_and_a_refused_one_has_no_number_that_could_be_one():
    service = Service(decode=as_length, classify=by_length(len(JPEG)))
    names = service.request("GET", MODEL).json()["outputs"]

    response = infer(service, image(png(), JPEG), outputs=[{"name": each["name"]} for each in names])

    answer = outputs(response)
    assert answer["status"] == ["ok", "refused"]
    assert answer["label"] == ["pituitary", ""]
    assert answer["probabilities"] == [0.25, 0.75, -1.0, -1.0]
    assert answer["prediction_set"] == [False, True, False, False]
    assert answer["coverage"] == [pytest.approx(0.9), -1.0]
    assert json.loads(answer["reasons"][1]) == [{"code": "colour", "sentence": "The picture has colours."}]


def test_what_is_not_calibrated_rules_nothing_out_and_promises_nothing():
    async def classify(question):
        return Prediction(probabilities=SHARES, prediction_set=None, coverage=None)

    answer = outputs(infer(Service(classify=classify), image(png())))

    assert answer["prediction_set"] == [True, True] and answer["coverage"] == [-1.0]


def test_a_box_marks_its_slice():
    asked = []

    async def classify(question):
        asked.append(question)
        return YES

    service = Service(classify=classify, mark=lambda question, box: ("marked", box))
    boxes = [1, 2, 30, 40, 5, 6, 7, 8]

    assert infer(service, image(png(), JPEG), box(*boxes)).status_code == 200
    assert sorted(asked) == [("marked", (1, 2, 30, 40)), ("marked", (5, 6, 7, 8))]
    assert [each["name"] for each in service.request("GET", MODEL).json()["inputs"]] == ["image", "box"]


def test_a_model_of_marked_tumours_refuses_a_slice_without_a_box_in_words():
    async def classify(question):
        return Prediction(None, None, None, None, "refused", (Reason("no_box", "Mark the tumour with a box."),))

    service = Service(classify=classify, mark=lambda question, box: question)

    assert_problem(infer(service, image(png())), 422, "refused", "Mark the tumour with a box.")


@pytest.mark.parametrize("numbers", [(1, 2, 30, 400), (-1, 2, 30, 40), (5, 5, 5, 5), (0, 0, 2**63 - 1, 2**63 - 1)])
def test_a_box_outside_the_slice_is_refused(numbers):
    service = Service(mark=lambda question, box: marked(Prepared(SLICE), box, where="box"))

    assert_problem(infer(service, image(png()), box(*numbers)), 422, "bad_box", "inside the slice of 64 x 64 pixels")


def test_a_model_of_whole_slices_takes_no_box():
    service = Service()

    assert_problem(infer(service, image(png()), box(1, 2, 30, 40)), 422, "no_box_taken")
    assert [each["name"] for each in service.request("GET", MODEL).json()["inputs"]] == ["image"]
    assert service.decoded == []


@pytest.mark.parametrize("name", ["neuralblack", NAMED["name"]])
@pytest.mark.parametrize("version", ["", f"/versions/{NAMED['version']}"])
def test_the_model_has_a_name_that_stays_and_its_own_and_one_version(name, version):
    service, place = Service(), f"/v2/models/{name}{version}"

    metadata = service.request("GET", place).json()
    assert (metadata["name"], metadata["versions"]) == (name, [NAMED["version"]])
    assert service.request("GET", f"{place}/ready").json() == {"name": name, "ready": True}
    assert infer(service, image(png()), address=f"{place}/infer").json()["model_name"] == name


@pytest.mark.parametrize("place", ["/v2/models/other", f"{MODEL}/versions/1", f"/v2/models/other/versions/{'0' * 12}"])
def test_another_model_or_version_is_not_found(place):
    service = Service()
    for response in (
        service.request("GET", place),
        service.request("GET", f"{place}/ready"),
        infer(service, image(png()), address=f"{place}/infer"),
    ):
        assert_problem(response, 404, "unknown_model", "neuralblack", NAMED["name"], NAMED["version"])
        assert "other" not in response.text
    assert service.decoded == []


def test_the_server_says_what_it_is():
    metadata = Service().request("GET", "/v2").json()

    assert metadata["name"] == "neuralblack" and metadata["extensions"] == ["binary_tensor_data"]


def test_before_the_model_is_ready_the_process_lives_and_nothing_is_inferred():
    service = Service(ready=False)

    assert service.request("GET", "/v2/health/live").json() == {"live": True}
    for response in (
        service.request("GET", "/v2/health/ready"),
        service.request("GET", f"{MODEL}/ready"),
        infer(service, image(png())),
    ):
        assert_problem(response, 503, "not_ready")
    assert service.decoded == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [image(png(), name="picture")]}, "inputs.0.name"),
        ({"inputs": [image(png(), datatype="UINT8")]}, "inputs.0.datatype"),
        ({"inputs": [image(png(), datatype="INT64")]}, "must be BYTES of shape [-1]"),
        ({"inputs": [image(png(), shape=[1, 1])]}, "must be BYTES of shape [-1]"),
        ({"inputs": [image(png(), shape=[-1])]}, "must be BYTES of shape [-1]"),
        ({"inputs": [image(png(), shape=["1"])]}, "inputs.0.shape.0"),
        ({"inputs": [image(png(), shape=[2])]}, "one string for each element"),
        ({"inputs": [image(png(), data=["%%%"])]}, "base64"),
        ({"inputs": [image(png(), data=None)]}, "either data or a binary_data_size"),
        ({"inputs": [image(png(), parameters={"binary_data_size": 3})]}, "either data or a binary_data_size"),
        ({"inputs": [image(png(), data=None, parameters={"binary_data_size": 3})]}, "either data or"),
        ({"inputs": [image(png(), data=None, parameters={"binary_data_size": -3})]}, "binary_data_size"),
        ({"inputs": [image(png(), parameters={"content_type": "str"})]}, "content_type"),
        ({"inputs": [image(png()), image(png())]}, "there twice"),
        ({"inputs": [box(1, 2, 3, 4)]}, "image is missing"),
        ({"inputs": [image(png(), JPEG), box(1, 2, 3, 4)]}, "a box for each slice"),
        ({"inputs": [image(png())], "outputs": [{"name": "logits"}]}, "outputs.0.name"),
        ({"inputs": [image(png())], "outputs": [{"name": "label"}, {"name": "label"}]}, "asked for twice"),
        ({"inputs": [image(png())], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "outputs.0"),
        ({"inputs": [image(png())], "parameters": {"Jane Doe": 1}}, "at parameters"),
        ({"inputs": [image(png())], "Jane Doe": 1}, "at its top"),
        ({"inputs": [image(png())], "id": 7}, "at id"),
    ],
    ids=range(24),
)
def test_what_the_protocol_does_not_say_is_refused_in_words(members, words):
    service = Service()

    response = service.predict(address=INFER, json=members)

    assert response.status_code == 400 and set(response.json()) == {"error", "code", "request_id"}
    assert words in response.json()["error"]
    assert "Jane" not in response.text
    assert service.decoded == []


@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [
        (b"", {}, "invalid_request"),
        (b"{", {}, "invalid_request"),
        (b"\xff\xfe", {}, "invalid_request"),
        (b"[" * 1500, {}, "invalid_request"),
        (b"{}", {LENGTH: "3"}, "bad_length"),
        (b"{}", {LENGTH: "two"}, "bad_length"),
        (json.dumps({"inputs": [image(png())]}).encode() + b"more", {}, "invalid_request"),
    ],
    ids=["empty", "half", "not UTF-8", "deep", "beyond the end", "no number", "bytes behind"],
)
def test_a_body_that_is_no_request_is_refused(content, headers, code):
    assert_problem(Service().predict(address=INFER, content=content, headers=headers), 400, code)


def test_bytes_behind_the_last_tensor_are_refused():
    asked = binary([png()])
    asked["content"] += b"more"

    assert_problem(Service().predict(address=INFER, **asked), 400, "bad_length")


@pytest.mark.parametrize(
    ("file", "status", "code"),
    [
        (b"", 400, "empty"),
        (b"%PDF-1.7", 415, "unsupported"),
        (b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES), 413, "too_large"),
    ],
)
def test_a_file_is_checked_as_any_upload(file, status, code):
    service = Service()

    assert_problem(service.predict(address=INFER, **binary([png(), file])), status, code)
    assert service.decoded == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (lambda: bytes(5 * MAX_BYTES), "too_large"),
        (lambda: json.dumps({"inputs": [image(bytes(2 * MAX_BYTES))]}).encode(), "too_large"),
        (lambda: b'{"inputs": [' + b"[]," * 60_000 + b"0]}", "too_many"),
        (lambda: json.dumps({"inputs": [image(*[png(16)] * 65)]}).encode(), "too_many"),
    ],
    ids=["body", "JSON", "parts", "slices"],
)
def test_too_large_a_request_is_refused(content, code):
    assert_problem(Service(max_bytes=MAX_BYTES).predict(address=INFER, content=content()), 413, code)


def test_no_request_has_more_slices_than_places():
    service = Service(max_pending=2)

    assert infer(service, image(png(), JPEG)).status_code == 200
    assert_problem(infer(service, image(png(), JPEG, png())), 413, "too_many", "at most 2 slices")


def test_every_slice_takes_a_place():
    async def run():
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def classify(question):
            inside.set()
            await go_on.wait()
            return YES

        async with Service(classify=classify, max_pending=3).client() as client:
            first = asyncio.create_task(client.post(INFER, json={"inputs": [image(png(), JPEG)]}))
            await inside.wait()
            second = await client.post(INFER, json={"inputs": [image(png(), JPEG)]})
            go_on.set()
            return await first, second

    first, second = asyncio.run(run())

    assert first.status_code == 200
    assert_problem(second, 429, "overloaded")


def test_what_takes_too_long_ends_in_time():
    async def never(question):
        await asyncio.Event().wait()

    assert_problem(infer(Service(classify=never, deadline_s=0.05), image(png(), JPEG)), 503, "too_slow")


def test_a_request_that_does_not_arrive_is_not_the_services_fault():
    async def slow():
        yield b"{"
        await asyncio.Event().wait()

    service = Service(deadline_s=0.05)

    assert_problem(service.predict(address=INFER, content=slow()), 408, "slow_upload")


def test_a_slice_that_cannot_be_read_is_named_by_its_place():
    async def broken(data):
        if data == JPEG:
            raise InputError("/data/Jane Doe.png", found="a broken file", expected="one slice", fix="export it")
        return SLICE

    response = infer(Service(decode=broken), image(png(), JPEG))

    assert_problem(response, 422, "unreadable", "image[1]: found a broken file")
    assert "Jane" not in response.text


def test_a_decoder_that_is_down_is_not_the_requests_fault():
    async def down(data):
        raise DecoderDownError("the decoder process did not start")

    assert_problem(infer(Service(decode=down), image(png())), 503, "decoder_down")


def test_a_bug_is_one_sentence():
    async def buggy(question):
        raise KeyError("Jane Doe")

    response = infer(Service(classify=buggy), image(png()))

    assert_problem(response, 500, "internal")
    assert "Jane" not in response.text


def test_an_unknown_parameter_of_the_address_is_refused():
    assert_problem(infer(Service(), image(png()), address=f"{INFER}?explain=true"), 422, "invalid_request")


def test_listeners_hear_every_slice_and_it_is_counted():
    heard = []
    service = Service(listeners=[lambda question, prediction: heard.append(prediction)])

    infer(service, image(png(), JPEG))

    assert heard == [YES, YES]
    metrics = service.request("GET", "/metrics").text
    assert 'neuralblack_labels_total{label="pituitary"} 2.0' in metrics
    assert 'neuralblack_requests_total{outcome="ok",route="infer"} 1.0' in metrics


def test_answers_fit_their_own_shape():
    from neuralblack.service.inference_messages import InferAnswer, ModelMetadata, ModelReady, ServerMetadata

    service = Service()
    asked = {"outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "status"}]}
    half = infer(service, image(png()), id="1", **asked)
    head = json.loads(half.content[: int(half.headers[LENGTH])])
    answers = (
        (InferAnswer, infer(service, image(png())).json()),
        (InferAnswer, head),
        (ModelMetadata, service.request("GET", MODEL).json()),
        (ModelReady, service.request("GET", f"{MODEL}/ready").json()),
        (ServerMetadata, service.request("GET", "/v2").json()),
    )
    for shape, given in answers:
        assert shape.model_validate(given, strict=True, extra="forbid").model_dump(exclude_unset=True) == given
