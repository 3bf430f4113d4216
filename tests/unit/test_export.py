"""A dataset goes out as an image database by class, whole or cut to the tumour, and comes back in."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.data.export import export
from neuralblack.data.prepare import prepare
from neuralblack.data.write_shards import write_shards
from neuralblack.errors import InputError


def table_of(folder):
    with (folder / "slices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_slice_is_a_picture_in_the_folder_of_its_class(dataset, tmp_path):
    counts = export(dataset, tmp_path / "out")

    rows = table_of(tmp_path / "out")
    assert len(rows) == len(dataset) == counts.total()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "no_tumour", "glioma", "meningioma", "pituitary", "slices.csv"
    }  # fmt: skip
    for row, about in enumerate(rows):
        with Image.open(tmp_path / "out" / about["file"]) as picture:
            assert picture.mode == "L" and np.array_equal(picture, dataset.images[row])
        assert (about["id"], about["label"]) == (dataset.ids[row], dataset.labels[row])
        assert (about["patient"], int(about["fold"])) == (dataset.patients[row], dataset.folds[row])


def test_what_went_out_comes_back_in_with_the_same_classes(dataset, tmp_path):
    counts = export(dataset, tmp_path / "out")

    again = prepare([tmp_path / "out"], tmp_path / "again", size=dataset.spec.size, workers=1)

    assert {name: again.labels.count(name) for name in again.classes} == dict(counts)


def test_cut_to_the_tumour_only_outlined_slices_are_there_and_the_box_is_in_the_middle(dataset, tmp_path):
    said = CliRunner().invoke(app, ["export", str(dataset.path), str(tmp_path / "out"), "--crop", "roi"]).stdout

    rows = table_of(tmp_path / "out")
    boxed = [row for row in range(len(dataset)) if dataset.boxes[row][0] >= 0]
    assert [about["id"] for about in rows] == [dataset.ids[row] for row in boxed]
    assert f"{len(dataset) - len(boxed)} slices without an outlined tumour are left out" in said
    for row, about in zip(boxed, rows, strict=True):
        x0, y0, x1, y1 = dataset.boxes[row]
        with Image.open(tmp_path / "out" / about["file"]) as picture:
            pixels = np.array(picture)
        assert pixels.shape[0] == pixels.shape[1] >= max(x1 - x0, y1 - y0)
        inside = dataset.images[row][y0:y1, x0:x1]
        windows = np.lib.stride_tricks.sliding_window_view(pixels, inside.shape)
        assert (windows == inside).all((2, 3)).any()


def test_slices_of_one_name_do_not_overwrite_each_other(dataset, tmp_path):
    dataset = replace(dataset, ids=[f"a/{'B' if row % 2 else 'b'}?" for row in range(len(dataset))])

    counts = export(dataset, tmp_path / "out")

    names = [about["file"].casefold() for about in table_of(tmp_path / "out")]
    assert len(set(names)) == len(dataset) == counts.total()


def test_names_too_long_for_a_file_are_cut_and_numbered(dataset, tmp_path):
    dataset = replace(dataset, ids=[f"{'folder of scans/' * 20}{row}é.png" for row in range(len(dataset))])

    export(dataset, tmp_path / "out")

    names = [about["file"] for about in table_of(tmp_path / "out")]
    assert names[7].endswith("~7.png") and all((tmp_path / "out" / name).is_file() for name in names)


def test_a_folder_that_is_there_is_not_touched_and_nothing_to_cut_to_is_said(dataset, tmp_path):
    (tmp_path / "kept").mkdir()
    with pytest.raises(InputError, match="something there already"):
        export(dataset, tmp_path / "kept")
    without = replace(dataset, boxes=np.full_like(dataset.boxes, -1))
    with pytest.raises(InputError, match="no slice with an outlined tumour"):
        export(without, tmp_path / "out", roi=True)

    assert not any((tmp_path / "kept").iterdir()) and not (tmp_path / "out").exists()


def test_nothing_is_written_into_the_datasets_own_folder(dataset, tmp_path):
    (tmp_path / "link").symlink_to(dataset.path)
    before = sorted(dataset.path.iterdir())

    for place in (dataset.path / "out", tmp_path / "link" / "out"):
        with pytest.raises(InputError, match=f"{place}: found a place in the dataset .*; expected a folder apart"):
            export(dataset, place)
        with pytest.raises(InputError, match="expected a folder apart"):
            write_shards(dataset, str(place))

    assert sorted(dataset.path.iterdir()) == before
