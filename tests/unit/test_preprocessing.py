"""What the one preprocessing promises about pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neuralblack.data.preprocessing import VERSION, Preprocessing, preprocess, stored_box
from neuralblack.errors import InputError

SPEC = Preprocessing(size=64)
NOISE = np.random.default_rng(0).integers(0, 900, (64, 64)).astype(np.int16)


def test_slice_becomes_a_square_of_bytes_that_uses_the_whole_range():
    out = preprocess(NOISE, SPEC, where="a")

    assert out.shape == (64, 64) and out.dtype == np.uint8 and out.flags.c_contiguous
    assert out.min() == 0 and out.max() == 255


def test_values_outside_eight_bits_do_not_wrap_around():
    ramp = np.tile(np.linspace(-5_000, 30_000, 64), (64, 1)).astype(np.int16)

    assert (np.diff(preprocess(ramp, SPEC, where="a").astype(int), axis=1) >= 0).all()


def test_small_integers_come_out_like_the_same_numbers_in_a_wide_type():
    """They take another way, by counting; the pixels must be the same to the bit."""
    rng = np.random.default_rng(0)
    for kind in (np.uint8, np.int8, np.int16, np.uint16) * 40:
        limits, (height, width) = np.iinfo(kind), rng.integers(2, 90, 2)
        values = rng.normal(0, rng.integers(1, 400), (height, width)).clip(limits.min, limits.max)
        image = np.where(rng.random((height, width)) < 0.3, limits.max, values).astype(kind)
        if image.min() == image.max():
            continue
        spec = Preprocessing(size=64, clip_percent=float(rng.choice([0, 0.5, 7.3])))

        assert np.array_equal(preprocess(image, spec, where="a"), preprocess(image.astype(np.int64), spec, where="a"))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.int64, np.uint16])
def test_type_of_the_numbers_does_not_change_the_result(kind):
    assert np.array_equal(preprocess(NOISE.astype(kind), SPEC, where="a"), preprocess(NOISE, SPEC, where="a"))


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 1e6), shift=st.floats(-1e6, 1e6))
def test_scale_of_the_scanner_moves_no_pixel_by_more_than_rounding(scale, shift):
    scaled = preprocess(NOISE * scale + shift, SPEC, where="a")

    assert np.abs(scaled.astype(int) - preprocess(NOISE, SPEC, where="a")).max() <= 1


def test_one_hot_pixel_does_not_dim_the_rest():
    hot = NOISE.copy()
    hot[0, 0] = 32_000

    difference = preprocess(hot, SPEC, where="a").astype(int) - preprocess(NOISE, SPEC, where="a")

    assert np.abs(difference[1:, 1:]).max() <= 2


def test_slice_that_is_not_square_is_padded_with_black_in_the_middle():
    out = preprocess(np.tile(NOISE[:32] + 100, (2, 4)), SPEC, where="a")  # 64 x 256: a quarter as high as wide

    assert (out[:23] == 0).all() and (out[-23:] == 0).all()  # the filter reaches one row further
    assert (out[25:39] > 0).all()


def test_shrinking_averages_instead_of_picking():
    checks = np.indices((512, 512)).sum(axis=0) % 2

    inner = preprocess(checks, SPEC, where="a")[1:-1, 1:-1]

    assert np.abs(inner.astype(int) - 127).max() <= 1


def test_preprocessing_does_not_touch_its_input():
    before = NOISE.astype(np.float64)
    preprocess(before, SPEC, where="a")

    assert np.array_equal(before, NOISE)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8)), ["no contrast", "from 0 to 0", "remove the file"]),
        (np.full((64, 64), 7), ["no contrast", "from 7 to 7"]),
        (np.zeros((2, 8, 8)), ["(2, 8, 8)", "split volumes"]),
        (NOISE * 1j, ["complex128", "real numbers"]),
        (np.array([["a"] * 8] * 8), ["<U1", "real numbers"]),
        (NOISE.astype(object), ["object", "real numbers"]),
        (np.where(NOISE > 890, np.nan, NOISE), ["not finite", "NaN"]),
        (np.where(NOISE.max() == NOISE, np.inf, NOISE), ["not finite", "infinity"]),
        (np.where(NOISE > 450, 1.7e308, -1.7e308), ["no contrast"]),
    ],
    ids=["blank", "constant", "volume", "complex", "string", "object", "nan", "infinity", "overflow"],
)
def test_bad_slice_says_what_where_and_how_to_fix(image, words):
    with pytest.raises(InputError) as error:
        preprocess(image, SPEC, where="scan.mat")

    for word in ("scan.mat", *words):
        assert word in str(error.value)


def test_extreme_but_finite_float32_values_are_stretched_like_others():
    wide = np.where(NOISE > 450, 3e38, -3e38).astype(np.float32)

    assert set(np.unique(preprocess(wide, SPEC, where="a"))) == {0, 255}


def test_pixels_of_another_version_are_refused():
    with pytest.raises(InputError, match=f"version {VERSION + 1}"):
        preprocess(NOISE, Preprocessing(version=VERSION + 1), where="a")


def test_digest_tells_specs_apart():
    assert Preprocessing(size=256).digest == Preprocessing().digest != Preprocessing(size=384).digest


@pytest.mark.parametrize("fields", [{"size": 32}, {"size": 2048}, {"clip_percent": 50}, {"sise": 256}])
def test_spec_refuses_values_out_of_range_and_unknown_names(fields):
    with pytest.raises(ValidationError):
        Preprocessing(**fields)


def test_box_holds_the_tumour_after_padding_and_resizing():
    image = np.zeros((300, 200))
    image[40:90, 120:160] = 1000

    x0, y0, x1, y1 = stored_box((120, 40, 160, 90), image.shape, 64)
    out = preprocess(image, SPEC, where="a")
    rows, columns = np.nonzero(out > 127)

    assert x0 <= columns.min() <= x0 + 1 and x1 - 1 <= columns.max() + 1 <= x1
    assert y0 <= rows.min() <= y0 + 1 and y1 - 1 <= rows.max() + 1 <= y1


def test_no_box_stays_none():
    assert stored_box(None, (10, 10), 64) is None
