"""Joining a cluster: an address where none is, is said in one line."""

import pytest
import ray

from neuralblack.cluster.session import ray_session
from neuralblack.errors import InputError


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("http://127.0.0.1:8265", ValueError("Module: http does not have get_client function.\nmore")),
        ("127.0.0.1:6379", ConnectionError("Could not find any running Ray instance.")),
    ],
    ids=["the dashboard's", "nobody's"],
)
def test_an_address_without_a_cluster_is_one_line(address, error, monkeypatch):
    def init(**_):
        raise error

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    with pytest.raises(InputError) as raised, ray_session():
        pass

    words = str(raised.value)
    assert words.startswith(f"RAY_ADDRESS {address}: found no Ray cluster ({str(error).splitlines()[0]})")
    assert "\n" not in words and "RAY_ADDRESS=HOST:6379" in words


def test_an_error_of_what_runs_in_a_session_stays_what_it_is(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    with pytest.raises(ValueError, match="mine"), ray_session():
        raise ValueError("mine")
