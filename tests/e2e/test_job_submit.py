"""Jobs, as a user submits them: a real head with a token, `ray job submit`, its log and its exit status."""

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.e2e.head import BIN, ray_head
from tests.e2e.production import untrained

from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.prepare import prepare
from neuralblack.files import read_json
from neuralblack.registry.aliases import resolve
from neuralblack.registry.model_folder import open_model
from neuralblack.registry.run_folder import history_of

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
JOB_S = 400  # generous: two cores may be shared

Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment of a client of a new head on loopback, with token and address."""
    folder = Path(tempfile.mkdtemp(prefix="nb-", dir="/tmp"))  # Ray's socket paths may have 107 characters
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "PATH": f"{BIN}:{os.environ['PATH']}",  # the head's PATH decides which `python` runs a job
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    try:
        with ray_head(folder, env) as started:
            yield env | {"RAY_API_SERVER_ADDRESS": started.url}
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a worker may still be closing its log


@pytest.fixture(scope="module")
def submit(head: dict[str, str]) -> Submit:
    """Submit an entrypoint as README says, from the repository root, and wait for its end."""

    def run(
        *entrypoint: str, env: dict[str, str] | None = None, options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--runtime-env", "jobs/env.yaml"]
        return subprocess.run(
            [*command, *options, "--", *entrypoint],
            cwd=ROOT,
            env=head | (env or {}),
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_phantoms(folder / "raw", patients=20, slices=1, size=96)
    prepare([folder / "raw" / "figshare", folder / "raw" / "images"], folder / "dataset", size=64)
    return folder / "dataset"


def test_a_job_runs_this_repositorys_package_under_the_heads_python_and_under_one_id_only_once(submit, tmp_path):
    code = (
        "import sys, platform, neuralblack, neuralblack.data.readers, pathlib;"
        f"pathlib.Path({str(tmp_path / 'runs')!r}).open('a').write('ran\\n');"
        "print('package', pathlib.Path(neuralblack.__file__).parts[-3], 'python', sys.executable, platform.system());"
        "print('sent', sorted(path.name for path in pathlib.Path().iterdir()))"
    )

    done, again = (submit("python", "-c", code, options=["--submission-id", "once"]) for _ in range(2))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"python {BIN / 'python'} Linux" in done.stdout
    assert "package _ray_pkg_" in done.stdout  # what travelled with the job, not what is installed here
    assert "'jobs'" in done.stdout
    assert not any(
        f"'{name}'" in done.stdout for name in (".git", ".venv", "tests", "docs", "platform", "dist", "build")
    )
    assert again.returncode != 0 and "already exists" in again.stdout + again.stderr
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_client_without_the_token_is_refused(submit):
    done = submit("python", "-c", "print('never')", env={"RAY_AUTH_TOKEN": "0" * 64})

    assert done.returncode != 0
    assert "never" not in done.stdout.splitlines()
    assert "oken authentication is enabled" in done.stderr


def test_submitted_training_reports_its_epochs_and_leaves_its_run(submit, dataset):
    run = dataset.parent / "runs" / "first"

    done = submit(
        *("python", "jobs/train.py", str(dataset), str(run), "--workers", "1"),
        *("--set", "model=efficientnet_lite0", "--set", "weights=none", "--set", "epochs=1", "--set", "size=64"),
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"epoch +1 .*validation loss", done.stdout)
    assert str(run) in done.stdout
    assert "succeeded" in done.stdout
    (epoch,) = history_of(run)
    assert 0 <= epoch["accuracy"] <= 1
    assert open_model(run / "model").path == run / "model"


@pytest.mark.soak
def test_a_submitted_bulk_run_answers_for_every_file(submit, dataset):
    scans, out = dataset.parent / "raw" / "images", dataset.parent / "answers"
    model = resolve(untrained(dataset.parent / "registry", seed=4), "champion").path
    files = sum(path.is_file() for path in scans.rglob("*"))

    done = submit("python", "jobs/predict.py", str(scans), str(out), "--model", str(model), "--engine", "eager-fp32")

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    rows = [row for part in sorted((out / "parts").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert len(rows) == len({row["id"] for row in rows}) == files > 0
    assert {row["status"] for row in rows} <= {"ok", "refused"}
    assert read_json(out / "summary.json")["items"] == files
    assert f"answers in {out}/parts" in done.stdout


def test_a_failed_job_ends_in_one_clean_line_and_status_1(submit, dataset):
    done = submit("python", "jobs/train.py", str(dataset), "runs/relative", "--workers", "1")

    assert done.returncode == 1
    output = done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("neuralblack: ")]
    assert len(set(lines)) == 1, output  # the CLI shows the last log lines a second time
    for words in ("runs/relative", "found ", "expected ", "Fix:"):
        assert words in lines[0]
    assert "Traceback" not in output
