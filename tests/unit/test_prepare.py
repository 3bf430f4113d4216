"""What `prepare` makes of folders, when it does so again, and what it leaves behind when something goes wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from neuralblack.data import prepare as module
from neuralblack.data.dataset import hashed, open_dataset
from neuralblack.data.describe import describe_dataset
from neuralblack.data.mat_writer import write_cvind, write_mat
from neuralblack.data.prepare import prepare
from neuralblack.data.preprocessing import preprocess, stored_box
from neuralblack.data.readers import read_slice
from neuralblack.data.sources import NO_SITES
from neuralblack.data.splits import folds_of, make_split
from neuralblack.errors import InputError


def picture(seed, size=64):
    """A smooth picture that resembles no other seed's."""
    noise = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def scan(path, *, seed, label=1, patient=None):
    mask = np.zeros((64, 64), bool)
    mask[8:24, 16:48] = True
    image = picture(seed).astype(np.int16) * 40
    write_mat(path, label=label, patient=patient or f"p{seed}", image=image, mask=mask, border=np.zeros(4))


@pytest.fixture
def figshare(tmp_path):
    """Six slices of three patients, numbered with gaps, in folds 1, 2 and none."""
    folder = tmp_path / "figshare"
    (folder / "first half").mkdir(parents=True)
    for number, patient, label in [(2, "A", 1), (3, "A", 1), (10, "B", 2), (11, "B", 2), (12, "C", 3)]:
        scan(folder / "first half" / f"{number}.mat", seed=number, patient=patient, label=label)
    scan(folder / "20.mat", seed=20, patient="C", label=3)
    folds = np.zeros(25)
    folds[[1, 2]], folds[[9, 10]] = 1, 2
    write_cvind(folder / "cvind.mat", folds)
    return folder


