"""Copies of a picture are found, different pictures are not joined, and what follows from it makes no leak."""

import numpy as np
import pytest
from PIL import Image

from neuralblack.data.dataset import hashed
from neuralblack.data.duplicates import near_duplicates
from neuralblack.data.patients import Known, assign
from neuralblack.errors import InputError


def picture(seed, size=64):
    noise = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


COPIES = {
    "same": lambda image: image,
    "noise": lambda image: (image + np.random.default_rng(9).normal(0, 8, image.shape)).clip(0, 255),
    "darker": lambda image: image * 0.5,
    "more contrast": lambda image: (1.4 * (image.astype(float) - 128) + 128).clip(0, 255),
    "left to right": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "half a turn": lambda image: image[::-1, ::-1],
    "moved by a pixel": lambda image: np.roll(image, 1, axis=0),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copy_is_found_among_other_pictures(copy):
    images = np.stack([picture(0), *(picture(seed) for seed in range(1, 30)), copy(picture(0)).astype(np.uint8)])

    assert near_duplicates(images).tolist() == [[0, 30]]


def test_pairs_are_found_across_blocks(monkeypatch):
    images = np.stack([picture(seed % 10) for seed in range(30)])
    whole = near_duplicates(images)
    monkeypatch.setattr("neuralblack.data.duplicates.BLOCK", 7)

    assert np.array_equal(near_duplicates(images), whole)
    assert len(whole) == 30  # three of each of ten pictures


def test_one_slice_and_blank_slices_are_no_trouble():
    assert near_duplicates(np.zeros((0, 64, 64), np.uint8)).shape == (0, 2)
    assert near_duplicates(picture(0)[None]).shape == (0, 2)
    assert near_duplicates(np.zeros((2, 64, 64), np.uint8)).shape == (0, 2)


def known(name, *, patient=None, fold=None, label="no tumour", source="here"):
    return Known(id=name, hash=f"{name}-hash", label=label, patient=patient, fold=fold, source=source)


def alike(count, seed=0):
    """Near-duplicates of one picture, no two of the same pixels."""
    return [picture(seed) // (1 + index) for index in range(count)]


def test_patients_and_folds_do_not_depend_on_the_order():
    slices = [known(name) for name in "abcdefgh"]
    images = np.stack([picture(seed) for seed in (0, 1, 0, 2, 3, 1, 0, 4)])
    order = np.random.default_rng(0).permutation(8)

    straight = assign(slices, images)
    mixed = assign([slices[index] for index in order], images[order])

    assert [straight.patients[index] for index in order] == mixed.patients
    assert [straight.folds[index] for index in order] == mixed.folds
    assert straight.patients[0] == straight.patients[2] == straight.patients[6]
    assert len(set(straight.patients)) == 5


def test_known_patients_of_one_source_are_not_joined_by_resemblance():
    slices = [known("a", patient="A", fold=1), known("b", patient="B", fold=2), known("c")]

    whose = assign(slices, np.stack([*alike(2), picture(1)]))

    assert whose.patients[:2] == ["A", "B"] and whose.notes["joined_patients"] == []


@pytest.mark.parametrize(
    ("source", "images"),
    [("here", [picture(0)] * 2), ("there", [picture(0)] * 2), ("there", alike(2))],
    ids=["same pixels", "same pixels of two sources", "alike in two sources"],
)
def test_patients_who_share_a_picture_are_one(source, images):
    slices = [known("a", patient="A"), known("a2", patient="A"), known("b", patient="B", source=source)]
    slices += [known("b2", patient="B", source=source), known("c", patient="C")]

    whose = assign(slices, np.stack([images[0], picture(1), images[1], picture(2), picture(3)]))

    assert whose.patients == ["A", "A", "A", "A", "C"] and whose.folds == [0] * 5
    assert whose.notes["joined_patients"] == [sorted([hashed("A"), hashed("B")])]
    assert whose.other_names == {"A": ["B"]}


def test_joined_patients_keep_the_fold_of_most_of_their_slices_and_the_others_are_in_none():
    slices = [known("a", patient="A", fold=1), known("b", patient="B", fold=2, source="there")]
    slices += [known("b2", patient="B", fold=2, source="there"), known("c", patient="C", source="elsewhere")]
    images = np.stack([picture(0), picture(0), picture(1), picture(1)])

    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        whose = assign([slices[index] for index in order], images[order])

        assert whose.patients == ["A"] * 4
        assert [whose.folds[order.index(index)] for index in range(4)] == [0, 2, 2, 2]
        assert whose.notes["between_folds"] == ["a"]


def test_picture_that_resembles_patients_of_two_folds_is_in_no_fold():
    slices = [known("a", patient="A", fold=1), known("b", patient="B", fold=2), known("c"), known("d")]

    whose = assign(slices, np.stack([*alike(3), picture(1)]))

    assert whose.folds[:3] == [1, 2, 0] and whose.folds[3] > 0
    assert whose.notes["between_folds"] == ["c"]


def test_picture_that_resembles_patients_of_one_fold_is_in_that_fold():
    slices = [known("a", patient="A", fold=3), known("b", patient="B", fold=3), known("c")]

    whose = assign(slices, np.stack(alike(3)))

    assert (whose.patients, whose.folds) == (["A", "B", "A"], [3, 3, 3])
    assert whose.notes["took_a_patient"] == ["c"] and whose.notes["between_folds"] == []


def test_patients_beside_a_fold_file_get_the_hash_fold_that_their_copies_get():
    slices = [known("a", patient="A"), known("c"), known("d"), known("e", patient="E", fold=2, source="there")]

    whose = assign(slices, np.stack([picture(0), picture(0), picture(1), picture(2)]))

    assert whose.folds[0] == whose.folds[1] > 0


def test_folds_are_left_to_the_split_where_patients_are_named_but_for_a_stray_slice():
    slices = [known("a", patient="A"), known("b", patient="B"), known("copy of a"), known("stray")]

    whose = assign(slices, np.stack([picture(0), picture(1), picture(0), picture(2)]))

    assert whose.folds == [0] * 4 and whose.patients[:3] == ["A", "B", "A"]


def test_a_group_that_resembles_two_patients_is_never_in_another_fold_than_one_of_them():
    slices = [known(name, patient=name.upper()) for name in "ab"] + [known("c"), known("d")]

    whose = assign(slices, np.stack([*alike(3), picture(1)]))

    assert whose.folds[0] == whose.folds[1] == whose.folds[2] or whose.folds[2] == 0
    assert whose.folds[3] > 0


def test_patient_in_two_folds_names_the_two_slices():
    slices = [known("a", patient="A", fold=0), known("b", patient="A", fold=2), known("c", patient="A", fold=1)]

    with pytest.raises(InputError, match="b in fold 2 and c of the same patient in fold 1"):
        assign(slices, np.stack([picture(0)] * 3))
