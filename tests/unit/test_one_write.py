"""A process killed in the middle of an answer has sent nothing of it, so that the request can be sent to another."""

import socket
import subprocess
import sys

import pytest

SERVER = """
import os, signal, socket, sys
import uvicorn
from neuralblack.cluster.one_write import answer_in_one_write

async def app(scope, receive, send):
    headers = [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/killed":
        os.kill(os.getpid(), signal.SIGKILL)
    await send({"type": "http.response.body", "body": b"body"})

if sys.argv[1] == "one write":
    answer_in_one_write()
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, loop=sys.argv[2], lifespan="off", log_level="critical")).run([listening])
"""


@pytest.fixture
def server():
    """What starts a server in a process of its own: how it writes, the event loop -> its port."""
    processes = []

    def start(how: str, loop: str) -> int:
        processes.append(subprocess.Popen([sys.executable, "-c", SERVER, how, loop], stdout=subprocess.PIPE, text=True))
        return int(processes[-1].stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def asked(port: int, path: str, *, keep: bool = False) -> bytes:
    """Send a request and read until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        end = "keep-alive" if keep else "close"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {end}\r\n\r\n".encode())
        found = b""
        while part := connection.recv(65536):
            found += part
            if keep and found.endswith(b"body"):
                break
        return found


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_server_killed_between_head_and_body_has_sent_neither(server, loop):
    port = server("one write", loop)

    assert asked(port, "/whole").endswith(b"\r\n\r\nbody")
    assert asked(port, "/whole", keep=True).endswith(b"\r\n\r\nbody")
    assert asked(port, "/killed") == b""


def test_uvicorn_by_itself_has_sent_the_head(server):
    """Where this fails uvicorn does it by itself, and `cluster/one_write.py` can go."""
    assert asked(server("as it comes", "asyncio"), "/killed").startswith(b"HTTP/1.1 200")
