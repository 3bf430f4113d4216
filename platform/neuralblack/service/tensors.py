"""Tensors of the Open Inference Protocol as JSON and as bytes; what comes in is hostile, and its lengths lie.

Bytes are little-endian, row by row, without gaps; an element of BYTES is its length in 4 bytes, then itself (the binary
tensor data extension). In JSON numbers are flat or nested. JSON has text and a file is none, so an element of BYTES
that comes in is base64 (RFC 4648); what goes out is text.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.service.problems import Problem

NUMBERS = {"BOOL": np.dtype("?"), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
LENGTH_BYTES = 4  # before each element of BYTES
LONGEST_LENGTH = 12  # digits of a length in a header
Values = NDArray[Any] | list[bytes]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the interface; `shape` begins with -1, which is as many as come."""

    name: str
    datatype: str  # BYTES or a key of NUMBERS
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Say it as metadata do."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def bad(self, what: str) -> Problem:
        """Refuse what was sent as this tensor; `what` repeats nothing of it."""
        return Problem(400, "bad_tensor", f"The tensor {self.name} {what}.")


def split_body(body: bytes, stated: str | None) -> tuple[bytes, bytes]:
    """Part a body into its JSON and the bytes behind it.

    Args:
        body: all of it.
        stated: the header Inference-Header-Content-Length; None: all is JSON.

    Raises:
        Problem: 400 no number, or one beyond the body's end.
    """
    if stated is None:
        return body, b""
    if not (stated.isdecimal() and len(stated) <= LONGEST_LENGTH and int(stated) <= len(body)):
        sentence = "Inference-Header-Content-Length is not how many of the body's bytes are JSON."
        raise Problem(400, "bad_length", sentence)
    return body[: int(stated)], body[int(stated) :]


def check_shape(tensor: Tensor, *, datatype: str, shape: Sequence[int], most: int) -> None:
    """Hold what a request says of a tensor against what is expected of it.

    Raises:
        Problem: 400 another type or shape, 413 more than `most` in the first dimension.
    """
    same = datatype == tensor.datatype and len(shape) == len(tensor.shape) and tuple(shape[1:]) == tensor.shape[1:]
    if not same or shape[0] < 1:
        raise tensor.bad(f"must be {tensor.datatype} of shape {list(tensor.shape)}, with at least one for -1")
    if shape[0] > most:
        raise Problem(413, "too_many", f"A request has at most {most} slices here; this one has more.")


def from_json(tensor: Tensor, data: list[Any], shape: Sequence[int]) -> Values:
    """Read a tensor's JSON, whose shape has been checked: BYTES of [N], or INT64 of [N, K]; raises Problem 400."""
    return _files(tensor, data, shape[0]) if tensor.datatype == "BYTES" else _integers(tensor, data, shape)


def from_bytes(tensor: Tensor, raw: bytes, shape: Sequence[int]) -> Values:
    """Read a tensor's bytes, whose shape has been checked; raises Problem 400."""
    if tensor.datatype == "BYTES":
        return _elements(tensor, raw, shape[0])
    kind = NUMBERS[tensor.datatype]
    if len(raw) != prod(shape) * kind.itemsize:
        raise tensor.bad("has more or fewer bytes than its shape needs")
    return np.frombuffer(raw, kind).reshape(shape)


def to_json(values: Values) -> list[Any]:
    """Write numbers flat, row by row, and BYTES as the text that they are."""
    return [each.decode() for each in values] if isinstance(values, list) else values.ravel().tolist()


def to_bytes(values: Values) -> bytes:
    r"""Write a tensor as bytes.

    >>> to_bytes([b"glioma", b""])
    b'\x06\x00\x00\x00glioma\x00\x00\x00\x00'
    """
    if isinstance(values, list):
        return b"".join(len(each).to_bytes(LENGTH_BYTES, "little") + each for each in values)
    return values.tobytes()


def _files(tensor: Tensor, data: list[Any], count: int) -> list[bytes]:
    if len(data) != count or not all(isinstance(each, str) for each in data):
        raise tensor.bad("must have one string for each element, in a flat list")
    try:
        return [base64.b64decode(each, validate=True) for each in data]
    except ValueError:
        raise tensor.bad("is not base64: a file in JSON must be; binary tensor data take it as it is") from None


def _integers(tensor: Tensor, data: list[Any], shape: Sequence[int]) -> NDArray[np.int64]:
    count, width = shape
    nested = len(data) == count and all(isinstance(row, list) for row in data)
    rows = data if nested else [data[at : at + width] for at in range(0, len(data), width)]
    whole = all(type(each) is int and -(2**63) <= each < 2**63 for row in rows for each in row)  # true is an int
    if not whole or len(rows) != count or any(len(row) != width for row in rows):
        raise tensor.bad("must have whole numbers of 64 bits, as many as its shape says")
    return np.array(rows, NUMBERS["INT64"])


def _elements(tensor: Tensor, raw: bytes, count: int) -> list[bytes]:
    elements, at = [], 0
    for _ in range(count):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(raw[at:start], "little")
        if at > len(raw):
            raise tensor.bad("ends before its last element")
        elements.append(raw[start:at])
    if at != len(raw):
        raise tensor.bad("goes on behind its last element")
    return elements
