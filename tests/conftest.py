"""What several test files share: a small dataset of made-up heads, and a Ray of our own."""

import pytest
import torch
from tests.tiny import MODELS, add_tiny_network, phantom_dataset

import neuralblack.cluster  # noqa: F401  # before Ray, which reads at its import what this sets
from neuralblack.data.dataset import Dataset

STARTS_RAY = ("tests/ray/", "tests/e2e/test_", "tests/e2e/page/test_served.py")  # others of the page have fakes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `pytest -n 2`: what starts a Ray stays on one worker, in its order, and of the rest each file on one.

    Not by `--dist loadgroup` and marks: xdist 3.8 hands them on in a name that pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRay(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "ray" if file.startswith(STARTS_RAY) else file

    return ByRay(config, log)


def pytest_collection_modifyitems(items):
    """What starts a Ray comes first, so that the longest of all that one worker does begins at once."""
    items.sort(key=lambda item: not item.nodeid.startswith(STARTS_RAY))


def pytest_itemcollected(item):
    """Keep the route that schemathesis puts into a test's name: pytest 9.2 leaves it out of reports."""
    if route := getattr(item, "operation_label", None):
        item.user_properties.append(("route", route))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """60 slices of 64 x 64 pixels, four classes, folds 1 to 5."""
    return phantom_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(autouse=True)
def threads():
    """Torch's number of threads, on which sums' last bits depend, as it was before a test."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def tiny():
    """The row `tiny` in MODELS."""
    add_tiny_network()
    yield "tiny"
    del MODELS["tiny"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where this node keeps its copies."""
    monkeypatch.setenv("NEURALBLACK_CACHE", str(tmp_path / "node"))
    return tmp_path / "node" / "shards"


@pytest.fixture
def bucket(monkeypatch, cache):
    """The address of a bucket on an S3 server of our own, and a client of it."""
    import boto3
    import httpx
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "ENDPOINT_URL": url}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="slices")
        yield client
        httpx.post(f"{url}/moto-api/reset").raise_for_status()  # its buckets are this process's, not this server's
    finally:
        server.stop()
