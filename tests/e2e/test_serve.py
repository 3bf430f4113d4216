"""The real service over HTTP: the same answers as the Predictor, no other door open, nothing left behind."""

import base64
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from tests.e2e.conftest import LINES_KEPT_BACK
from tests.e2e.processes import descendants, folders_of, listening, logged, replicas_of, resident_bytes, words_of
from tests.service import READER_TOKEN
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from neuralblack.cluster.serve_here import processes_of
from neuralblack.data.feedback import list_feedback, read_feedback
from neuralblack.evaluation.shadow import summarise_shadow
from neuralblack.inference.by_file import read_prepared
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.aliases import resolve

pytestmark = pytest.mark.e2e

SENTINEL = "Zyxwvut-Sentinel"  # a name that nobody has


@pytest.fixture(scope="module")
def predictor(registry):
    return Predictor.load(resolve(registry, "champion").path, engine="eager-fp32")


def ask(service, path):
    response = httpx.post(f"{service.url}/predict", content=path.read_bytes(), timeout=120)
    failed = response.status_code != 200
    assert not failed, [response.text, *logged(service.process.pid, response.headers.get("x-request-id", "none"))]
    return response.json()


def test_one_request_gives_the_answer_of_the_predictor(service, predictor, slices):
    for path in slices:
        answer, expected = ask(service, path), predictor([read_prepared(path, predictor.spec)])[0]
        assert answer["label"] == expected.label
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
        assert answer["model"] == {"name": predictor.name, "version": predictor.hash[:12], "hash": predictor.hash}


def test_a_hundred_and_twenty_eight_clients_at_once_get_the_answers_of_the_predictor(service, predictor, slices):
    asked = [slices[index % len(slices)] for index in range(128)]

    with ThreadPoolExecutor(128) as threads:
        answers = list(threads.map(lambda path: ask(service, path), asked))

    expected = {path: predictor([read_prepared(path, predictor.spec)])[0].probabilities for path in slices}
    for path, answer in zip(asked, answers, strict=True):
        assert answer["probabilities"] == pytest.approx(expected[path], abs=1e-4)
    assert len({answer["request_id"] for answer in answers}) == 128


def test_the_service_names_the_champion_and_is_ready(service, predictor):
    ready = httpx.get(f"{service.url}/ready")

    assert ready.status_code == 200
    assert ready.json()["model"]["hash"] == predictor.hash
    assert len(ready.headers.get_list("x-request-id")) == 1


@pytest.fixture
def inference_client(service):
    """A client of the Open Inference Protocol that others wrote, for servers of others."""
    with InferenceServerClient(service.url.removeprefix("http://"), network_timeout=120) as client:
        yield client


def image_tensor(files, *, binary):
    coded = files if binary else [base64.b64encode(each) for each in files]
    return InferInput("image", [len(files)], "BYTES").set_data_from_numpy(np.array(coded, object), binary_data=binary)


def test_a_client_of_other_servers_finds_the_model(inference_client, predictor):
    assert inference_client.is_server_live() and inference_client.is_server_ready()
    assert inference_client.is_model_ready("neuralblack") and inference_client.is_model_ready(predictor.name)
    assert not inference_client.is_model_ready("another")
    assert "binary_tensor_data" in inference_client.get_server_metadata()["extensions"]
    described = inference_client.get_model_metadata("neuralblack", predictor.hash[:12])
    assert described["versions"] == [predictor.hash[:12]]
    assert [each["name"] for each in described["inputs"]] == ["image"]
    probabilities = next(each for each in described["outputs"] if each["name"] == "probabilities")
    assert probabilities["shape"] == [-1, len(predictor.classes)]
    assert probabilities["parameters"]["classes"] == ",".join(predictor.classes)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("outputs", [None, ("label", "probabilities")], ids=["all outputs", "two outputs"])
def test_a_client_of_other_servers_gets_the_answers_of_the_predictor(
    outputs, binary, inference_client, predictor, slices
):
    tensor = image_tensor([path.read_bytes() for path in slices], binary=binary)
    asked = outputs and [InferRequestedOutput(name, binary_data=binary) for name in outputs]

    result = inference_client.infer("neuralblack", [tensor], outputs=asked, request_id="mine-1")

    expected = predictor([read_prepared(path, predictor.spec) for path in slices])
    shares = [[one.probabilities[name] for name in predictor.classes] for one in expected]
    assert result.as_numpy("probabilities") == pytest.approx(np.array(shares), abs=1e-4)
    labels = [each if isinstance(each, str) else each.decode() for each in result.as_numpy("label")]
    assert labels == [one.label for one in expected]
    assert result.get_response()["id"] == "mine-1" and result.get_response()["model_version"] == predictor.hash[:12]
    assert (result.as_numpy("status") is None) == (outputs is not None)


def test_a_client_of_other_servers_hears_what_is_wrong(inference_client):
    with pytest.raises(InferenceServerException, match=r"image\[0\]: found") as error:
        inference_client.infer("neuralblack", [image_tensor([b"\x89PNG\r\n\x1a\n broken"], binary=True)])

    assert error.value.status() == "422"


