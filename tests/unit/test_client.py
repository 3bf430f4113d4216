"""The Python client against a real HTTP server on loopback: what it sends, tries again, and when it gives up."""

import json
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from tests.service import NAMED, READER_TOKEN, SLICE, Service, feedback_folder, picture, png

from neuralblack.errors import InputError
from neuralblack.service.client import Client, ServiceError

TOKEN = "correct-horse-battery-staple"


@contextmanager
def served(app):
    """A uvicorn on a free port of loopback, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def service():
    async def explain(question, label):
        return SLICE

    with served(Service(token=TOKEN, explain=explain).app) as url:
        yield url


@pytest.fixture
def client(service):
    with Client(service, token=TOKEN, retries=0) as client:
        yield client


class Scripted:
    """A server that answers by a list of (status, headers, body), then with what the app would say."""

    def __init__(self, *answers):
        self.answers, self.bodies, self.waits = list(answers), [], []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        status, headers, content = self.answers.pop(0) if self.answers else (200, {}, b'{"status": "ok"}')
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def ask(self, *, retries=5):
        with served(self) as url, Client(url, retries=retries, sleep=self.waits.append) as client:
            return client.predict(png())


def problem(code):
    return json.dumps({"error": "A sentence.", "code": code, "request_id": "q1"}).encode()


def test_a_file_and_its_bytes_get_the_same_answer(client, tmp_path):
    path = tmp_path / "Jane Doe.png"
    path.write_bytes(png())

    answers = [client.predict(each) for each in (path, str(path), png())]

    assert {answer["label"] for answer in answers} == {"pituitary"}
    assert answers[0]["model"] == NAMED and "preview" not in answers[0]


def test_pictures_come_on_request(client):
    answer = client.predict(png(), explain=True, preview=True)

    assert picture(answer["preview"]).shape == (64, 64) and picture(answer["heat_map"]).shape == (64, 64, 4)


def test_a_study_is_sent_as_its_slices(client):
    answer = client.study([png(), png(32), b"--\r\n"])

    assert answer["disagreement"]["slices"] == 3 and answer["label"] == "pituitary"


def test_what_a_slice_is_can_be_said_by_a_reader(tmp_path):
    folder = feedback_folder(tmp_path)
    app = Service(feedback=folder, readers=folder.readers).app
    with served(app) as url, Client(url, token=READER_TOKEN, retries=0) as client:
        answers = [client.feedback(png(), "glioma", patient="Müller", key="key-0001") for _ in range(2)]
        answers.append(client.feedback(png(), "glioma"))

    assert [answer["status"] for answer in answers] == ["kept", "repeated", "kept"]
    assert len(list(tmp_path.iterdir())) == 2


def test_state_and_model_can_be_asked(client):
    assert client.ready() is True
    assert client.model()["version"] == NAMED["version"]


def test_one_connection_serves_many_questions(client):
    client.predict(png())
    first = client._connection.sock.getsockname()
    client.predict(png())

    assert client._connection.sock.getsockname() == first


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [(b"%PDF", 415, "unsupported"), (b"", 400, "empty"), (bytes(5_000_000), 413, "too_large")],
    ids=["pdf", "empty", "large"],
)
def test_what_is_wrong_with_a_file_is_not_asked_twice(service, content, status, code):
    waits = []
    with Client(service, token=TOKEN, sleep=waits.append) as client, pytest.raises(ServiceError) as error:
        client.predict(content)

    assert (error.value.status, error.value.code, waits) == (status, code, [])
    assert error.value.request_id in str(error.value) and error.value.sentence in str(error.value)


def test_a_wrong_token_is_said(service):
    with Client(service, token="wrong") as client:
        with pytest.raises(ServiceError, match="401 unauthorised"):
            client.model()
        with pytest.raises(ServiceError, match="401 unauthorised"):
            client.predict(bytes(5_000_000))  # answered before it is read: the client is not cut off


def test_overload_is_waited_out_for_as_long_as_the_service_asks():
    server = Scripted(
        (429, {"Retry-After": "3"}, problem("overloaded")),
        (503, {"Retry-After": "2"}, b"Service Unavailable"),
        (503, {}, b""),
    )

    assert server.ask() == {"status": "ok"}
    assert len(server.bodies) == 4 and set(server.bodies) == {png()}  # whole each time
    assert [int(wait) for wait in server.waits] == [3, 2, 0]
    assert 3 <= server.waits[0] <= 3.25 and 2 <= server.waits[1] <= 2.5 and server.waits[2] <= 1


@pytest.mark.parametrize("status", [502, 504])
def test_an_answer_that_was_lost_is_asked_for_again_where_the_proxy_says_when(status):
    server = Scripted((status, {"Retry-After": "2"}, problem("unavailable")))

    assert server.ask() == {"status": "ok"}
    assert len(server.bodies) == 2 and 2 <= server.waits[0] <= 2.25


def test_what_a_reader_says_keeps_its_key_when_its_answer_was_lost(tmp_path):
    folder = feedback_folder(tmp_path)
    app, lost = Service(feedback=folder, readers=folder.readers).app, [502, 504]

    async def losing(scope, receive, send):
        """Have everything done, and its answer lost."""
        answer = Scripted((lost.pop(0), {"Retry-After": "2"}, problem("unavailable"))) if lost else None
        await app(scope, receive, nowhere if answer else send)
        if answer:
            await answer(scope, nothing, send)

    async def nowhere(message):
        pass

    async def nothing():
        return {"type": "http.request"}

    with served(losing) as url, Client(url, token=READER_TOKEN, sleep=lambda seconds: None) as client:
        assert client.feedback(png(), "glioma")["status"] == "repeated"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_service_that_stays_overloaded_is_given_up():
    server = Scripted(*[(429, {}, problem("overloaded"))] * 9)

    with pytest.raises(ServiceError) as error:
        server.ask(retries=2)

    assert len(server.bodies) == 3 and len(server.waits) == 2
    assert (error.value.code, error.value.sentence, error.value.request_id) == ("overloaded", "A sentence.", "q1")


@pytest.mark.parametrize("status", [200, 404, 502, 504])
def test_an_answer_of_something_in_between_is_called_that(status):
    server = Scripted((status, {}, b"<html>Welcome to the hotel</html>"))

    with pytest.raises(ServiceError, match="in between"):
        server.ask()


def test_waits_grow_and_are_drawn_by_chance(monkeypatch):
    bounds = []
    monkeypatch.setattr("random.uniform", lambda low, high: bounds.append((low, high)) or high)
    Scripted(*[(503, {}, b"")] * 8).ask(retries=8)

    assert bounds == [(0, wait) for wait in (0.25, 0.5, 1, 2, 4, 8, 10, 10)]


def test_a_service_that_is_gone_is_said_after_the_last_attempt():
    with served(Service().app) as url:
        pass
    waits = []
    client = Client(url, retries=2, sleep=waits.append)

    with pytest.raises(ServiceError, match="cannot be reached") as error:
        client.predict(png())
    assert error.value.status == 0 and len(waits) == 2
    assert client.ready() is False


def test_a_connection_that_the_server_closed_is_opened_again():
    server = Scripted((200, {"Connection": "close"}, b'{"status": "first"}'))
    with served(server) as url, Client(url, retries=0) as client:
        assert client.predict(png()) == {"status": "first"}
        assert client.predict(png()) == {"status": "ok"}


def test_a_missing_file_and_a_wrong_url_are_said_before_anything_is_sent(tmp_path):
    with pytest.raises(InputError, match="none"):
        Client("http://127.0.0.1:9").predict(tmp_path / "none.png")
    with pytest.raises(InputError, match="no file"):
        Client("http://127.0.0.1:9").predict("a\0b")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:abc",
        "http://[::1",
        "http://a..b",
        f"http://{'a' * 64}",
        "http://a b",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/ä",
    ],
)
def test_an_address_of_nothing_is_said_at_once(url):
    with pytest.raises(InputError, match=r"^url: found .*; expected http://.*such as http://127"):
        Client(url)


def test_a_token_is_sent_without_the_line_end_behind_it(service):
    with Client(service, token=f" {TOKEN}\n", retries=0) as client:
        assert client.model()["version"] == NAMED["version"]


@pytest.mark.parametrize(
    "token", ["secret-\n0123456789", "secret-\u20ac-0123456789", "secret-\u00e4-0123", "secret 0123"]
)
def test_a_token_that_cannot_be_sent_is_said_and_not_repeated(token):
    with pytest.raises(InputError, match=f"^token: found a token of {len(token)} characters") as error:
        Client("http://127.0.0.1:9", token=token)

    assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["bad\nkey1", "short-1", "k" * 65, "two words", "with/slash", "", "schlüssel"])
def test_a_key_that_the_service_would_not_take_is_said_before_anything_is_sent(key):
    with pytest.raises(InputError, match=r"^key: found '.*; expected 8 to 64 letters, digits, dots, - or _"):
        Client("http://127.0.0.1:9").feedback(png(), "glioma", key=key)
