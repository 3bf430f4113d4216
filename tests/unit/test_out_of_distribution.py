"""The gate: what is no slice is refused with the reason, slices of new patients mostly pass."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.data.preprocessing import Preprocessing, prepared
from neuralblack.data.readers import images
from neuralblack.data.slices import Prepared, Slice
from neuralblack.inference.out_of_distribution import CHECKS, REASONS, Cloud, Gate, fit_checks, limit, measure
from neuralblack.labels import CLASSES

SPEC = Preprocessing(size=128)
VIEWS = ("axial", "coronal", "sagittal")


def heads(count, *, seed):
    """Slices of made-up patients, prepared, one a patient."""
    patients = [Patient.draw(CLASSES[index % len(CLASSES)], seed=seed + index) for index in range(count)]
    drawn = [draw_phantom(patient, VIEWS[index % 3], size=128).image for index, patient in enumerate(patients)]
    return [prepared(Slice(image), SPEC, where="head") for image in drawn]


@pytest.fixture(scope="module")
def gate():
    return Gate(fit_checks(head.pixels for head in heads(60, seed=0)))


def asked(gate, picture, colour=0.0):
    return [reason.code for reason in gate.before(prepared(Slice(picture, colour=colour), SPEC, where="picture"))]


def test_slices_of_new_patients_pass(gate):
    refused = sum(bool(gate.before(head)) for head in heads(60, seed=1000))

    assert refused <= 2


RNG = np.random.default_rng(0)
STRIPES = np.arange(200) // 10 % 3 * 100 * np.ones((200, 1))


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (RNG.integers(0, 256, (200, 200)), "noise"),
        (np.add.outer(np.arange(200), np.arange(200)), "smooth"),
        (np.where(RNG.random((200, 200)) < 0.1, 0, 255), "edges"),
        (np.full((90, 90), 7), "blank"),
        (STRIPES, "flat"),
        (np.pad(heads(1, seed=5)[0].pixels[40:60, 40:60], 60), "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_slice_is_refused_for_what_it_is(gate, picture, code):
    assert code in asked(gate, picture)


def test_what_leaves_no_dark_background_is_refused():
    assert asked(Gate({"background": 0.2}), 255 - heads(1, seed=5)[0].pixels) == ["background"]


def test_a_photograph_is_refused_in_colour_and_in_grey(gate):
    def reasons(mode):
        buffer = io.BytesIO()
        Image.fromarray(load_sample_image("flower.jpg")).convert(mode).save(buffer, "JPEG")
        slice_ = images.read(buffer.getvalue(), where="photo", labelled=False)
        return [reason.code for reason in gate.before(prepared(slice_, SPEC, where="photo"))]

    assert "colour" in reasons("RGB")
    assert reasons("L")


def test_a_grey_slice_saved_as_a_colour_jpeg_is_not_in_colour(gate):
    buffer = io.BytesIO()
    Image.fromarray(heads(1, seed=7)[0].pixels).convert("RGB").save(buffer, "JPEG", quality=60)

    assert images.read(buffer.getvalue(), where="slice", labelled=False).colour < 0.01


def test_without_limits_only_what_is_certain_is_refused():
    noise = RNG.integers(0, 256, (64, 64), np.uint8)

    assert Gate().before(Prepared(noise)) == ()
    assert [reason.code for reason in Gate().before(Prepared(noise, colour=0.5))] == ["colour"]
    assert Gate().behind(np.ones((2, 5), np.float32)) == [(), ()]


def test_a_limit_leaves_its_rate_outside_and_few_values_none():
    values = np.random.default_rng(0).normal(size=10_000)

    assert np.mean(values > limit(values, rate=0.01, above=True)) == pytest.approx(0.01, abs=1e-3)
    assert np.mean(values < limit(values, rate=0.01, above=False)) == pytest.approx(0.01, abs=1e-3)
    assert limit(values[:20], rate=0.01, above=True) > values[:20].max()
    assert limit(values[:20], rate=0.01, above=False) < values[:20].min()


def test_the_distance_is_mahalanobis_where_slices_are_many_and_features_few():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4_000)
    mixing = rng.normal(size=(4, 4))
    features = (rng.normal(size=(4_000, 4)) @ mixing + np.array([[0] * 4, [5] * 4])[labels]).astype(np.float32)

    cloud = Cloud.fit(features, labels, classes=2)

    wide, others = cloud.variances, cloud.rest
    covariance = cloud.directions * wide @ cloud.directions.T
    covariance += others * (np.eye(4) - cloud.directions @ cloud.directions.T)
    offset = features[:50, None] - cloud.mean
    expected = np.einsum("bkf,fg,bkg->bk", offset, np.linalg.inv(covariance), offset).min(1)
    assert cloud.distance(features[:50]) == pytest.approx(np.sqrt(expected / 4), rel=1e-3)
    assert (cloud.distance(features) ** 2).mean() == pytest.approx(1, abs=0.1)


def test_features_from_elsewhere_are_refused_and_held_out_ones_at_the_stated_rate():
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 3
    mixing = rng.normal(size=(5, 64))

    def features(count, kinds, noise=0.3):
        return (np.eye(3, 5)[kinds] @ mixing * 3 + rng.normal(0, noise, (count, 64))).astype(np.float32)

    cloud = Cloud.fit(features(300, labels), labels, classes=3)
    far = limit(cloud.distance(features(300, labels)), rate=0.01, above=True)
    gate = Gate({"features": far}, cloud)

    assert np.mean([bool(one) for one in gate.behind(features(1_000, np.arange(1_000) % 3))]) < 0.04
    assert all(gate.behind((rng.normal(size=(50, 5)) @ mixing * 3).astype(np.float32)))


def test_features_that_never_fire_are_no_trouble():
    features = np.zeros((12, 8), np.float32)
    features[:, 0] = np.arange(12)

    distance = Cloud.fit(features, np.arange(12) % 2, classes=2).distance(features)

    assert np.isfinite(distance).all()


def test_every_reason_has_a_sentence_and_every_check_a_number():
    numbers = measure(np.zeros((64, 64), np.uint8))

    assert set(CHECKS) < set(REASONS)
    assert {name for name, _ in CHECKS.values()} <= set(numbers)
