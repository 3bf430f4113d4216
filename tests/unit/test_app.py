"""The HTTP face without Ray, torch or a socket: what it answers, and how it says no."""

import json
import logging
from dataclasses import dataclass

import numpy as np
import pytest
from tests.service import (
    MAX_BYTES,
    MODEL,
    NAMED,
    NO,
    SHARES,
    SLICE,
    YES,
    Prediction,
    Service,
    assert_problem,
    picture,
    png,
)

from neuralblack.data.preprocessing import marked
from neuralblack.data.slices import Prepared
from neuralblack.errors import InputError
from neuralblack.service.decoder import DecoderDownError
from neuralblack.service.example_slices import EXAMPLES, draw_example

SECRET = "Jane Doe"


def test_listeners_hear_every_slice_with_its_answer():
    heard = []
    service = Service(listeners=[lambda question, prediction: heard.append((question, prediction))])

    service.predict(content=png())

    [(question, prediction)] = heard
    assert np.array_equal(question, SLICE) and prediction == YES


def test_a_slice_that_is_asked_about_again_is_answered_and_no_listener_hears_it_twice():
    heard = []

    async def explain(question, label):
        return SLICE

    service = Service(listeners=[lambda *slice_: heard.append(slice_)], explain=explain)

    assert "heat_map" in service.predict(address="/predict?explain=true&again=true", content=png()).json()
    assert heard == []
    for address in ("/predict?explain=true", "/predict?again=false"):
        service.predict(address=address, content=png())
    assert len(heard) == 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_made_up_slice_of_the_page_is_answered_and_is_nobodys_input(name):
    heard = []
    service = Service(listeners=[lambda *slice_: heard.append(slice_)])

    response = service.predict(content=draw_example(name))

    assert response.status_code == 200 and response.json()["label"] == "pituitary"
    assert heard == []


def test_a_raw_body_is_classified():
    service = Service()

    response = service.predict(content=png(), headers={"X-Request-ID": "mine-1"})

    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "label": "pituitary",
        "probabilities": {"glioma": 0.25, "pituitary": 0.75},
        "prediction_set": ["pituitary"],
        "coverage": 0.9,
        "model": NAMED,
        "preprocessing": 1,
        "request_id": "mine-1",
        "notice": "Research use only; not a diagnosis.",
    }
    assert service.decoded == [png()]


def test_a_form_gives_the_same_bytes_to_the_decoder():
    service = Service()

    response = service.predict(files={"file": ("Jane Doe.png", png(), "image/png")})

    assert response.status_code == 200
    assert service.decoded == [png()]


def test_a_preview_is_the_slice_as_the_model_sees_it():
    answer = Service().predict(address="/predict?preview=true", content=png()).json()

    assert np.array_equal(picture(answer["preview"]), SLICE)


def test_a_preview_says_how_large_the_upload_was():
    answer = Service().predict(address="/predict?preview=true", content=png()).json()

    assert (answer["height"], answer["width"]) == SLICE.shape


def test_a_box_marks_the_slice_that_the_model_is_asked_about():
    asked = []

    async def classify(question):
        asked.append(question)
        return YES

    service = Service(classify=classify, mark=lambda question, box: ("marked", box))

    assert service.predict(address="/predict?box=1,2,30,40", content=png()).status_code == 200
    assert asked == [("marked", (1, 2, 30, 40))]
    assert service.request("GET", "/model").json()["needs_box"] is True


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("box=1,2,3", "four whole numbers"),
        ("box=", "four whole numbers"),
        ("box=1,2,30,400", "inside the slice of 64 x 64 pixels"),
        ("box=1,2,30,40&box=1,2,30,40", "there twice"),
        ("boxes=1,2,30,40", "Known here: preview, explain, again, box"),
    ],
)
def test_a_box_that_is_none_is_refused_in_words(query, words):
    def mark(question, box):
        return marked(Prepared(SLICE), box, where="box")

    response = Service(mark=mark).predict(address=f"/predict?{query}", content=png())

    assert response.status_code == 422
    assert words in response.json()["error"]


