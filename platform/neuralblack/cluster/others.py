"""What others hold of a cluster that is large enough: said while our work waits for it; Ray itself says nothing."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import ray
import ray.util.client
from ray._private import state  # what is free on each node, and where actors are, is told nowhere else

from neuralblack.cluster.session import Resources, beside, words

log = logging.getLogger(__name__)

EVERY_S = 60.0  # between two lines
SURE_S = 2.0  # what an earlier command has let go of is free a moment later
TRAINS, TRIES = "RayTrainWorker", "ImplicitFunc"  # Ray's names of actors that it makes where room was found before,
CLASSIFIES = "Classifying"  # and of one that it makes first; it has an address once it has room


@contextmanager
def said_while_others_hold(each: Resources, count: int, *, placed: Callable[[], bool]) -> Iterator[None]:
    """Say at once and every minute, while nothing of a block is placed, that `count` bundles wait for what others hold.

    Args:
        each: what one worker takes, such as {"CPU": 2, "GPU": 1}.
        count: how many of them are needed at least.
        placed: whether something of the block has its room; until then nothing of what is not free is the block's.

    """

    def watch(done: threading.Event) -> None:
        pause = SURE_S if held_by_others(each, count) else EVERY_S
        while not done.wait(pause):
            pause = EVERY_S
            if (found := held_by_others(each, count)) and not placed():
                log.info("waiting for %s", found)

    with beside(watch):
        yield


def held_by_others(each: Resources, count: int) -> str | None:
    """Say what is free where `count` bundles fit into the nodes, but not into what is free on them; else None.

    A bundle is on one node: of four with 0.75 GPU free each, none has room for a whole one. Through ray:// it is always
    None, as nothing of it is told there.
    """
    if ray.util.client.ray.is_connected():
        return None
    needed = {name: value * count for name, value in each.items() if value}
    free = list(state.available_resources_per_node().values())
    room = _fitting(each, free)
    if room >= count or _fitting(each, (node["Resources"] for node in ray.nodes() if node["Alive"])) < count:
        return None
    total = {name: sum(node.get(name, 0) for node in free) for name in needed}
    short = [name for name, value in needed.items() if total[name] < value] or list(needed)
    left = " and ".join(f"{total[name]:g} {name}" for name in short)
    return f"{count} x {words(each)}: {left} free, with room for {room}; others hold the rest"


def actor_placed(called: str) -> bool:
    """Tell whether an actor of this job, of a class of this name, has room, if only to start there."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return any(
        called in actor["ActorClassName"]
        and actor["State"] != "DEAD"
        and (called != CLASSIFIES or actor["Address"]["IPAddress"])
        for actor in state.actors(job_id=job).values()
    )


def _fitting(each: Resources, nodes: Iterable[Mapping[str, float]]) -> int:
    """Count the bundles that fit; Ray counts in ten-thousandths."""
    return sum(int(min(node.get(name, 0) / value for name, value in each.items() if value) + 1e-4) for node in nodes)
