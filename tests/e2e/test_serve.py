"""The real service over HTTP: the same answers as the Predictor, no other door open, nothing left behind."""

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from neuralblack.cluster.serve_here import processes_of
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.aliases import resolve

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def predictor(registry):
    return Predictor.load(resolve(registry, "champion").path, engine="eager-fp32")


def ask(service, path):
    response = httpx.post(f"{service.url}/predict", content=path.read_bytes(), timeout=120)
    assert response.status_code == 200, response.text
    return response.json()


def test_one_request_gives_the_answer_of_the_predictor(service, predictor, slices):
    for path in slices:
        answer, expected = ask(service, path), predictor.file(path)
        assert answer["label"] == expected.label
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
        assert answer["model"] == {"name": predictor.name, "hash": predictor.hash}


def test_a_hundred_concurrent_requests_give_the_answers_of_the_predictor(service, predictor, slices):
    asked = [slices[index % len(slices)] for index in range(100)]

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(lambda path: ask(service, path), asked))

    expected = {path: predictor.file(path).probabilities for path in slices}
    for path, answer in zip(asked, answers, strict=True):
        assert answer["probabilities"] == pytest.approx(expected[path], abs=1e-4)
    assert len({answer["request_id"] for answer in answers}) == 100


def test_the_service_names_the_champion_and_is_ready(service, predictor):
    ready = httpx.get(f"{service.url}/ready")

    assert ready.status_code == 200
    assert ready.json()["model"]["hash"] == predictor.hash
    assert len(ready.headers.get_list("x-request-id")) == 1


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

    response = httpx.post(f"{service.url}/predict", content=body(), timeout=120)

    assert response.status_code == status
    assert set(response.json()) == {"error", "code", "request_id"}
    assert response.json()["code"] == code
    assert ask(service, slices[0])["probabilities"] == before


def descendants(pid):
    """Process ids of a process and of all that it has started, directly or not."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(entry.name)] = int(fields[1])
    family, last = {pid}, 0
    while len(family) != last:
        last = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


def listening(pids):
    """Addresses, as the kernel writes them (hexadecimal), on which these processes take TCP connections."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def test_nothing_listens_on_another_interface_than_loopback(service):
    ipv4, mapped, ipv6 = "0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"

    addresses = listening(descendants(service.process.pid))

    assert ipv4 in addresses
    assert addresses <= {ipv4, mapped, ipv6}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_service_beside_the_first_answers_and_leaves_nothing_behind(
    number, service, starting, config, registry, slices
):
    second = starting(config, registry).await_ready()
    assert ask(second, slices[3])["probabilities"] == ask(service, slices[3])["probabilities"]
    family = descendants(second.process.pid)
    assert len(family) > 5
    (folder,) = {part for pid in family for part in folders_of(pid)} - folders_of_all(service)

    assert second.stop(number) == 0

    assert processes_of(folder) == []
    assert not folder.exists()
    with pytest.raises(httpx.TransportError):
        httpx.get(second.url, timeout=5)
    assert ask(service, slices[3])


def folders_of(pid):
    """Folders `nb-...` that a process has on its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("=", "\0").split("\0")
    except OSError:
        return set()
    paths = [Path(word) for word in words if "/nb-" in word and word.startswith("/")]
    return {parent for path in paths for parent in (path, *path.parents) if parent.name.startswith("nb-")}


def folders_of_all(service):
    return {folder for pid in descendants(service.process.pid) for folder in folders_of(pid)}


def test_a_corrupt_model_is_refused_by_the_files_name_before_anything_starts(starting, config, corrupt):
    refused = starting(config, corrupt)

    assert refused.process.wait(60) == 2
    assert "weights.safetensors: found" in "".join(refused.lines[-1:])


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
