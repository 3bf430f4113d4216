"""What must not change an answer: the scanner's scale, the file's format, the company that a slice is served in."""

import numpy as np
import pytest
from PIL import Image

from neuralblack.config import TrainConfig
from neuralblack.data.mat_writer import write_mat
from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.inference.by_file import read_prepared
from neuralblack.inference.predictor import Predictor
from neuralblack.training.runs import train_here

pytestmark = pytest.mark.behaviour


@pytest.fixture
def predictor(dataset, tiny, tmp_path):
    """A network that was trained for one epoch, in fp32."""
    config = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
    train_here(config, data=dataset.path, run=tmp_path / "run")
    return Predictor.load(tmp_path / "run", engine="eager-fp32")


@pytest.fixture
def image():
    """A made-up slice with a glioma, (96, 96) int16."""
    return draw_phantom(Patient.draw("glioma", seed=1), "axial", size=96).image


def probabilities(predictor, path):
    return list(predictor([read_prepared(path, predictor.spec)])[0].probabilities.values())


def test_the_scanners_gain_and_offset_do_not_change_the_answer(predictor, image, tmp_path):
    Image.fromarray(image.astype(np.uint16)).save(tmp_path / "plain.png")
    Image.fromarray((image.astype(np.int64) * 4 + 300).astype(np.uint16)).save(tmp_path / "louder.png")

    plain, louder = (probabilities(predictor, tmp_path / name) for name in ("plain.png", "louder.png"))

    assert louder == plain


def test_black_columns_at_the_sides_do_not_change_the_answer(predictor, image, tmp_path):
    """A slice is padded to a square with black, as some scanners do; only the percentiles of its values may differ."""
    narrow = image[:, 8:-8].astype(np.uint16)  # without air at the sides
    Image.fromarray(narrow).save(tmp_path / "narrow.png")
    Image.fromarray(np.pad(narrow, ((0, 0), (8, 8)))).save(tmp_path / "padded.png")

    answers = [predictor([read_prepared(tmp_path / name, predictor.spec)])[0] for name in ("narrow.png", "padded.png")]

    assert answers[0].label == answers[1].label
    first, second = (list(answer.probabilities.values()) for answer in answers)
    assert second == pytest.approx(first, abs=0.02)


def test_a_slice_in_a_mat_file_and_in_an_image_file_get_the_same_answer(predictor, image, tmp_path):
    border = np.array([10.0, 10.0, 20.0, 10.0, 20.0, 20.0])
    write_mat(tmp_path / "1.mat", label=2.0, patient="p", image=image, mask=image > 0, border=border)
    for name in ("1.png", "1.tiff"):
        Image.fromarray(image.astype(np.uint16)).save(tmp_path / name)

    answers = [probabilities(predictor, tmp_path / name) for name in ("1.mat", "1.png", "1.tiff")]

    assert answers[0] == answers[1] == answers[2]


def test_an_rgb_copy_of_a_grey_slice_gets_the_same_answer(predictor, image, tmp_path):
    grey = Image.fromarray((image / image.max() * 255).clip(0).astype(np.uint8))
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "rgb.png")
    grey.convert("RGBA").save(tmp_path / "rgba.png")

    answers = [probabilities(predictor, tmp_path / name) for name in ("grey.png", "rgb.png", "rgba.png")]

    assert answers[1] == pytest.approx(answers[0], abs=0.02)  # luma's rounding
    assert answers[2] == answers[1]