def test_what_a_model_refuses_for_want_of_a_box_is_nobodys_news():
    heard = []
    service = Service(mark=lambda question, box: question, listeners=[lambda *slice_: heard.append(slice_)])

    assert service.predict(content=png()).status_code == 200
    assert heard == []
    assert service.predict(address="/predict?box=1,2,30,40", content=png()).status_code == 200
    assert len(heard) == 1


def test_a_model_of_whole_slices_takes_no_box():
    service = Service()
    response = service.predict(address="/predict?box=1,2,30,40", content=png())

    assert response.status_code == 422 and response.json()["code"] == "no_box_taken"
    assert service.request("GET", "/model").json()["needs_box"] is False


def test_a_refusal_has_reasons_and_no_label():
    async def refuse(question):
        return NO

    response = Service(classify=refuse).predict(address="/predict?preview=true", content=png())

    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "refused"
    assert answer["reasons"] == [{"code": "colour", "sentence": "The picture has colours."}]
    assert not answer.keys() & {"label", "probabilities", "prediction_set", "coverage", "heat_map"}
    assert answer["model"] == NAMED and answer["preview"] and answer["notice"]


def test_what_is_not_calibrated_promises_no_coverage():
    async def classify(question):
        return Prediction(probabilities=SHARES, prediction_set=None, coverage=None)

    answer = Service(classify=classify).predict(content=png()).json()

    assert answer["label"] == "pituitary"
    assert not answer.keys() & {"prediction_set", "coverage"}


def test_a_decoder_may_give_more_than_pixels():
    @dataclass(frozen=True)
    class Decoded:
        pixels: np.ndarray
        colour: bool

    asked = []

    async def decode(data):
        return Decoded(SLICE, colour=True)

    async def classify(question):
        asked.append(question.colour)
        return YES

    answer = Service(decode=decode, classify=classify).predict(address="/predict?preview=true", content=png()).json()

    assert asked == [True] and np.array_equal(picture(answer["preview"]), SLICE)


def test_a_heat_map_lies_over_the_slice_and_says_what_it_is_not():
    asked = []

    async def explain(question, label):
        asked.append(label)
        return SLICE

    service = Service(explain=explain)
    answer = service.predict(address="/predict?explain=true&preview=1", content=png()).json()

    assert asked == ["pituitary"]
    map_ = picture(answer["heat_map"])
    assert map_.shape == (64, 64, 4) and np.array_equal(map_[..., 3], SLICE)
    assert len(np.unique(map_[..., :3].reshape(-1, 3), axis=0)) == 1
    assert answer["heat_map_note"] == "It shows where the network looked, not where the tumour is."
    assert "heat_map" not in service.predict(content=png()).json()
    assert service.request("GET", "/model").json()["explains"] is True


def test_a_refused_slice_is_not_explained():
    async def refuse(question):
        return NO

    async def explain(question, label):
        raise AssertionError("there is no label to explain")

    answer = Service(classify=refuse, explain=explain).predict(address="/predict?explain=true", content=png()).json()

    assert answer["status"] == "refused" and "heat_map" not in answer


def test_a_heat_map_that_the_models_folder_does_not_allow_is_no_fault_of_the_upload(caplog):
    async def explain(question, label):
        raise InputError("/models/x/weights.safetensors", found="no file", expected="weights", fix="restore it")

    service = Service(explain=explain)

    assert_problem(service.predict(address="/predict?explain=true", content=png()), 500, "internal", "tell who runs it")
    counted = service.request("GET", "/metrics").text
    assert 'neuralblack_requests_total{outcome="internal",route="predict"} 1.0' in counted
    assert 'neuralblack_last_failure_timestamp_seconds{outcome="internal",route="predict"}' in counted
    assert "/models/x/weights.safetensors: found no file" in caplog.text, "the operator hears it"
    assert service.predict(content=png()).status_code == 200


def test_a_model_that_cannot_explain_says_so_before_it_reads():
    service = Service()

    assert_problem(service.predict(address="/predict?explain=true", content=png()), 422, "no_explanation")
    assert service.decoded == []


