"""The benchmarks' own parts: what they count, compare and print. The measuring itself is no test."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import typer
from benchmarks import aims, clients, contenders, extras, intervals, materials, processes, rounds, serve, soak, wrk
from benchmarks.counter import Counted, read_counter
from benchmarks.drift import whose
from benchmarks.empty import EmptyEngine
from benchmarks.machine import describe_machine
from benchmarks.materials import PICTURES, champion, untrained_registry, write_pictures
from benchmarks.report import markdown
from benchmarks.rounds import Cell, Records
from typer.testing import CliRunner

from neuralblack.errors import InputError
from neuralblack.inference.engines import build_engine
from neuralblack.service.auth import token_from
from neuralblack.service.meter import Meter

ROOT = Path(__file__).parents[2]
SAID = {"requests": 50, "duration_us": 2_000_000, "p50_us": 1500.0, "p99_us": 9000.0, "max_us": 9900.0}
NO_ERRORS = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)


@pytest.fixture(scope="module")
def records():
    """Three rounds of one cell: ours at 95% of the floor and twice uvicorn."""
    found, cell = Records(), {"kind": "jpeg", "clients": 8}
    load = {"answered": 10, "p50_ms": 2.0, "p99_ms": 3.0, "errors": 0, "wrk_ms": 0.1, "cpu_ms": 5.0, "mean_batch": 4.0}
    for number in range(3):
        for name, rate in (("ours", 95.0), ("uvicorn", 47.5)):
            found.cells.append({"round": number, "service": name, **cell, **load, "rate": rate * (1 + number)})
        floor = {"round": number, "beside": ["jpeg:8"], "batch_ms": 80.0, "one_ms": None}
        found.floors += [floor | {"rate": 99.0 * (1 + number)}, floor | {"rate": 101.0 * (1 + number)}]
    return found


@pytest.fixture
def speaking():
    """Start a server that reads one request a connection and answers with the given bytes, then run a client."""

    def run(reply, client):
        async def handle(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(reply)
            await writer.drain()
            writer.close()

        async def both():
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            async with server:
                return await client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict")

        return asyncio.run(both())

    return run


# wrk


def test_only_answers_below_400_count_as_requests():
    line = "RESULT " + json.dumps(SAID | NO_ERRORS | {"status": 10, "read": 2})

    load = wrk.parse(f"Running 2s test\n{line}\n", cpu_s=0.08)

    assert (load.answered, load.rate, load.errors) == (40, 20.0, 12)
    assert (load.p50_ms, load.p99_ms, load.wrk_ms) == (1.5, 9.0, 2.0)


def test_what_wrk_complains_of_is_passed_on():
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused", cpu_s=0)


def test_a_missing_wrk_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(InputError, match="apt-get install wrk"):
        wrk.find_wrk()


# Statistics


def test_the_interval_of_equal_rounds_is_a_point():
    assert intervals.bootstrap([2.0] * 5) == (2.0, 2.0, 2.0)


def test_a_ratio_is_taken_round_by_round():
    ours, theirs = {0: 10.0, 1: 100.0, 2: 1.0}, {0: 5.0, 1: 50.0}

    assert intervals.paired_ratio(ours, theirs) == (2.0, 2.0, 2.0)
    assert np.isnan(intervals.paired_ratio(ours, {}).median)


def test_the_interval_holds_the_median_and_lies_within_the_rounds():
    found = intervals.bootstrap([1.0, 2.0, 3.0, 4.0, 10.0])

    assert 1 <= found.low < found.median == 3 < found.high <= 10


# Other clients


def test_a_chunked_answer_is_read_to_its_end(speaking):
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

    sample = speaking(reply, lambda url: clients.Connection(url, kind="image/png", token="t").post(b"body"))

    assert sample.status == 200


def test_a_refusal_says_when_to_come_back(speaking):
    reply = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    sample = speaking(reply, lambda url: clients.Connection(url, kind="image/png", token="t").post(b"body"))

    assert (sample.status, sample.retry_after_s) == (429, 2)


def test_a_broken_connection_is_a_failed_request_and_not_an_exception(speaking):
    sample = speaking(b"HTTP/1.1 200", lambda url: clients.Connection(url, kind="image/png", token="t").post(b"body"))

    assert sample.status == clients.FAILED


def test_paced_requests_are_all_sent_and_answered(speaking):
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    pace = {"rate": 100, "seconds": 0.205, "even": True}

    samples = speaking(reply, lambda url: clients.paced(url, [b"a", b"bb"], kind="image/png", token="t", **pace))

    assert extras.statuses(samples) == {"200": 20}


def test_random_arrivals_have_the_rate_that_was_asked_for():
    assert len(list(clients.schedule(50, 100, even=False))) == pytest.approx(5000, rel=0.05)


# The long versions of the tests


def test_a_report_of_tests_says_what_holds_what_does_not_and_what_was_not_looked_at(tmp_path):
    cases = (
        '<testcase classname="tests.ray.test_killed" name="test_a_driver_costs_nothing[0-20]" time="81.6" />'
        '<testcase classname="tests.ray.test_killed" name="test_b" time="1">'
        '<failure message="one | two&#10;more"/></testcase>'
        '<testcase classname="tests.unit.test_fuzz" name="test_c" time="0"><skipped message="no wrk"/></testcase>'
        '<testcase classname="tests.unit.test_interface" name="test_d" time="7">'
        '<properties><property name="route" value="POST /predict"/></properties></testcase>'
    )
    (tmp_path / "results.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")

    lines = list(soak.report(ElementTree.parse(tmp_path / "results.xml")))

    assert lines[2].startswith("2 passed, 1 failed, 1 skipped of")
    assert lines[lines.index("## tests/ray/test_killed.py") + 4 :][:2] == [
        "| a driver costs nothing (`0-20`) | passed | 82 |",
        "| b | failed: one / two | 1 |",
    ]
    assert "| c | skipped: no wrk | 0 |" in lines
    assert lines[-1] == "| d (`POST /predict`) | passed | 7 |"


# Processes


def test_a_mark_finds_a_grandchild_whose_parent_is_gone():
    script = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, start_new_session=True)"
    )
    read, write = os.pipe()
    try:
        environment = os.environ | {processes.MARK: "of-a-test"}
        subprocess.run([sys.executable, "-c", script], stdin=read, env=environment, check=True)

        deadline = time.monotonic() + 30
        while not (found := processes.marked("of-a-test")):  # it may have no environment yet
            assert time.monotonic() < deadline
            time.sleep(0.05)

        (pid,) = found
        assert processes.memory_mib(pid)[0] > 1
    finally:
        os.close(write)
        os.close(read)
    deadline = time.monotonic() + 30
    while processes.marked("of-a-test") and time.monotonic() < deadline:
        time.sleep(0.05)


def test_cpu_of_a_busy_process_is_counted():
    counted, used = processes.cpu_s([os.getpid()]), time.process_time()
    while time.process_time() - used < 0.1:
        sum(range(10_000))

    assert processes.cpu_s([os.getpid()]) - counted >= 0.05
    assert processes.cpu_s([2**22 + 1]) == 0


def test_a_service_that_never_becomes_quiet_is_said_so():
    assert not processes.await_quiet(lambda: 1.0, below=0.5, deadline_s=0)
    assert processes.await_quiet(iter([1.0, 0.1, 0.1]).__next__, below=0.5, deadline_s=5)


# Engines and pictures


def test_batches_are_counted_for_another_process_to_read(tmp_path):
    folder = champion(untrained_registry(tmp_path, model="lite0"))
    engine = Counted(EmptyEngine(folder), tmp_path / "counter")

    outputs = [engine(torch.zeros(count, 256, 256, dtype=torch.uint8)) for count in (1, 3)]

    assert read_counter(tmp_path / "counter") == (2, 4)
    assert outputs[1].logits.shape == (3, len(folder.classes))


@pytest.mark.parametrize("name", ["tiny", pytest.param("lite0", marks=pytest.mark.soak)])
def test_random_weights_are_quantised_for_their_speed(name, tiny, tmp_path, monkeypatch):
    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    monkeypatch.setitem(materials.MODELS, tiny, tiny)
    folder = champion(untrained_registry(tmp_path, model=name, int8=True))

    assert build_engine(folder, name="openvino-int8").name == "openvino-int8"


def test_the_empty_engine_replaces_the_services_own(tmp_path):
    script = "from neuralblack.inference import engines; print(engines.build_engine.__module__)"
    environment = contenders.environment(empty=True)

    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "sitecustomize"


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_what_the_service_reads(kind, tmp_path):
    from neuralblack.data.readers import read_slice

    (path,) = write_pictures(tmp_path, kind=kind, count=1)

    assert read_slice(path, where=path, labelled=False).image.shape == (PICTURES[kind][1],) * 2


# Aims and report


def test_an_aim_is_reached_by_the_median_over_rounds(records):
    found = {aim.sentence: aim for aim in aims.check_aims(records, [Cell("jpeg", 8)], {}, int8=False)}

    assert found["jpeg:8: at least 90% of the floor"].measured == "0.95 (0.95–0.95)"
    assert found["jpeg:8: not behind uvicorn (the interval reaches 1)"].measured == "2.00 (2.00–2.00)"
    assert all(aim.reached for aim in found.values())
    assert not any("litserve" in sentence for sentence in found)  # was not measured


def test_a_crowd_may_hear_nothing_but_200_and_429():
    row = {"clients": 512, "statuses": {"200": 3, "429": 5}, "longest_429_s": 0.4}
    of = lambda row: aims.check_aims(Records(), [], {"crowd": [row]}, int8=False)[-1].reached  # noqa: E731

    assert of(row)
    assert not of(row | {"statuses": {"200": 3, "0": 1}})
    assert not of(row | {"longest_429_s": 1.5})


def test_the_report_says_share_ratio_and_aims(records):
    cells = [Cell("jpeg", 8)]
    extra = {"engine": "eager", "reason": "a test", "batch": 8, "batches": {1: 50.0, 8: 100.0}}
    found = aims.check_aims(records, cells, extra, int8=False)

    text = markdown([("date", "today")], records, Records(), cells, [], extra, found)

    assert "| neuralblack serve | 8 | 190.0 (95.0–285.0) | 0.95 (0.95–0.95) |" in text
    assert "| jpeg:8 | – | 2.00 (2.00–2.00) |" in text
    assert "| no failed request in any cell | 0 of 30 | reached |" in text


def test_mean_batch_comes_from_the_services_own_metrics():
    meter = Meter()
    for size in (8, 4):
        meter.batch(size, 0.1)

    assert contenders.parse_batches(meter.text().decode()) == (2, 12)


def test_the_benchmarks_token_is_one_that_the_service_takes():
    assert token_from(contenders.environment(), anonymous=False) == contenders.TOKEN


# Commands


@pytest.mark.parametrize("words", ["jpeg", "gif:1", "jpeg:0", "jpeg:x"])
def test_a_wrong_cell_shows_a_right_one(words):
    with pytest.raises(InputError, match=r"--cells jpeg:1,jpeg:8"):
        serve._cells(words)


def test_services_that_cannot_hold_so_many_clients_are_left_out():
    plan = rounds.Plan([Cell("jpeg", 8), Cell("jpeg", 128)], 1, 1, 1, {})
    service = contenders.Service("eager", contenders.Setting(Path(), Path(), Path(), "auto", 1, Path()))

    assert plan.cells_of(service) == [Cell("jpeg", 8)]


@pytest.mark.parametrize("name", ["serve", "autoscale", "evaluate", "drift", "train", "bulk", "engines"])
def test_every_command_explains_itself(name):
    app = typer.Typer()
    app.command()(importlib.import_module(f"benchmarks.{name}").main)

    said = CliRunner().invoke(app, ["--help"])

    assert said.exit_code == 0 and "--out" in said.stdout


def test_a_command_is_run_as_a_module():
    command = [sys.executable, "-m", "benchmarks.serve", "--help"]

    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert "--out" in said.stdout


def test_the_autoscaling_configuration_is_one_that_serve_takes():
    from neuralblack.cluster.serve_config import check_schema

    autoscale = importlib.import_module("benchmarks.autoscale")
    config = autoscale.scaled_config(most=3, engine="auto")
    config["applications"][0]["args"] |= {"model": "resnet50-" + "0" * 12, "hash": "0" * 64}

    check_schema(config, where="autoscale")

    (deployment,) = config["applications"][0]["deployments"]
    assert deployment["ray_actor_options"]["num_cpus"] * 3 <= 2


def test_a_page_ends_with_the_machine_the_commit_and_the_command_without_a_private_folder(tmp_path, monkeypatch):
    engines = importlib.import_module("benchmarks.engines")
    monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path / "engines.md"), "--kind", f"knees={tmp_path}/knees"])

    engines.main(out=tmp_path / "engines.md")

    page = (tmp_path / "engines.md").read_text()
    assert all(f"\n- {name}: " in page for name in ("CPU", "versions", "commit", "models"))
    assert page.endswith("`python -m benchmarks.engines --out engines.md --kind knees=knees`\n")


def test_groups_of_near_duplicates_are_not_called_patients():
    assert whose(["a", "a", "b"]) == "2 patients"
    assert whose(["a", "b", "group-1", "group-1", "between-2"]) == "2 patients and 2 groups of near-duplicates"


def test_the_machine_is_described_without_its_name():
    facts = dict(describe_machine())

    assert "cores" in facts["CPU"]
    assert "torch" in facts["versions"]
    assert os.uname().nodename not in facts["system"]


def test_the_gpu_benchmark_runs_every_part_without_ray(tmp_path):
    code = "import sys; from benchmarks import gpu; gpu.main(); assert 'ray' not in sys.modules"
    out = tmp_path / "gpu.md"
    subprocess.run([sys.executable, "-c", code, "--smoke", "--out", str(out)], cwd=ROOT, check=True, timeout=300)

    rows = {row["what"]: row for row in json.loads(out.with_suffix(".json").read_text())}
    assert rows["inference: bf16, BatchNorm folded, against fp32"]["largest_difference_of_a_probability"] < 0.1
    for what in (
        "ceiling",
        "training, eager",
        "phase: head",
        "data and augmentation",
        "inference, eager",
        "slices from",
    ):
        assert any(name.startswith(what) for name in rows), what
