"""What every prepared dataset promises, held against made-up scans of all four classes on their real way in."""

import subprocess
import sys

import numpy as np
import pytest

from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.prepare import prepare
from neuralblack.data.splits import make_split
from neuralblack.labels import CLASSES

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, patients=20, slices=2, size=96)
    return prepare([folder / "figshare", folder / "images"], folder / "dataset", size=64)


def test_all_four_classes_and_five_folds_are_there(dataset):
    assert dataset.classes == CLASSES
    assert set(dataset.folds) - {0} <= {1, 2, 3, 4, 5}


def test_ids_are_unique_and_say_no_absolute_path(dataset):
    assert len(set(dataset.ids)) == len(dataset)
    assert not any(identity.startswith("/") for identity in dataset.ids)


def test_no_patient_is_in_two_folds_or_under_two_classes(dataset):
    for values in (dataset.folds.tolist(), dataset.labels):
        pairs = set(zip(dataset.patients, values, strict=True))
        assert len(pairs) == len(set(dataset.patients))


def test_every_tumour_has_a_box_within_its_slice_and_no_healthy_slice_has_one(dataset):
    healthy = np.array(dataset.labels) == "no tumour"
    boxes = dataset.boxes[~healthy]

    assert (dataset.boxes[healthy] == -1).all()
    assert (boxes >= 0).all() and (boxes <= dataset.spec.size).all()
    assert (boxes[:, 0] < boxes[:, 2]).all() and (boxes[:, 1] < boxes[:, 3]).all()


def test_every_slice_uses_the_whole_range(dataset):
    assert (dataset.images.min(axis=(1, 2)) < 10).all()  # resizing averages the darkest and brightest pixels
    assert (dataset.images.max(axis=(1, 2)) > 180).all()


def test_manifest_counts_what_is_there(dataset):
    for name, counts in dataset.manifest["classes"].items():
        mine = [row for row, label in enumerate(dataset.labels) if label == name]
        assert counts == {"slices": len(mine), "patients": len({dataset.patients[row] for row in mine})}


def test_three_class_scans_make_a_three_class_split(tmp_path):
    write_phantoms(tmp_path, patients=20, slices=2, size=96)
    dataset = prepare([tmp_path / "figshare"], tmp_path / "dataset", size=64)

    split = make_split(dataset, train=None, validation=[4], test=[5])

    assert split.classes == dataset.classes == CLASSES[1:]


def test_reading_scans_loads_nothing_heavy():
    heavy = "[name for name in ('torch', 'ray', 'pandas', 'sklearn') if name in sys.modules]"
    code = f"import sys, neuralblack.data.prepare, neuralblack.data.splits; print({heavy})"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
