"""Who has no token gets no answer, and costs nothing."""

import pytest
from tests.service import Service, assert_problem, png

from neuralblack.errors import InputError
from neuralblack.service.auth import token_from

TOKEN = "correct-horse-battery-staple"
GUARDED = [("POST", "/predict"), ("POST", "/study"), ("GET", "/model"), ("GET", "/card"), ("GET", "/metrics")]
GUARDED += [("GET", "/v2"), ("GET", "/v2/models/neuralblack"), ("POST", "/v2/models/neuralblack/infer")]
GUARDED += [("POST", "/v2/models/neuralblack/versions/0123456789ab/infer")]


def with_token(scheme="Bearer", token=TOKEN):
    return {"Authorization": f"{scheme} {token}"}


@pytest.mark.parametrize(("method", "address"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        with_token(token="wrong"),
        with_token(token=TOKEN[:-1]),
        with_token(token=TOKEN + "x"),
        with_token(scheme="Basic"),
        {"Authorization": TOKEN},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
    ids=["none", "empty", "wrong", "shorter", "longer", "another-scheme", "no-scheme", "not-ascii"],
)
def test_without_the_token_there_is_no_answer_and_no_body_is_read(method, address, headers):
    async def body():
        raise AssertionError("the body was asked for")
        yield b""

    service = Service(token=TOKEN)

    response = service.request(method, address, headers=headers, content=body())

    assert_problem(response, 401, "unauthorised", "Authorization: Bearer")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_everything_answers(scheme):
    service = Service(token=TOKEN)

    assert service.predict(content=png(), headers=with_token(scheme)).status_code == 200
    assert service.request("GET", "/model", headers=with_token(scheme)).status_code == 200
    assert service.request("GET", "/metrics", headers=with_token(scheme)).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/app.js",
        "/health",
        "/ready",
        "/openapi.json",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/neuralblack/ready",
    ],
)
def test_the_page_and_the_state_are_open(address):
    assert Service(token=TOKEN).request("GET", address).status_code == 200


@pytest.mark.parametrize(
    "address", ["/predict/", "http://service//predict", "/Predict", "/predict/../predict", "/%70redict"]
)
def test_no_spelling_of_an_address_gets_past_the_token(address):
    assert Service(token=TOKEN).request("POST", address, content=png()).status_code in (401, 404)


def test_ready_says_whether_a_token_is_asked_for():
    assert Service(token=TOKEN).request("GET", "/ready").json()["token"] is True
    assert Service().request("GET", "/ready").json()["token"] is False


def test_a_token_that_is_set_is_asked_for_whatever_the_configuration_allows():
    for anonymous in (False, True):
        assert token_from({"NEURALBLACK_TOKEN": f" {TOKEN}\n"}, anonymous=anonymous) == TOKEN
    assert token_from({}, anonymous=True) is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, ["NEURALBLACK_TOKEN", "no token", "openssl rand", "anonymous: true"]),
        ({"NEURALBLACK_TOKEN": " "}, ["no token"]),
        ({"NEURALBLACK_TOKEN": "hunter2"}, ["7 characters", "16"]),
        ({"NEURALBLACK_TOKEN": "a token with blanks in it"}, ["25 characters", "without blanks"]),
        ({"NEURALBLACK_TOKEN": "schlüsselschlüssel"}, ["ASCII"]),
    ],
    ids=["none", "blank", "short", "blanks", "umlauts"],
)
def test_without_a_good_token_the_service_says_how_to_get_one_and_does_not_repeat_it(environ, words):
    with pytest.raises(InputError) as error:
        token_from(environ, anonymous=False)

    for word in words:
        assert word in str(error.value)
    assert "hunter2" not in str(error.value)
