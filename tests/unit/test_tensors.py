"""Tensors of the Open Inference Protocol: what is written is read again, and what lies is refused."""

import base64

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from neuralblack.service.problems import Problem
from neuralblack.service.tensors import (
    NUMBERS,
    Tensor,
    check_shape,
    from_bytes,
    from_json,
    split_body,
    to_bytes,
    to_json,
)

FILES, BOXES = Tensor("image", "BYTES", (-1,)), Tensor("box", "INT64", (-1, 4))
ELEMENTS = [b"\x89PNG", b"", b"\xff" * 300]
NUMBERS_OF_BOXES = [[1, 2, 30, 40], [-(2**63), 0, 2**63 - 1, 7]]


def refused(call, *arguments):
    with pytest.raises(Problem) as problem:
        call(*arguments)
    return problem.value.status, problem.value.code


def test_bytes_come_back_as_they_went():
    assert from_bytes(FILES, to_bytes(ELEMENTS), [3]) == ELEMENTS


def test_bytes_are_those_of_the_other_implementation():
    assert to_bytes(ELEMENTS) == serialize_byte_tensor(np.array(ELEMENTS, object)).item()
    assert deserialize_bytes_tensor(to_bytes(ELEMENTS)).tolist() == ELEMENTS


def test_whole_numbers_come_back_as_they_went_flat_or_nested():
    boxes = np.array(NUMBERS_OF_BOXES, NUMBERS["INT64"])

    for read in (
        from_bytes(BOXES, to_bytes(boxes), [2, 4]),
        from_json(BOXES, to_json(boxes), [2, 4]),
        from_json(BOXES, NUMBERS_OF_BOXES, [2, 4]),
    ):
        assert np.array_equal(read, boxes)


@pytest.mark.parametrize(("datatype", "kind"), [("FP32", "<f4"), ("BOOL", "?")])
def test_outputs_are_little_endian_row_by_row(datatype, kind):
    values = np.array([[0, 1, 0], [1, 1, 0]], NUMBERS[datatype])

    assert np.frombuffer(to_bytes(values), kind).tolist() == to_json(values) == values.ravel().tolist()


def test_a_file_in_json_is_base64_and_text_that_goes_out_is_text():
    coded = [base64.b64encode(each).decode() for each in ELEMENTS]

    assert from_json(FILES, coded, [3]) == ELEMENTS
    assert to_json([b"no tumour", "größer".encode()]) == ["no tumour", "größer"]


@pytest.mark.parametrize(
    ("raw", "shape"),
    [
        (b"", [1]),
        (b"\x01\x00\x00", [1]),
        (b"\x05\x00\x00\x00abc", [1]),
        (b"\xff\xff\xff\xffabc", [1]),
        (b"\x03\x00\x00\x00abc", [2]),
        (b"\x03\x00\x00\x00abc\x00", [1]),
        (b"\x00\x00\x00\x00" * 3, [2]),
    ],
    ids=["nothing", "half a length", "cut off", "four gigabytes", "one of two", "a byte too many", "one too many"],
)
def test_lengths_that_lie_are_refused(raw, shape):
    assert refused(from_bytes, FILES, raw, shape) == (400, "bad_tensor")


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (["!!!!"], [1]),
        (["YWJ"], [1]),
        (["größer"], [1]),
        (["\ud800"], [1]),
        ([], [1]),
        (["YWJj", "YWJj"], [1]),
        ([["YWJj"]], [1]),
        ([7], [1]),
        ([None], [1]),
    ],
)
def test_json_that_is_no_base64_or_not_as_much_as_promised_is_refused(data, shape):
    assert refused(from_json, FILES, data, shape) == (400, "bad_tensor")


@pytest.mark.parametrize(
    "data",
    [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [[1, 2], [3, 4]],
        [[1, 2, 3, [4]]],
        [1, 2, 3, 4.0],
        [1, 2, 3, True],
        [1, 2, 3, "4"],
        [1, 2, 3, float("nan")],
        [1, 2, 3, 2**63],
        [None],
    ],
    ids=repr,
)
def test_numbers_that_are_not_whole_or_not_as_many_are_refused(data):
    assert refused(from_json, BOXES, data, [1, 4]) == (400, "bad_tensor")


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytes(64)])
def test_bytes_that_do_not_fill_the_shape_are_refused(raw):
    assert refused(from_bytes, BOXES, raw, [1, 4]) == (400, "bad_tensor")


@pytest.mark.parametrize(
    ("datatype", "shape", "status"),
    [
        ("UINT8", [1], 400),
        ("BYTES", [], 400),
        ("BYTES", [1, 1], 400),
        ("BYTES", [0], 400),
        ("BYTES", [-1], 400),
        ("BYTES", [-(2**70)], 400),
        ("BYTES", [65], 413),
        ("BYTES", [2**70], 413),
    ],
)
def test_shapes_that_cannot_be_are_refused_before_anything_is_read(datatype, shape, status):
    with pytest.raises(Problem) as problem:
        check_shape(FILES, datatype=datatype, shape=shape, most=64)

    assert problem.value.status == status


def test_another_width_than_a_boxs_is_refused():
    with pytest.raises(Problem, match=r"INT64 of shape \[-1, 4\]"):
        check_shape(BOXES, datatype="INT64", shape=[1, 2**60], most=64)


def test_a_body_is_parted_where_its_header_says():
    assert split_body(b"{}abc", "2") == (b"{}", b"abc")
    assert split_body(b"{}", None) == (b"{}", b"")


@pytest.mark.parametrize("stated", ["3", "-1", "", "two", "1e1", "²", "9" * 5000])
def test_a_header_that_lies_about_the_body_is_refused(stated):
    assert refused(split_body, b"{}", stated) == (400, "bad_length")
