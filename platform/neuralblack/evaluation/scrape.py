"""What a scrape says: of one replica, or of a node of a Ray cluster with all its replicas."""

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from neuralblack.errors import InputError

RAYS = "ray_"  # in front of the name where it is from a node


class Number(NamedTuple):
    """A metric's number: its name as the replica gave it, its labels, its value."""

    name: str
    labels: dict[str, str]
    value: float


def numbers_of(text: str, where: str) -> list[Number]:
    """Read Prometheus' text format; raises InputError naming `where` it is from."""
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, KeyError, IndexError):
        raise InputError(
            where, found="no metrics", expected="Prometheus' text format", fix="check file or address"
        ) from None
    samples = [sample for family in families for sample in family.samples]
    return [Number(each.name.removeprefix(RAYS), each.labels, each.value) for each in samples]