def test_nothing_is_predicted_before_the_model_is_ready():
    service = Service(ready=False)

    for response in (service.predict(content=png()), service.request("GET", "/ready")):
        assert_problem(response, 503, "not_ready", "loaded")
        assert int(response.headers["retry-after"]) > 0
    assert service.decoded == []
    assert service.request("GET", "/health").status_code == 200


def test_ready_names_the_model():
    response = Service().request("GET", "/ready")

    assert response.status_code == 200
    assert response.json()["model"] == NAMED


async def chunks(size):
    for _ in range(0, size, 10_000):
        yield png()[:1].ljust(10_000, b"x")


@pytest.mark.parametrize(
    "options",
    [
        {"content": b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES)},
        {"content": lambda: chunks(4 * MAX_BYTES)},
        {"files": {"file": ("a.png", png()[:8] + bytes(MAX_BYTES), "image/png")}},
        {"files": {"file": ("a.png", png()[:8] + bytes(5 * MAX_BYTES), "image/png")}},
        {"content": b"short", "headers": {"Content-Length": str(10**12)}},
    ],
    ids=["raw", "chunked", "form", "large form", "a header that promises too much"],
)
def test_too_large_a_body_is_refused_however_it_comes(options):
    options = {key: value() if callable(value) else value for key, value in options.items()}
    service = Service()

    assert_problem(service.predict(**options), 413, "too_large", "100000 bytes")
    assert service.decoded == []


def test_a_body_without_end_is_not_read_to_its_end():
    taken = 0

    async def endless():
        nonlocal taken
        while True:
            taken += 10_000
            assert taken < 10 * MAX_BYTES, "the service goes on reading"
            yield bytes(10_000)

    # httpx's ASGI transport sends pieces as the app asks for them.
    assert_problem(Service().predict(content=endless()), 413, "too_large")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": b""}, 400, "empty"),
        ({"content": b"%PDF-1.7 ..."}, 415, "unsupported"),
        ({"content": b"\0\0\0\x18ftypheic" + bytes(64)}, 415, "unsupported"),
        ({"content": b"hello", "headers": {"Content-Type": "image/png"}}, 415, "unsupported"),
        ({"files": {"file": ("a.png", b"", "image/png")}}, 400, "empty"),
        ({"files": {"picture": ("a.png", png(), "image/png")}}, 400, "no_file"),
        ({"data": {"file": "text"}, "files": {"other": ("a.png", png())}}, 400, "no_file"),
        ({"files": [("file", ("a.png", png())), ("file", ("b.png", png()))]}, 400, "bad_form"),
        ({"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad_form"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "bad_form"),
    ],
    ids=[
        "empty",
        "pdf",
        "heic",
        "text-called-png",
        "empty-file",
        "wrong-field",
        "a-text",
        "two-files",
        "no-boundary",
        "junk",
    ],
)
def test_what_cannot_be_a_slice_is_refused_in_words(options, status, code):
    service = Service()

    assert_problem(service.predict(**options), status, code)
    assert service.decoded == []


def test_an_unreadable_file_is_called_upload():
    async def broken(data):
        raise InputError("/data/Jane Doe.png", found="a broken PNG", expected="one slice", fix="export it as PNG")

    response = Service(decode=broken).predict(files={"file": ("Jane Doe.png", png())})

    assert_problem(response, 422, "unreadable", "upload: found a broken PNG")
    assert "Jane" not in response.text


def test_a_decoder_that_is_down_is_not_the_files_fault():
    async def down(data):
        raise DecoderDownError("the decoder process did not start")

    response = Service(decode=down).predict(content=png())

    assert_problem(response, 503, "decoder_down")
    assert int(response.headers["retry-after"]) > 0


