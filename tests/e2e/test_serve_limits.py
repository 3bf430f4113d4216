"""What a crowd, a slow network, a dead part or a curious log reader can do to a service."""

import asyncio
import io
import json
import os
import signal
import time
from collections import Counter

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.e2e.conftest import LINES_KEPT_BACK
from tests.e2e.load import Load
from tests.e2e.processes import haproxies_of, replicas_of
from tests.medical_files import dicom_bytes

from neuralblack.data.mat_writer import write_mat

pytestmark = pytest.mark.e2e

DEADLINE_S = 240  # on a machine that does other things as well
SENTINEL = "Zyxwvut-Sentinel"  # a name that nobody has
AS_BYTES = (SENTINEL.encode(), SENTINEL.encode("utf-16-le"))  # MATLAB writes two bytes for a letter


def request_of(body, *, stated=None):
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {stated or len(body)}\r\n\r\n"
    return head.encode() + body


async def answer_to(service, *parts, pause_s=0.0):
    """Send the parts of a request; gives status, JSON body and seconds."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            if reader.at_eof():
                break
            await asyncio.sleep(pause_s)
        answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body), time.monotonic() - started) if head else (0, {}, 0.0)


def test_the_running_haproxy_has_every_option_that_the_service_relies_on(service):
    """Of a real start: this fails when a new Ray no longer honours the script or one of its own variables."""
    files = [path for path in (service.folder / "h").rglob("*") if path.name == "c.cfg"]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]

    assert len(files) == 1
    for option in (
        "option http-buffer-request",
        "timeout http-request 10s",
        "retry-on conn-failure empty-response",
        "retries 1",
        "option redispatch 1",
        "tune.bufsize 524288",
        "unique-id-format %[uuid]",
    ):
        assert lines.count(option) == 1, option
    binds = [line for line in lines if line.startswith("bind ")]
    assert len(binds) == 3
    assert all(bind.startswith("bind 127.0.0.1:") for bind in binds)
    assert not any(line.startswith(("errorfile", "option httplog")) for line in lines)


def test_five_hundred_clients_at_once_are_answered_or_told_to_come_back(service, slices):
    request = request_of(slices[0].read_bytes())

    async def crowd():
        return await asyncio.gather(*(answer_to(service, request) for _ in range(512)))

    answers = asyncio.run(crowd())

    slowest = max((seconds for status, _, seconds in answers if status == 429), default=0.0)
    statuses = Counter(status for status, _, _ in answers)
    print(f"512 clients at once: {dict(statuses)}; the slowest 429 after {slowest:.2f} s")
    assert set(statuses) <= {200, 429}
    assert statuses[200] >= 128
    assert {body["code"] for status, body, _ in answers if status == 429} <= {"overloaded"}


def test_fifty_uploads_of_a_byte_a_second_stop_nobody(service, slices):
    async def drip():
        head, byte = request_of(b"", stated=5000), b"x"
        waiting = answer_to(service, head, byte)  # it sends no more, and hears why it was sent away
        return await asyncio.gather(waiting, *(answer_to(service, head, *[byte] * 20, pause_s=1) for _ in range(50)))

    async def beside_them():
        slow = asyncio.create_task(drip())
        await asyncio.sleep(1)  # their heads are there; the clients below work while they drip
        with Load(service.url, [slices[0].read_bytes()], clients=2) as load:
            await asyncio.to_thread(load.await_results, 20)
            assert not slow.done()
        return load, await slow

    load, slow = asyncio.run(beside_them())

    assert set(load.statuses) == {200}
    assert slow[0][0] == 408
    assert {status for status, _, _ in slow} <= {408, 0}  # 0: it went on sending into a closed connection
    assert {body["code"] for status, body, _ in slow if status} <= {"slow_upload"}


def test_a_killed_haproxy_comes_back_by_itself(service, slices):
    before = haproxies_of(service.process.pid)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    killed, seen = time.monotonic(), set()
    while time.monotonic() < killed + DEADLINE_S:
        try:
            response = httpx.post(f"{service.url}/predict", content=slices[0].read_bytes(), timeout=DEADLINE_S)
            seen.add(response.status_code)
            if response.status_code == 200:
                break
            assert set(response.json()) == {"error", "code", "request_id"}
        except httpx.TransportError as error:
            seen.add(type(error).__name__)
        time.sleep(0.05)

    print(f"HAProxy killed: back after {time.monotonic() - killed:.1f} s; until then {sorted(map(str, seen))}")
    after = haproxies_of(service.process.pid)
    assert 200 in seen and after and after.isdisjoint(before)


@pytest.mark.soak
def test_the_only_replica_killed_costs_what_it_was_working_on_and_later_requests_wait_for_the_next(service, slices):
    with Load(service.url, [slices[0].read_bytes()]) as load:
        load.await_results(50)
        (victim,) = replicas_of(service.process.pid)
        os.kill(victim, signal.SIGKILL)
        killed, before = time.monotonic(), len(load.results)
        while sum(status == 200 for status, _ in load.results[before + 8 :]) == 0:
            assert time.monotonic() < killed + DEADLINE_S
            time.sleep(0.05)
        seconds = time.monotonic() - killed
        load.await_results(50)

    lost = [result for result in load.results if result[0] != 200]
    print(f"the only replica killed: {len(lost)} of {len(load.results)} lost, answers again after {seconds:.1f} s")
    # On a kept connection HAProxy hangs up instead, as HTTP lets it.
    assert {status for status, _ in lost} <= {502, 503, "RemoteDisconnected", "ConnectionResetError"}
    assert len(lost) <= 2 * load.clients  # who asks again at once may meet it a second time before HAProxy knows


def named_png():
    """A PNG whose text says the name and whose pixels are its letters, uncompressed."""
    text = PngInfo()
    text.add_text("Patient", SENTINEL)
    pixels = np.frombuffer((SENTINEL * 1000)[: 128 * 96].encode(), np.uint8).reshape(96, 128)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text, compress_level=0)
    return buffer.getvalue()


def named_mat(folder):
    shape = np.arange(96 * 96, dtype=np.int16).reshape(96, 96)
    write_mat(folder / "x.mat", label=1, patient=SENTINEL, image=shape, mask=shape > 50, border=np.zeros(8))
    return (folder / "x.mat").read_bytes()


def named_dicom():
    shape = np.arange(96 * 96, dtype=np.int16).reshape(96, 96)
    return dicom_bytes(shape, PatientName=SENTINEL, PatientID=SENTINEL, StudyDescription=SENTINEL)


def test_no_name_and_no_pixel_of_an_upload_is_in_anything_that_the_service_wrote(service, tmp_path):
    uploads = {  # what has a name in it -> the answer it gets
        "a PNG": (named_png(), 200),
        "a MATLAB file": (named_mat(tmp_path), 200),
        "a DICOM file": (named_dicom(), 200),
        "a broken PNG": (named_png()[:9000], 422),
        "no picture": (SENTINEL.encode() * 50, 415),
    }
    everywhere = {"headers": {"X-Patient": SENTINEL, "Cookie": SENTINEL, "User-Agent": SENTINEL, "Referer": SENTINEL}}
    with httpx.Client(base_url=service.url, timeout=DEADLINE_S) as client:
        for kind, (content, status) in uploads.items():
            assert any(name in content for name in AS_BYTES), kind
            assert client.post("/predict?preview=true", content=content, **everywhere).status_code == status, kind
            assert client.post(f"/predict?patient={SENTINEL}", content=content, **everywhere).status_code == 422, kind
            form = {"file": (f"{SENTINEL}.png", content)}
            assert client.post("/predict", files=form, **everywhere).status_code == status, kind
            client.post("/study", files=[("file", (SENTINEL, content))] * 2, **everywhere)
        for method in ("GET", "POST", "PUT"):
            client.request(method, f"/{SENTINEL}/{SENTINEL}?name={SENTINEL}", **everywhere)
        client.post(f"/predict?explain={SENTINEL}", content=named_png())
        for _ in range(2 * LINES_KEPT_BACK):  # push ours out
            client.get("/health")

    written = {path: path.read_bytes() for path in service.folder.rglob("*") if path.is_file()}
    assert any(b"GET /health 200" in content for content in written.values()), "nothing was logged: a search of nothing"
    assert [path for path, content in written.items() if any(name in content for name in AS_BYTES)] == []
    assert SENTINEL not in "\n".join(service.lines)
