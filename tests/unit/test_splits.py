"""No patient is ever on two sides of a split, and a manifest says so to every later step."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralblack.data.dataset import LEARNT_ONLY, Dataset, hashed
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.splits import PARTS, folds_of, load_split, make_split, refuse_overlap
from neuralblack.errors import InputError
from neuralblack.labels import CLASSES

TUMOURS = ("glioma", "meningioma", "pituitary")


def dataset_of(patients, labels, folds, hash="h" * 64, one=()):
    """`one` are lists of names of the same person, of which the dataset has the first."""
    n = len(patients)
    return Dataset(
        path=Path("dataset"),
        manifest={"duplicates": {"joined_patients": [sorted(map(hashed, names)) for names in one]}},
        hash=hash,
        spec=Preprocessing(size=64),
        images=np.zeros((n, 64, 64), np.uint8),
        ids=[f"s/{row}" for row in range(n)],
        patients=list(patients),
        labels=list(labels),
        folds=np.array(folds, np.int64),
        sources=["s"] * n,
        source_hashes=[""] * n,
        boxes=np.full((n, 4), -1),
        shapes=np.full((n, 2), 512),
        classes=tuple(name for name in CLASSES if name in labels),
    )


def many(folds=None, patients=60):
    """Three slices a patient; patients by class in turn, by fold in turn of threes."""
    numbers = [number for number in range(patients) for _ in range(3)]
    names, labels = [f"p{number}" for number in numbers], [TUMOURS[number % 3] for number in numbers]
    stored = [1 + number // 3 % 5 for number in numbers]
    return dataset_of(names, labels, stored if folds is None else [folds] * len(numbers))


def test_stored_folds_are_used_and_train_takes_the_rest_by_default():
    dataset = many()

    split = make_split(dataset, train=None, validation=[3], test=[4])

    assert set(dataset.folds[split.train]) == {1, 2, 5}
    assert set(dataset.folds[split.validation]) == {3} and set(dataset.folds[split.test]) == {4}
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(len(dataset)))
    assert split.classes == TUMOURS


def test_rows_in_no_fold_are_in_no_part_and_counted():
    dataset = many()
    dataset.folds[:9] = 0

    split = make_split(dataset, train=[1, 2], validation=[3], test=[4])

    assert not set(range(9)) & {*split.train, *split.validation, *split.test}
    assert split.manifest["left_out"]["in_no_fold"] == 9


@pytest.mark.parametrize("stored", [True, False], ids=["stored-folds", "made-folds"])
def test_what_is_only_learnt_from_is_in_the_training_part_whichever_folds_are(stored):
    base = many(None if stored else 0)
    more = [(f"f{number}", label) for number, label in enumerate(TUMOURS)]
    dataset = dataset_of(
        [*base.patients, *(patient for patient, _ in more)],
        [*base.labels, *(label for _, label in more)],
        [*base.folds, *[LEARNT_ONLY] * 3],
    )
    learnt = set(range(len(base), len(dataset)))

    for train in (None, [1, 2]):
        split = make_split(dataset, train=train, validation=[4], test=[5])
        assert learnt <= set(split.train) and not learnt & {*split.validation, *split.test}
        again = load_split(json.loads(json.dumps(split.manifest)), dataset)
        assert all(np.array_equal(getattr(again, part), getattr(split, part)) for part in PARTS)
        without = make_split(base, train=train, validation=[4], test=[5])
        assert np.array_equal(split.test, without.test) and np.array_equal(split.validation, without.validation)
    with pytest.raises(InputError):
        make_split(dataset, train=None, validation=[4], test=[LEARNT_ONLY])


def test_folds_are_made_by_patient_with_every_class_where_none_is_stored():
    dataset = many(folds=0)

    folds = folds_of(dataset, seed=1)

    assert set(folds) == {1, 2, 3, 4, 5}
    for patient in set(dataset.patients):
        assert len({fold for fold, name in zip(folds, dataset.patients, strict=True) if name == patient}) == 1
    for fold in range(1, 6):
        assert {dataset.labels[row] for row in np.flatnonzero(folds == fold)} == set(TUMOURS)
    assert np.array_equal(folds, folds_of(dataset, seed=1)) and not np.array_equal(folds, folds_of(dataset, seed=2))


def test_too_few_patients_for_folds_are_refused():
    with pytest.raises(InputError, match="at most 3 slices of a class; expected at least 5"):
        folds_of(dataset_of(list("abcdef"), [TUMOURS[row % 2] for row in range(6)], [0] * 6))
    with pytest.raises(InputError, match="3 patients; expected at least 5"):
        folds_of(many(folds=0, patients=3))


@pytest.mark.filterwarnings("ignore:The least populated class")
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 15), st.sampled_from(TUMOURS)), min_size=20, max_size=80),
    seed=st.integers(0, 5),
)
def test_no_patient_is_ever_in_two_parts(rows, seed):
    dataset = dataset_of([f"p{number}" for number, _ in rows], [label for _, label in rows], [0] * len(rows))
    try:
        split = make_split(dataset, train=None, validation=[2], test=[5], seed=seed)
    except InputError:
        return
    groups = [{dataset.patients[row] for row in part} for part in (split.train, split.validation, split.test)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert len(split.train)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ({"train": [1, 2], "validation": [2], "test": [3]}, ["train and validation folds", "fold 2 in both"]),
        ({"train": [1], "validation": [3], "test": [3]}, ["validation and test folds", "fold 3 in both"]),
        ({"train": None, "validation": [6], "test": []}, ["validation folds", "found 6", "1, 2, 3, 4, 5"]),
        ({"train": [0], "validation": [1], "test": []}, ["train folds", "found 0"]),
        ({"train": [], "validation": [1], "test": []}, ["train folds", "found none"]),
        ({"train": None, "validation": [1, 2, 3], "test": [4, 5]}, ["train folds", "found none"]),
    ],
)
def test_overlapping_unknown_and_empty_folds_are_refused(folds, words):
    with pytest.raises(InputError) as error:
        make_split(many(), **folds)

    for word in words:
        assert word in str(error.value)


def test_patient_in_two_folds_is_refused():
    dataset = many()
    dataset.patients[0] = dataset.patients[-1]

    with pytest.raises(InputError, match="train and validation: found 1 patients in both") as error:
        make_split(dataset, train=[1], validation=[5], test=[])

    assert str(error.value).startswith(str(dataset.path)) and error.value.fix.startswith("prepare the dataset anew")


def test_classes_are_those_of_the_training_part_and_others_are_left_out_and_counted():
    labels = ["glioma", "meningioma", "glioma", "pituitary", "meningioma", "no tumour"]
    dataset = dataset_of("abcdef", labels, [1, 1, 2, 2, 3, 3])

    split = make_split(dataset, train=[1], validation=[2], test=[3])

    assert split.classes == ("glioma", "meningioma")
    assert split.validation.tolist() == [2] and split.test.tolist() == [4]
    assert split.manifest["left_out"] == {"in_no_fold": 0, "validation_of_other_classes": 1, "test_of_other_classes": 1}


def test_one_class_is_nothing_to_learn():
    with pytest.raises(InputError, match="only glioma"):
        make_split(dataset_of("ab", ["glioma", "pituitary"], [1, 2]), train=[1], validation=[2], test=[])


@pytest.mark.parametrize("folds", [None, 0], ids=["stored folds", "made folds"])
def test_manifest_is_json_without_names_and_rebuilds_the_split(folds):
    dataset = many(folds)
    split = make_split(dataset, train=None, validation=[3], test=[4], seed=7)

    text = json.dumps(split.manifest)
    again = load_split(json.loads(text), dataset)

    assert '"p0"' not in text and hashed("p0") in text
    for part in PARTS:
        assert np.array_equal(getattr(again, part), getattr(split, part))
    assert again.classes == split.classes and again.manifest == split.manifest
    facts = split.manifest["parts"]["test"]
    assert facts["folds"] == [4] and facts["slices"] == len(split.test) == sum(facts["per_class"].values())


def test_manifest_rebuilds_a_split_that_left_slices_out():
    labels = ["glioma", "glioma", "meningioma", "meningioma", "glioma", "pituitary"]
    dataset = dataset_of("aabbcd", labels, [1, 0, 1, 1, 2, 2])

    split = make_split(dataset, train=[1], validation=[2], test=[])

    again = load_split(split.manifest, dataset)

    assert again.train.tolist() == [0, 2, 3] and again.validation.tolist() == [4] and again.test.tolist() == []


def changed(change):
    manifest = make_split(many(), train=[1, 2], validation=[3], test=[4]).manifest
    change(manifest)
    return manifest


def share_a_patient(manifest):
    manifest["parts"]["test"]["patients"].append(manifest["parts"]["train"]["patients"][0])


def lose_a_patient(manifest):
    manifest["parts"]["train"]["patients"].pop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (share_a_patient, "RUN/split.json, train and test: found 1 patients in both"),
        (lose_a_patient, "RUN/split.json, train: found 69 slices of its patients; expected 72"),
        (lambda manifest: manifest.update(dataset="0" * 64), "expected dataset 000000000000"),
        (lambda manifest: manifest.update(version=2), "RUN/split.json: found version 2"),
        (lambda manifest: manifest.pop("parts"), "missing parts"),
    ],
)
def test_changed_manifest_is_refused(change, words):
    with pytest.raises(InputError) as error:
        load_split(changed(change), many(), where="RUN/split.json")

    assert words in str(error.value)
    assert str(error.value).endswith("train again in a new run folder: neuralblack train DATA RUN")


def test_evaluation_on_patients_a_model_learned_from_or_was_chosen_by_is_refused():
    dataset = many()
    split = make_split(dataset, train=[1, 2], validation=[3], test=[4])

    refuse_overlap(split.manifest, dataset, split.test)
    refuse_overlap(split.manifest, dataset, np.flatnonzero(dataset.folds == 5))
    with pytest.raises(InputError, match="1 of 13 patients that are in the model's train part"):
        refuse_overlap(split.manifest, dataset, [*split.test, split.train[0]])
    with pytest.raises(InputError, match="12 of 12 patients that are in the model's validation part"):
        refuse_overlap(split.manifest, dataset, split.validation)
    with pytest.raises(InputError, match=r"^RUN/split\.json: found version 2"):
        refuse_overlap(split.manifest | {"version": 2}, dataset, split.test, where="RUN/split.json")


@pytest.mark.parametrize("where", ["in the model's", "in the other"])
def test_a_person_of_two_names_is_known_by_either(where):
    one = [["p0", "also p0"]]
    learnt = many()
    learnt = dataset_of(learnt.patients, learnt.labels, learnt.folds, one=one if "model" in where else ())
    split = make_split(learnt, train=[1, 2], validation=[3], test=[4])
    other = dataset_of(
        ["also p0", "new"], ["glioma", "glioma"], [1, 1], hash="o" * 64, one=() if "model" in where else one
    )

    assert '"also p0"' not in json.dumps(split.manifest)
    assert np.array_equal(load_split(json.loads(json.dumps(split.manifest)), learnt).train, split.train)
    with pytest.raises(InputError, match="1 of 2 patients that are in the model's train part"):
        refuse_overlap(split.manifest, other, [0, 1])


def test_the_same_people_in_another_dataset_are_known():
    split = make_split(many(), train=[1, 2], validation=[3], test=[4])
    other = dataset_of(["p0", "new"], ["glioma", "glioma"], [1, 1], hash="o" * 64)

    refuse_overlap(split.manifest, other, [1])
    with pytest.raises(InputError, match="1 of 2 patients"):
        refuse_overlap(split.manifest, other, [0, 1])