@pytest.fixture
def images(tmp_path):
    """Three pictures in two class folders; one of them twice, once mirrored, lighter and as JPEG."""
    folder = tmp_path / "images"
    for name in ("no tumour", "glioma_tumor"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(picture(100)).save(folder / "no tumour" / "a.png")
    copy = Image.fromarray(picture(100)[:, ::-1]).resize((90, 90)).point(lambda value: 60 + value // 2)
    copy.convert("RGB").save(folder / "no tumour" / "a copy.jpg", quality=90)
    Image.fromarray(picture(101)).save(folder / "no tumour" / "b.png")
    Image.fromarray(picture(102)).save(folder / "glioma_tumor" / "c.tif")
    return folder


def hidden(folder):
    """Names of what a run left beside its dataset; the lock file is meant to stay."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


def test_figshare_folder_becomes_rows_with_the_authors_folds(tmp_path, figshare):
    dataset = prepare([figshare], tmp_path / "out", size=64)

    assert dataset.ids == [f"figshare/{name}.mat" for name in (20, *(f"first half/{n}" for n in (2, 3, 10, 11, 12)))]
    assert dataset.patients == ["C", "A", "A", "B", "B", "C"]
    assert dataset.labels == ["pituitary", "meningioma", "meningioma", "glioma", "glioma", "pituitary"]
    assert dataset.folds.tolist() == [0, 1, 1, 2, 2, 0]
    assert dataset.classes == ("glioma", "meningioma", "pituitary")
    assert dataset.sources == ["figshare"] * 6
    assert (dataset.boxes == (16, 8, 48, 24)).all()


def test_stored_pixels_are_those_that_serving_would_make_byte_for_byte(tmp_path, figshare, images):
    dataset = prepare([figshare, images], tmp_path / "out", size=96)

    for row, identity in enumerate(dataset.ids):
        raw = read_slice((tmp_path / identity).read_bytes(), where="upload", labelled=False)
        assert np.array_equal(dataset.images[row], preprocess(raw.image, dataset.spec, where="upload"))
    assert tuple(dataset.boxes[0]) == stored_box((16, 8, 48, 24), (64, 64), 96)


def test_near_duplicates_stand_in_for_patients_and_their_fold_is_a_hash(tmp_path, images):
    dataset = prepare([images], tmp_path / "out", size=64)
    by_name = {identity.removeprefix("images/"): row for row, identity in enumerate(dataset.ids)}
    patients = {name: dataset.patients[row] for name, row in by_name.items()}

    assert patients["no tumour/a.png"] == patients["no tumour/a copy.jpg"]
    assert len(set(patients.values())) == 3
    assert all(1 <= fold <= 5 for fold in dataset.folds)
    assert dataset.folds[by_name["no tumour/a.png"]] == dataset.folds[by_name["no tumour/a copy.jpg"]]
    assert dataset.manifest["duplicates"]["groups"] == 3
    assert dataset.classes == ("no tumour", "glioma")


def test_image_that_resembles_a_known_patients_slice_goes_to_that_patient_and_fold(tmp_path, figshare, images):
    Image.fromarray(picture(10)).save(images / "no tumour" / "stolen.png")  # slice 10: patient B, fold 2, a glioma

    dataset = prepare([figshare, images], tmp_path / "out", size=64)
    row = dataset.ids.index("images/no tumour/stolen.png")

    assert (dataset.patients[row], dataset.folds[row]) == ("B", 2)
    assert dataset.manifest["duplicates"]["took_a_patient"] == ["images/no tumour/stolen.png"]
    assert dataset.manifest["duplicates"]["under_two_labels"] == [
        ["figshare/first half/10.mat", "images/no tumour/stolen.png"]
    ]


@pytest.mark.parametrize("folds", [None, [2, 3, 3]], ids=["no fold file", "another fold file"])
def test_a_patient_of_two_hospitals_is_one_and_in_one_part(tmp_path, folds):
    for place, names in (("first", "ABCDEF"), ("second", "UVWXYZ")):
        (tmp_path / place).mkdir()
        for number in range(1, 13):
            patient, label = names[(number - 1) // 2], 1 + number % 3
            scan(tmp_path / place / f"{number}.mat", seed=number, patient=patient, label=label)
        if folds:
            own = np.repeat([1, 2, 3] if place == "first" else folds, 4)
            write_cvind(tmp_path / place / "cvind.mat", own)

    dataset = prepare([tmp_path / "first", tmp_path / "second"], tmp_path / "out", size=64)
    split = make_split(dataset, train=None, validation=[2], test=[3])

    assert dataset.patients == [*"AABBCCDDEEFF"] * 2
    assert ("near-duplicates", "12 patients share pictures and are counted as 6") in describe_dataset(dataset)
    pictures = [{dataset.images[row].tobytes() for row in rows} for rows in (split.train, split.validation, split.test)]
    assert all(pictures) and len(set.union(*pictures)) == sum(map(len, pictures))
    assert (dataset.folds == 0).sum() == (8 if folds else 24)


def test_manifest_says_what_is_in_it_and_names_no_patient_and_no_place(tmp_path, figshare, images):
    (images / "no tumour" / "Thumbs.db").write_bytes(b"x")
    (images / ".hidden.png").write_bytes(b"x")
    (images / "__MACOSX").mkdir()
    (images / "__MACOSX" / "a.png").write_bytes(b"x")

    dataset = prepare([images, figshare], tmp_path / "out", size=64)
    manifest = dataset.manifest

    assert manifest["slices"] == 10
    assert manifest["classes"]["no tumour"] == {"slices": 3, "patients": 2}
    assert manifest["patients"][hashed("A")] == {"meningioma": 2}
    assert [source["ignored"] for source in manifest["sources"]] == [[], ["no tumour/Thumbs.db"]]
    assert len(manifest["sources"][0]["fold_file_sha256"]) == 64
    assert manifest["preprocessing"]["size"] == 64
    texts = "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert str(tmp_path) not in texts and '"A"' not in texts


def test_dataset_is_the_same_bytes_whatever_the_order_of_sources_and_the_number_of_workers(tmp_path, figshare, images):
    one = prepare([figshare, images], tmp_path / "one", size=64, workers=1)
    two = prepare([images, figshare, figshare], tmp_path / "two", size=64, workers=2)

    assert one.hash == two.hash


def test_progress_counts_every_file_once(tmp_path, figshare):
    seen = []
    prepare([figshare], tmp_path / "out", size=64, progress=lambda done, total: seen.append((done, total)))

    assert seen == [(done, 6) for done in range(1, 7)]


def test_slices_without_any_fold_file_are_in_no_fold(tmp_path, figshare):
    (figshare / "cvind.mat").unlink()
    (figshare / "20.mat").rename(figshare / "any name.mat")

    assert not prepare([figshare], tmp_path / "out", size=64).folds.any()


def test_every_row_has_a_fold_where_only_some_have_a_fold_file(tmp_path, figshare):
    for seed in range(30, 34):
        (tmp_path / "more").mkdir(exist_ok=True)
        scan(tmp_path / "more" / f"{seed}.mat", seed=seed, patient="A" if seed == 30 else None)

    dataset = prepare([figshare, tmp_path / "more"], tmp_path / "out", size=64)
    fold = dict(zip(dataset.ids, dataset.folds.tolist(), strict=True))

    assert fold["more/30.mat"] == 1  # patient A's
    assert all(1 <= fold[f"more/{seed}.mat"] <= 5 for seed in (31, 32, 33))


def test_sources_of_one_name_are_told_apart_by_their_parents(tmp_path):
    for number, parent in enumerate("ab"):
        (tmp_path / parent / "scans").mkdir(parents=True)
        scan(tmp_path / parent / "scans" / "1.mat", seed=number)

    assert prepare([tmp_path / "b/scans", tmp_path / "a/scans"], tmp_path / "out", size=64).ids == [
        "a/scans/1.mat",
        "b/scans/1.mat",
    ]


# Bad input


def stop(*arguments, **options):
    with pytest.raises(InputError) as error:
        prepare(*arguments, **options)
    return str(error.value)


def test_every_bad_file_is_named_with_its_reason_before_anything_is_written(tmp_path, figshare, images):
    whole = (figshare / "20.mat").read_bytes()
    (figshare / "20.mat").write_bytes(whole[:600])
    (images / "no tumour" / "notes.png").write_text("a text")
    Image.new("L", (1, 1)).save(images / "no tumour" / "dot.png")
    Image.new("L", (64, 64)).save(images / "no tumour" / "blank.png")

    message = stop([figshare, images], tmp_path / "out", size=64)

    assert message.startswith("4 of 13 files: found")
    for words in ("20.mat: found a broken or truncated file", "notes.png: found bytes of another kind"):
        assert words in message
    for words in ("dot.png: found an image of 1 x 1 pixels", "blank.png: found no contrast", "--skip-bad"):
        assert words in message
    assert not (tmp_path / "out").exists() and not hidden(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_image_that_is_not_finite_is_refused(tmp_path, figshare, value):
    image = picture(1).astype(np.float32)
    image[3, 3] = value
    mask = np.zeros((64, 64), bool)
    write_mat(figshare / "20.mat", label=1, patient="C", image=image, mask=mask, border=np.zeros(2))

    assert "20.mat: found 1 pixels that are not finite numbers" in stop([figshare], tmp_path / "out")


def test_skip_bad_leaves_them_out_and_lists_them(tmp_path, figshare):
    (figshare / "20.mat").write_text("a text")

    dataset = prepare([figshare], tmp_path / "out", size=64, skip_bad=True)

    assert len(dataset) == 5
    (rejected,) = dataset.manifest["rejected"]
    assert rejected["id"] == "figshare/20.mat" and "another kind" in rejected["reason"]
    assert str(tmp_path) not in rejected["reason"]
    assert "20.mat" in stop([figshare], tmp_path / "out", size=64)  # the same without skip_bad is no silent success
    assert len(open_dataset(tmp_path / "out")) == 5


def test_a_file_that_could_not_be_opened_is_read_again_once_it_can_be(tmp_path, figshare, monkeypatch):
    opened = Path.open
    read = []

    def refuse(path, *arguments, **options):
        if path.name == "20.mat":  # root may open whatever it likes
            raise PermissionError(errno.EACCES, "Permission denied")
        if path.stem.isdigit():
            read.append(path.name)
        return opened(path, *arguments, **options)

    def slices():
        read.clear()
        return len(prepare([figshare], tmp_path / "out", size=64, skip_bad=True, workers=1))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert slices() == 5 and len(read) >= 5
        assert slices() == 5 and read == []

    assert slices() == 6


def test_only_bad_files_are_an_error_also_with_skip_bad(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.mat").write_text("a text")

    assert "1 of 1 files" in stop([tmp_path / "scans"], tmp_path / "out", skip_bad=True)


def test_empty_missing_and_unknown_sources_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("x")

    assert "empty: found no files" in stop([tmp_path / "empty"], tmp_path / "out")
    assert "texts: found no scans, but other files like readme.txt" in stop([tmp_path / "texts"], tmp_path / "out")
    assert "gone: found nothing" in stop([tmp_path / "gone"], tmp_path / "out")
    assert "readme.txt: found a file" in stop([tmp_path / "texts" / "readme.txt"], tmp_path / "out")


@pytest.mark.parametrize("folder", ["yes", "."])
def test_image_outside_a_class_folder_is_refused_with_the_known_names(tmp_path, images, folder):
    (images / folder).mkdir(exist_ok=True)
    Image.fromarray(picture(5)).save(images / folder / "x.png")

    message = stop([images], tmp_path / "out")

    assert f"no class: {folder}" in message and "healthy, normal, glioma, meningioma, pituitary" in message


def test_a_folder_directly_below_a_class_folder_is_a_patient(tmp_path, caplog):
    for number, place in enumerate(["patient 7/t1", "patient 7/t1", "patient 7/t2", "patient 8", "."]):
        folder = tmp_path / "images" / "Training" / "pituitary_tumor" / place
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(folder / f"{number}.png")

    with caplog.at_level("INFO"):
        dataset = prepare([tmp_path / "images"], tmp_path / "out", size=64)

    assert set(dataset.labels) == {"pituitary"}
    of = {identity[-5:-4]: patient for identity, patient in zip(dataset.ids, dataset.patients, strict=True)}
    place = "folder-images/pituitary_tumor"
    assert (of["0"], of["1"], of["2"], of["3"]) == (*[f"{place}/patient 7"] * 3, f"{place}/patient 8")
    assert of["4"].startswith("group-")
    assert "2 patients are named by their folders" in caplog.text
    assert any(name == "patients by folder" and said.startswith("2,") for name, said in describe_dataset(dataset))


@pytest.fixture
def halves(tmp_path):
    """Patient p10 in Training and in Testing, and another one of this name under another class."""
    places = ["Training/glioma/p10", "Testing/glioma/p10", "Testing/pituitary/p10", "Testing/no"]
    for number, place in enumerate(places):
        folder = tmp_path / "scans" / place
        folder.mkdir(parents=True)
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return tmp_path / "scans"


def test_what_lies_above_a_class_folder_tells_no_patients_apart(tmp_path, halves):
    dataset = prepare([halves], tmp_path / "out", size=64)

    named = {patient for patient in dataset.patients if not patient.startswith("group-")}
    assert named == {"folder-scans/glioma/p10", "folder-scans/pituitary/p10"}
    below, several = (said for name, said in describe_dataset(dataset) if name == "patients by folder")
    assert below.startswith("2, named by folders below class folders")
    assert several.startswith("names in several class folders, which count as a patient in each: 1; ")


def patients_of(folder, places):
    """Prepare a picture in each of some folders; the patients, groups of near-duplicates as None."""
    for number, place in enumerate(places):
        (folder / "scans" / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(folder / "scans" / place / f"{number}.png")
    dataset = prepare([folder / "scans"], folder / "out", size=64)
    of = {int(Path(identity).stem): patient for identity, patient in zip(dataset.ids, dataset.patients, strict=True)}
    return dataset, [None if of[each].startswith("group-") else of[each] for each in range(len(places))]


@pytest.mark.parametrize(
    ("places", "patients"),
    [
        (
            ["p 7/glioma", "p 7/no", "p 8/glioma", "set 2/p 7/Training/pituitary", "no"],
            ["p 7", "p 7", "p 8", "p 7", None],
        ),
        (["p7/2020-01/glioma", "p7/2021-05/glioma", "p8/2020-01/no"], ["p7", "p7", "p8"]),
        (["all/p7/glioma", "all/p7/glioma/series 1", "all/p8/glioma/series 1"], ["p7", "p7", "p8"]),
        (["axial/p7/glioma", "coronal/p7/glioma"], ["axial", "coronal"]),  # no patients, and no patient in two of them
    ],
)
def test_folders_above_class_folders_are_patients_where_they_differ(places, patients, tmp_path):
    dataset, found = patients_of(tmp_path, places)

    assert found == [name and f"folder-scans/../{name}" for name in patients]
    (above,) = (said for name, said in describe_dataset(dataset) if name == "patients by folder")
    assert above.startswith("2, named by folders above class folders") and NO_SITES in above
    with pytest.raises(InputError, match=r"found . patients; .* give each as a source of its own"):
        folds_of(dataset)


@pytest.mark.parametrize(
    "places",
    [
        ["Training/glioma", "Testing/glioma"],
        ["fold 1/no", "fold 2/no"],
        ["train_images/no", "test_images/no", "Cross-Val/no"],
        ["archive/test set/no", "archive/Training Images/no"],
        ["archive/glioma", "no"],
    ],
)
def test_folders_above_class_folders_that_part_a_collection_are_no_patients(places, tmp_path):
    assert patients_of(tmp_path, places)[1] == [None] * len(places)


def test_a_dataset_of_other_sources_is_not_replaced(tmp_path, figshare, images):
    prepared = prepare([images], tmp_path / "out", size=64).hash

    message = stop([figshare], tmp_path / "out", size=64)

    assert f"found a dataset of {images.name}, which would be gone" in message and "rm -r" in message
    assert open_dataset(tmp_path / "out").hash == prepared
    assert len(prepare([figshare, images], tmp_path / "out", size=64)) > 3


def test_a_class_folder_given_by_itself_is_told_to_give_the_one_above(tmp_path, images):
    assert "Fix: give the folder above it" in stop([images / "no tumour"], tmp_path / "out")


def test_a_dataset_that_names_folders_otherwise_is_prepared_again_and_any_other_is_not(
    tmp_path, halves, images, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        patch.setattr(module, "NAMING", 1)
        for source in (halves, images):
            prepare([source], tmp_path / f"out {source.name}", size=64)

    for source in (halves, images):
        with caplog.at_level("INFO"):
            prepare([source], tmp_path / f"out {source.name}", size=64)

    kept = [record.args[0].name for record in caplog.records if record.msg.startswith("nothing has changed")]
    assert kept == ["out images"]


def test_near_duplicates_in_folders_of_two_patients_make_them_one(tmp_path):
    for number, place in [(0, "a"), (1, "a"), (1, "copies of a"), (2, "b")]:
        folder = tmp_path / "images" / "glioma" / place
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number) // (2 if "copies" in place else 1)).save(folder / f"{number}.png")

    dataset = prepare([tmp_path / "images"], tmp_path / "out", size=64)

    assert sorted(dataset.patients) == [*["folder-images/glioma/a"] * 3, "folder-images/glioma/b"]
    with pytest.raises(InputError, match=r"found 2 patients; .* put slices directly into the class folders"):
        folds_of(dataset)


def test_a_linked_folder_is_refused_by_name(tmp_path, images):
    (images / "pituitary").symlink_to(images / "no tumour", target_is_directory=True)

    assert "images/pituitary: found a linked folder" in stop([images], tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, images, monkeypatch):
    shut, opened = images / "glioma_tumor", os.scandir

    def scandir(path):  # root may read whatever it likes
        if str(path) == str(shut):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)

    assert "images/glioma_tumor: found Permission denied" in stop([images], tmp_path / "out")


def test_both_kinds_in_one_source_or_one_source_within_another_are_refused(tmp_path, figshare, images):
    assert "6 .mat files and 4 images" in stop([tmp_path], tmp_path.parent / "out")
    assert "a folder within" in stop([figshare, figshare / "first half"], tmp_path / "out")


@pytest.mark.parametrize(
    ("folds", "words"),
    [(np.ones(19), ["19 folds", "at least 20"]), (np.full(20, 1.5), ["1.5"]), (np.ones((3, 20)), ["one vector"])],
)
def test_wrong_fold_file_is_refused_before_reading(tmp_path, figshare, folds, words):
    with h5py.File(figshare / "cvind.mat", "w") as file:
        file["cvind"] = folds

    def never(done, total):
        raise AssertionError("a scan was read")

    message = stop([figshare], tmp_path / "out", progress=never)
    for word in ("cvind.mat", *words):
        assert word in message


def test_fold_file_that_splits_a_patient_is_refused(tmp_path, figshare):
    folds = np.ones(25)
    folds[11] = 2
    write_cvind(figshare / "cvind.mat", folds)

    assert "of the same patient in fold" in stop([figshare], tmp_path / "out")


def test_file_without_a_number_beside_a_fold_file_and_two_fold_files_are_refused(tmp_path, figshare):
    (figshare / "20.mat").rename(figshare / "twenty.mat")
    assert "twenty.mat: found a name without a number" in stop([figshare], tmp_path / "out")

    shutil.copy(figshare / "cvind.mat", figshare / "first half" / "cvind.mat")
    assert "2 fold files" in stop([figshare], tmp_path / "out")


def test_two_files_of_one_number_beside_a_fold_file_are_refused(tmp_path, figshare):
    for name in ("3.mat", "010.mat"):
        scan(figshare / name, seed=30)

    message = stop([figshare], tmp_path / "out")

    assert "first half/3.mat: found the number 3, as in " in message
    assert "Fix: keep one file for each number" in message

    (figshare / "cvind.mat").unlink()
    assert len(prepare([figshare], tmp_path / "out", size=64)) == 8


def test_a_place_where_no_folder_can_be_made_is_refused_before_anything_is_read(tmp_path, figshare):
    (tmp_path / "a file").touch()

    assert "a file: found a file; expected a folder to write out in" in stop([figshare], tmp_path / "a file" / "out")


def test_what_is_no_dataset_is_never_written_over(tmp_path, figshare):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "manifest.json").write_text('{"kind": "something else"}')
    (tmp_path / "file").write_text("x")

    for name in ("thesis", "file"):
        assert f"{name}: found files that are no dataset" in stop([figshare], tmp_path / name)
    assert json.loads((tmp_path / "thesis" / "manifest.json").read_text()) == {"kind": "something else"}
    assert (tmp_path / "file").read_text() == "x"


def test_a_dataset_is_not_renewed_over_files_that_are_none_of_its_own(tmp_path, figshare, prepared):
    (prepared / ".DS_Store").touch()  # of somebody who has looked
    prepare([figshare], prepared, size=80)
    prepare([figshare], prepared, size=64)
    (prepared / "notes").mkdir()
    (prepared / "notes" / "thesis.tex").write_text("years of work")

    prepare([figshare], prepared, size=64)  # nothing has changed, so nothing is renewed
    assert "thesis.tex: found a file that is none of the dataset's" in stop([figshare], prepared, size=128)
    assert (prepared / "notes" / "thesis.tex").read_text() == "years of work"


def test_dataset_is_kept_apart_from_the_scans(tmp_path, figshare):
    assert "shares files" in stop([figshare], figshare / "out")
    assert not (figshare / "out").exists()
    assert "no dataset" in stop([figshare], tmp_path)


@pytest.mark.parametrize("size", [63, 1025])
def test_size_out_of_range_is_refused(tmp_path, figshare, size):
    assert f"--size: found {size}; expected 64 to 1024" in stop([figshare], tmp_path / "out", size=size)


# Again, interrupted, full


@pytest.fixture
def prepared(tmp_path, figshare):
    prepare([figshare], tmp_path / "out", size=64)
    return tmp_path / "out"


def never_read(*arguments, **options):
    raise AssertionError("a scan was read again")


def test_preparing_again_reads_nothing(monkeypatch, prepared, figshare):
    before = (prepared / "manifest.json").stat().st_mtime_ns
    monkeypatch.setattr(module, "read_files", never_read)
    monkeypatch.setattr(module, "sha256", never_read)

    prepare([figshare], prepared, size=64)

    assert (prepared / "manifest.json").stat().st_mtime_ns == before


def test_touched_file_is_hashed_and_not_read_again(monkeypatch, prepared, figshare):
    os.utime(figshare / "20.mat", ns=(1, 1))
    monkeypatch.setattr(module, "read_files", never_read)

    assert len(prepare([figshare], prepared, size=64)) == 6


@pytest.mark.parametrize("change", ["content", "fold file", "new file", "lost file", "size"])
def test_any_change_makes_the_dataset_anew(prepared, figshare, change):
    before, size = open_dataset(prepared).hash, 64
    if change == "content":
        scan(figshare / "20.mat", seed=21, patient="C", label=3)
    elif change == "fold file":
        write_cvind(figshare / "cvind.mat", np.zeros(25))
    elif change == "new file":
        scan(figshare / "21.mat", seed=21)
    elif change == "lost file":
        (figshare / "20.mat").unlink()
    else:
        size = 80

    assert prepare([figshare], prepared, size=size).hash != before
    assert not hidden(prepared.parent)


def test_a_dataset_behind_a_link_is_renewed_where_it_lies(tmp_path, prepared, figshare):
    before = open_dataset(prepared).hash
    (tmp_path / "link").symlink_to(prepared)
    scan(figshare / "21.mat", seed=21)

    after = prepare([figshare], tmp_path / "link", size=64).hash

    assert (tmp_path / "link").is_symlink() and open_dataset(prepared).hash == after != before
    assert not hidden(tmp_path)


def test_damaged_dataset_is_made_anew(prepared, figshare):
    before = open_dataset(prepared).hash
    with (prepared / "slices.arrow").open("r+b") as file:
        file.seek(5000)
        file.write(b"broken")

    assert prepare([figshare], prepared, size=64).hash == before


def test_a_dataset_whose_manifest_is_cut_off_is_not_written_over_and_the_way_out_is_named(prepared, figshare):
    (prepared / "manifest.json").write_text('{"kind": "neur')

    message = stop([figshare], prepared, size=64)

    assert "manifest.json: found no readable JSON" in message and f"rm -r {prepared} and the same command" in message
    assert (prepared / "slices.arrow").exists()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (OSError(errno.EIO, "Input/output error"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full disk", "broken disk", "interrupted"],
)
def test_failure_while_writing_leaves_the_dataset_before_it_and_nothing_else(
    monkeypatch, prepared, figshare, raised, expected
):
    before = open_dataset(prepared).hash
    scan(figshare / "21.mat", seed=21)

    def fails(folder, *arguments, **options):
        (folder / "slices.arrow").write_bytes(b"half")
        raise raised

    monkeypatch.setattr(module, "write_dataset", fails)
    with pytest.raises(expected):
        prepare([figshare], prepared, size=64)

    assert open_dataset(prepared).hash == before
    assert not hidden(prepared.parent)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system here; the test above raises ENOSPC instead")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # lazy: datasets in it may still be mapped


@pytest.mark.parametrize("size", [112, 256], ids=["full at the second writing", "full at the first"])
def test_full_disk_is_one_line_and_leaves_what_was_there(small_disk, figshare, size):
    before = prepare([figshare], small_disk / "out", size=64).hash  # 24 KiB of pixels; then 74 or 384

    message = stop([figshare], small_disk / "out", size=size)

    assert "no space left on the disk" in message and "\n" not in message
    assert open_dataset(small_disk / "out").hash == before and not hidden(small_disk)


def test_killed_run_leaves_no_half_dataset_and_no_workers_and_the_next_one_cleans_up(tmp_path, figshare):
    script = """
        import pathlib, sys, time
        from neuralblack.data.prepare import prepare

        def stall(done, total):
            pathlib.Path(sys.argv[3]).touch()
            time.sleep(600)

        if __name__ == "__main__":
            prepare([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), size=64, workers=2, progress=stall)
    """
    (tmp_path / "run.py").write_text(textwrap.dedent(script))
    out, started = tmp_path / "out", tmp_path / "started"
    run = subprocess.Popen([sys.executable, tmp_path / "run.py", figshare, out, started])
    try:
        wait_until(started.exists)
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()

    assert workers and not out.exists() and len(hidden(tmp_path)) == 1
    wait_until(lambda: not any(running(pid) for pid in workers))
    assert len(prepare([figshare], out, size=64)) == 6
    assert not hidden(tmp_path)


def test_ctrl_c_while_workers_start_is_one_line_and_leaves_nothing(tmp_path, figshare):
    script = """
        import pathlib, signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
        from neuralblack.cli import run_verb
        from neuralblack.data.prepare import prepare

        def verb():
            prepare(
                [pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]), size=64, workers=2,
                progress=lambda done, total: time.sleep(600),
            )

        if __name__ == "__main__":
            run_verb(verb)
    """
    (tmp_path / "run.py").write_text(textwrap.dedent(script))
    command = [sys.executable, tmp_path / "run.py", figshare, tmp_path / "out"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    try:
        wait_until(lambda: any(map(is_worker, children.read_text().split())))
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        said = run.communicate(timeout=60)[1]
    finally:
        run.kill()

    assert (run.returncode, said) == (130, "neuralblack: interrupted\n")
    assert not (tmp_path / "out").exists() and not hidden(tmp_path)


def test_dataset_moved_aside_by_a_killed_run_is_put_back(prepared, figshare):
    prepared.rename(prepared.with_name(".out.0123abcd.old"))
    (prepared.with_name(".out.0123abcd")).mkdir()
    other = prepared.with_name(".out.of another program")
    other.mkdir()
    (figshare / "20.mat").write_text("now bad, so nothing new is made")

    stop([figshare], prepared, size=64)

    assert len(open_dataset(prepared)) == 6
    assert hidden(prepared.parent) == [other.name]


def is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def wait_until(condition, deadline_s=60):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.02)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except FileNotFoundError:
        return False
