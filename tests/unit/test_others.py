"""Where a cluster would have room, and others hold it, work that waits says so."""

import logging
import threading
from types import SimpleNamespace

import pytest

from neuralblack.cluster import others
from neuralblack.cluster.others import actor_placed, held_by_others, said_while_others_hold

GPU = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture
def nodes(monkeypatch):
    """Set what nodes have, all of it and free."""

    def set_to(have, free):
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": each} for each in have])
        monkeypatch.setattr(
            others.state, "available_resources_per_node", lambda: {str(n): each for n, each in enumerate(free)}
        )

    return set_to


@pytest.mark.parametrize(
    ("free", "count", "found"),
    [
        ([{"CPU": 8, "GPU": 4}], 4, None),
        ([{"CPU": 8, "GPU": 3.25}], 4, "4 x 1 CPU and 1 GPU: 3.25 GPU free, with room for 3; others hold the rest"),
        ([{"CPU": 8}], 1, "1 x 1 CPU and 1 GPU: 0 GPU free, with room for 0; others hold the rest"),
        ([{"CPU": 8, "GPU": 1}], 5, None),
    ],
    ids=["free", "held in part", "held", "more than there is"],
)
def test_what_others_hold_is_said_where_the_cluster_itself_is_large_enough(free, count, found, nodes):
    nodes([{"CPU": 8, "GPU": 4}], free)

    assert held_by_others(GPU, count) == found


def test_a_worker_needs_its_share_on_one_node(nodes):
    nodes([{"CPU": 2, "GPU": 1}] * 2, [{"CPU": 2, "GPU": 0.75}] * 2)

    assert held_by_others(GPU, 1) == (
        "1 x 1 CPU and 1 GPU: 4 CPU and 1.5 GPU free, with room for 0; others hold the rest"
    )
    nodes([{"CPU": 1}] * 2, [{"CPU": 1}] * 2)
    assert held_by_others({"CPU": 2.0}, 1) is None, "no node has room for it, whoever holds what"


def test_a_line_says_it_until_something_is_placed(nodes, monkeypatch, caplog):
    nodes([{"CPU": 4, "GPU": 4}], [{"CPU": 4, "GPU": 3.25}])
    monkeypatch.setattr(others, "SURE_S", 0.01)
    monkeypatch.setattr(others, "EVERY_S", 0.01)
    asked, enough = [], threading.Event()

    def placed():
        asked.append(len(asked) >= 2)
        if len(asked) == 4:
            enough.set()
        return asked[-1]

    with caplog.at_level(logging.INFO), said_while_others_hold(GPU, 4, placed=placed):
        assert enough.wait(30)

    line = "waiting for 4 x 1 CPU and 1 GPU: 3.25 GPU free, with room for 3; others hold the rest"
    assert [record.message for record in caplog.records] == [line] * 2


def test_an_actor_has_room_where_it_is_made_in_it_or_once_a_node_was_found(monkeypatch):
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "01000000"))

    def placed(called, name, state, address):
        table = {"1": {"ActorClassName": name, "State": state, "Address": {"IPAddress": address}}}
        monkeypatch.setattr(others.state, "actors", lambda job_id: table)
        return bool(actor_placed(called))

    assert not placed(others.TRAINS, "RayTrainWorker", "DEAD", "127.0.0.1")
    assert placed(others.TRAINS, "RayTrainWorker", "PENDING_CREATION", "")
    assert not placed(others.TRAINS, "ImplicitFunc", "ALIVE", "127.0.0.1")
    assert not placed(others.CLASSIFIES, "MapWorker(MapBatches(Classifying))", "PENDING_CREATION", "")
    assert placed(others.CLASSIFIES, "MapWorker(MapBatches(Classifying))", "PENDING_CREATION", "127.0.0.1")