def chunks(size):
    for _ in range(0, size, 2**20):
        yield bytes(2**20)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(21 * 2**20), 413, "too_large"),
        (lambda: chunks(50 * 2**20), 413, "too_large"),
        (lambda: b"%PDF-1.7", 415, "unsupported"),
        (lambda: b"\x89PNG\r\n\x1a\n broken", 422, "unreadable"),
        (lambda: b"", 400, "empty"),
    ],
    ids=["too large", "too large in pieces", "pdf", "broken", "empty"],
)
def test_a_bad_upload_is_one_clean_answer_and_the_next_good_one_is_the_same_as_before(
    body, status, code, service, slices
):
    before = ask(service, slices[0])["probabilities"]
    (replica,) = replicas_of(service.process.pid)
    memory = resident_bytes(replica)
    assert memory < 2 * 2**30

    response = httpx.post(f"{service.url}/predict", content=body(), timeout=120)

    assert response.status_code == status
    assert set(response.json()) == {"error", "code", "request_id"}
    assert response.json()["code"] == code
    assert httpx.get(f"{service.url}/ready").status_code == 200
    assert ask(service, slices[0])["probabilities"] == before
    assert replicas_of(service.process.pid) == {replica}
    assert resident_bytes(replica) < memory + 60 * 2**20  # one upload and a margin; what comes back is not all at once


def test_nothing_listens_on_another_interface_than_loopback(service):
    ipv4, mapped, ipv6 = "0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"

    addresses = listening(descendants(service.process.pid))

    assert ipv4 in addresses
    assert addresses <= {ipv4, mapped, ipv6}


def say(service, path):
    return httpx.post(
        f"{service.url}/feedback",
        files={"file": (f"{SENTINEL}.mat", path.read_bytes())},
        data={"label": "glioma", "patient": SENTINEL},
        headers={"Authorization": f"Bearer {READER_TOKEN}", "Idempotency-Key": "key-0001"},
        timeout=120,
    )


def test_feedback_is_kept_once_and_without_a_name(service, slices, kept):
    for _ in range(2):
        assert say(service, slices[3]).status_code == 200

    for _ in range(2 * LINES_KEPT_BACK):  # push ours out
        httpx.get(f"{service.url}/health")
    files = [path for root in (service.folder, kept) for path in root.rglob("*") if path.is_file()]
    written = {path: path.read_bytes() for path in files}
    (one,) = list_feedback(kept / "feedback")  # although it came twice
    feedback, pixels = read_feedback(one)
    assert (feedback.reader, feedback.label, pixels.shape) == ("anna", "glioma", (256, 256))
    assert any(b"POST /feedback 200" in content for content in written.values()), "a search of nothing"
    assert [path for path, content in written.items() if SENTINEL.encode() in content] == []
    pictures = [path for path, content in written.items() if content.startswith((b"\x89PNG", b"\x93NUMPY"))]
    assert pictures == [one]


def test_a_challenger_answers_behind_the_champion(service, registry, slices, kept):
    ask(service, slices[0])

    agreed = re.compile(r'shadow_slices_total\{outcome="agree"\} [1-9]')
    deadline = time.monotonic() + 60
    while not agreed.search(httpx.get(f"{service.url}/metrics").text):
        assert time.monotonic() < deadline, "the challenger has not answered"
        time.sleep(0.1)
    assert summarise_shadow(kept / "shadow" / resolve(registry, "challenger").id)["agreeing"] == 1.0


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_service_beside_the_first_answers_and_leaves_nothing_behind(
    number, service, starting, config, registry, slices
):
    second = starting(config, registry).await_ready()
    assert ask(second, slices[3])["probabilities"] == ask(service, slices[3])["probabilities"]
    assert len(descendants(second.process.pid)) > 5
    folder = second.folder

    assert second.stop(number) == 0

    assert processes_of(folder) == [] and not folder.exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(second.url, timeout=5)
    assert ask(service, slices[3])


def test_a_service_that_is_ended_while_ray_starts_leaves_nothing_behind_and_the_first_answers(
    service, starting, config, registry, slices
):
    begun = starting(config, registry)
    deadline = time.monotonic() + 60
    while not any("gcs_server" in words_of(pid)[0] for pid in descendants(begun.process.pid)):
        assert begun.process.poll() is None and time.monotonic() < deadline, begun.lines
        time.sleep(0.02)
    (folder,) = folders_of(begun.process.pid)
    assert folder != service.folder

    assert begun.stop() == 0

    assert processes_of(folder) == [] and not folder.exists()
    assert begun.lines == []
    assert ask(service, slices[0])


def test_a_corrupt_model_is_refused_by_the_files_name_before_anything_starts(starting, config, corrupt):
    refused = starting(config, corrupt)

    assert refused.process.wait(60) == 2
    assert "weights.safetensors: found" in "".join(refused.lines[-1:])


@pytest.mark.soak
def test_a_model_that_breaks_later_fails_the_deployment_by_the_files_name(starting, config, registry, corrupt):
    """The replica checks every hash again: the check at the start is not the only one."""
    whole = corrupt.with_name("whole")
    shutil.copytree(registry, whole)
    before = f"""
import shutil
from neuralblack.cluster import serve_here as module
resolve_config = module.resolve_config
def and_then_it_breaks(*arguments, **options):
    config = resolve_config(*arguments, **options)
    shutil.copytree({str(corrupt)!r}, {str(whole)!r}, dirs_exist_ok=True)
    return config
module.resolve_config = and_then_it_breaks
"""
    failed = starting(config, whole, before=before)

    assert failed.process.wait(180) == 1
    last = failed.lines[-1]
    assert last.startswith("neuralblack: the service did not start: ")
    assert "weights.safetensors: found" in last