def test_a_bug_is_one_sentence_for_the_client_and_says_nothing_of_the_upload_in_the_log(caplog):
    async def buggy(slice_):
        raise KeyError(SECRET)

    with caplog.at_level(logging.INFO):
        response = Service(classify=buggy).predict(content=png(), headers={"X-Request-ID": "q7"})

    assert_problem(response, 500, "internal")
    assert "Traceback" not in response.text and "KeyError" not in response.text and ".py" not in response.text
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("neuralblack"))
    assert "q7" in ours and "KeyError" in ours and "buggy" in ours
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("method", "address", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/predict", 405, "wrong_method"),
        ("POST", "/predict/", 404, "not_found"),
        ("DELETE", "/health", 405, "wrong_method"),
        ("POST", "/predict?preview=true&preview=false", 422, "invalid_request"),
        ("POST", "/predict?preveiw=true", 422, "invalid_request"),
        ("POST", "/study?explain=true", 422, "invalid_request"),
        ("POST", "/predict?preview=perhaps", 422, "invalid_request"),
    ],
)
def test_other_mistakes_have_the_same_shape(method, address, status, code):
    assert_problem(Service().request(method, address), status, code)


def test_a_load_balancer_may_ask_with_head():
    for ready, status in ((True, 200), (False, 503)):
        service = Service(ready=ready, token="x" * 16)
        assert service.request("HEAD", "/ready").status_code == status
        assert service.request("HEAD", "/health").status_code == 200
    paths = service.request("GET", "/openapi.json").json()["paths"]
    assert paths["/ready"].keys() == paths["/health"].keys() == {"get"}


@pytest.mark.parametrize("given", ["a b", "x" * 65, "<script>", ""])
def test_a_request_id_that_could_harm_a_log_is_replaced(given):
    response = Service().request("GET", "/health", headers={"X-Request-ID": given})

    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("address", ["/", "/app.js", "/style.css", "/icon.svg", "/nothing"])
def test_every_answer_carries_the_headers_of_a_careful_page(address):
    response = Service().request("GET", address)

    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("POST", "/predict?preview=true"),
        ("POST", "/predict"),
        ("POST", "/study"),
        ("POST", "/v2/models/neuralblack/infer"),
        ("POST", "/feedback"),
        ("GET", "/model"),
        ("GET", "/card"),
        ("GET", "/nothing"),
    ],
)
def test_no_answer_is_kept_on_a_disk(method, address):
    with_slice = {"content": png()} if "predict" in address else {"files": {"file": ("a.png", png())}}
    response = Service(card="# tiny").request(method, address, **(with_slice if method == "POST" else {}))

    assert response.headers.get_list("cache-control") == ["no-store"]


def test_the_pages_own_files_may_be_kept():
    kept = {
        address: Service().request("GET", address).headers.get_list("cache-control")
        for address in ("/", "/app.js", "/examples/glioma.jpg")
    }

    assert kept == {"/": ["no-cache"], "/app.js": ["no-cache"], "/examples/glioma.jpg": ["max-age=86400"]}


def test_the_page_asks_no_other_server_and_has_no_script_of_its_own():
    service = Service()
    page = service.request("GET", "/")

    assert page.headers["content-type"].startswith("text/html")
    everything = page.text + service.request("GET", "/app.js").text + service.request("GET", "/style.css").text
    assert "//" not in everything.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert "style=" not in page.text and "<style" not in page.text and "onclick" not in page.text
    assert "innerHTML" not in everything
    assert "Research use only" in page.text


def test_the_facts_of_the_model_are_there_for_the_page():
    facts = Service().request("GET", "/model").json()

    assert facts["classes"] == MODEL["classes"]
    assert facts["max_bytes"] == MAX_BYTES


def test_the_card_of_the_model_is_there_to_be_read():
    service = Service(card="# tiny\n\nAccuracy 91 ± 2%.\n")
    response = service.request("GET", "/card")

    assert response.text == "# tiny\n\nAccuracy 91 ± 2%.\n"
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    assert service.request("GET", "/model").json()["card"] is True


def test_a_model_without_a_report_has_no_card_and_says_so():
    service = Service()

    assert_problem(service.request("GET", "/card"), 404, "no_card", "without a report")
    assert service.request("GET", "/model").json()["card"] is False


def test_the_interface_describes_itself():
    described = Service().request("GET", "/openapi.json").json()

    predict = described["paths"]["/predict"]["post"]
    assert set(predict["responses"]) >= {"200", "400", "413", "415", "422", "503"}
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert [each["name"] for each in predict["parameters"]] == ["preview", "explain", "again", "box"]
    assert json.dumps(described).count("Trouble")
