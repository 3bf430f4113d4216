"""Copies of learnt slices are found under other names, and refused."""

from dataclasses import replace

import numpy as np
import pytest

from neuralblack.data.splits import make_split
from neuralblack.errors import InputError
from neuralblack.evaluation.copies import find_copies, refuse_copies
from neuralblack.evaluation.subsets import learnt_of_sources


@pytest.fixture(scope="module")
def split(dataset):
    return make_split(dataset, train=None, validation=[4], test=[5])


def elsewhere(dataset, rows, change=lambda image: image, **more):
    """Some slices as a dataset of other people from another place."""
    images = np.stack([change(dataset.images[row]) for row in rows])
    pick = lambda values: [values[row] for row in rows]  # noqa: E731
    return replace(
        dataset,
        images=images,
        hash="0" * 64,
        ids=[f"elsewhere/{row}" for row in rows],
        patients=[f"somebody {row}" for row in rows],
        labels=pick(dataset.labels),
        sources=pick(dataset.sources),
        source_hashes=[f"other {row}" for row in rows],
        **more,
    )


def test_within_a_dataset_that_prepare_made_there_are_none(dataset, split):
    assert not len(find_copies(dataset, split.train, dataset, split.test))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: (image * 0.8 + 10).astype(np.uint8),
        lambda image: np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    ],
    ids=["equal", "mirrored", "paler", "noisy"],
)
def test_copies_in_another_dataset_are_found(dataset, split, change):
    other = elsewhere(dataset, [*split.train[:3], *split.test], change)

    found = find_copies(dataset, split.train, other, np.arange(len(other)))

    assert found.tolist() == [0, 1, 2]


def test_the_same_file_is_found_whatever_its_pixels_became(dataset, split):
    other = elsewhere(dataset, split.test, lambda image: image.T)
    other.source_hashes[4] = dataset.source_hashes[split.train[0]]

    assert find_copies(dataset, split.train, other, np.arange(len(other))).tolist() == [4]


def test_a_copy_in_one_dataset_is_trusted_only_where_one_source_names_both_patients(dataset, split):
    images, sources, patients = dataset.images.copy(), ["here"] * len(dataset), list(dataset.patients)
    images[split.test[:3]] = images[split.train[:3]] // 2
    images[split.test[3]] = images[split.train[3]]
    for row in (*split.test[:4], *split.train[:4]):
        patients[row] = f"patient {row}"
    patients[split.test[0]] = "group-of-nobody-known"
    sources[split.test[1]] = "there"
    doubled = replace(dataset, images=images, patients=patients, sources=sources)

    assert find_copies(doubled, split.train, doubled, split.test).tolist() == split.test[[0, 1, 3]].tolist()


def test_the_same_pixels_are_copies_where_one_source_names_all(dataset, split):
    images, patients = dataset.images.copy(), [f"patient {patient}" for patient in dataset.patients]
    images[split.test[0]] = images[split.train[0]]
    named = replace(dataset, images=images, patients=patients, sources=["here"] * len(dataset))

    assert find_copies(named, split.train, named, split.test).tolist() == [split.test[0]]


def test_copies_are_refused_by_name_with_the_way_out(dataset):
    with pytest.raises(InputError, match=r"found 7 of 60 slices that are copies .*--skip-copies") as caught:
        refuse_copies(dataset, np.arange(7), 60)
    assert dataset.ids[0] in str(caught.value) and "..." in str(caught.value)
    refuse_copies(dataset, np.arange(0), 60)


def test_sources_are_the_same_where_they_share_a_file_whatever_they_are_called(dataset, split):
    first = dataset.sources[split.train[0]]
    count = sum(dataset.sources[row] == first for row in split.train)
    other = elsewhere(dataset, split.test)
    other.sources[:] = ["there"] * len(other)
    every = np.arange(len(other))

    assert learnt_of_sources(dataset, split.train, other, every) == {"there": 0}
    other.source_hashes[4] = next(
        digest for digest, name in zip(dataset.source_hashes, dataset.sources, strict=True) if name == first
    )
    assert learnt_of_sources(dataset, split.train, other, every) == {"there": count}
    assert learnt_of_sources(dataset, split.train, other, every[5:]) == {"there": 0}  # a copy that was left out
