from dataclasses import replace

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.data.duplicates import groups, near_duplicates
from neuralblack.data.mat_writer import write_cvind, write_mat
from neuralblack.data.phantoms import TUMOURS, VIEWS, Patient, draw_phantom, write_phantoms
from neuralblack.data.preprocessing import Preprocessing, preprocess
from neuralblack.data.slices import MAX_SIDE
from neuralblack.errors import InputError
from neuralblack.labels import CLASSES

CUTS = [(label, view) for label in TUMOURS for view in VIEWS]


def everything_in(folder):
    """Pixels and words of every file, by name: HDF5 stamps no time into what is compared."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".mat":
            with h5py.File(path) as file:
                found[path.name] = {name: file["cjdata"][name][()].tobytes() for name in file.get("cjdata", [])}
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def test_same_seed_draws_the_same_scans_and_another_seed_draws_others(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        write_phantoms(tmp_path / name, patients=4, slices=1, size=64, seed=seed)

    first, again, other = (everything_in(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert all(first[name] != other[name] for name in first if name != "cvind.mat")


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize(("label", "view"), CUTS)
def test_tumour_is_seen_inside_its_mask_and_changes_little_elsewhere(label, view, size):
    for seed in range(6):
        patient = Patient.draw(label, seed=seed)
        ill = draw_phantom(patient, view, size=size)
        well = draw_phantom(replace(patient, tumour=None), view, size=size)
        change = np.abs(ill.image.astype(float) - well.image) / np.percentile(well.image, 99.5)

        assert 5 * (size // 64) ** 2 < ill.mask.sum() < size * size / 8
        assert change[ill.mask].mean() > (0.05 if patient.tumour.variant == "faint" else 0.1)
        assert change[ill.mask].mean() > 3 * change[~ill.mask].mean()


def test_tumours_differ_in_brightness_as_the_real_ones_do():
    shares = {}
    for label in TUMOURS:
        slices = [draw_phantom(Patient.draw(label, seed=seed), "axial", size=128) for seed in range(12)]
        shares[label] = np.mean([np.mean(one.image[one.mask] > 0.4 * np.percentile(one.image, 99.5)) for one in slices])

    assert shares["meningioma"] > 0.9  # evenly bright
    assert shares["glioma"] < 0.6  # a ring about a dark core


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize(("label", "view"), CUTS)
def test_border_runs_around_the_mask(label, view, offset):
    phantom = draw_phantom(Patient.draw(label, seed=3), view, offset=offset, size=128)
    x, y = phantom.border.reshape(-1, 2).T
    rows, columns = np.nonzero(phantom.mask)

    assert columns.min() == pytest.approx(x.min(), abs=1.5)
    assert columns.max() == pytest.approx(x.max(), abs=1.5)
    assert rows.min() == pytest.approx(y.min(), abs=1.5)
    assert rows.max() == pytest.approx(y.max(), abs=1.5)


@pytest.mark.parametrize("view", VIEWS)
def test_healthy_head_has_no_mask_and_no_border(view):
    phantom = draw_phantom(Patient.draw("no tumour", seed=0), view, size=64)

    assert not phantom.mask.any()
    assert phantom.border.size == 0
    assert phantom.image.max() > 300


def test_neighbouring_slices_of_a_patient_resemble_each_other_more_than_those_of_two():
    def picture(seed, offset):
        return draw_phantom(Patient.draw("glioma", seed=seed), "axial", offset=offset, size=64).image.ravel()

    near, far = np.corrcoef([picture(0, 0.0), picture(0, 0.4), picture(1, 0.0)])[0, 1:]

    assert near > far


def test_healthy_neighbours_are_known_as_slices_of_one_person_and_of_one_only():
    series, pictures = [], []
    for seed in range(4):
        for view in VIEWS:
            for offset in (-1, 0, 1):
                slice_ = draw_phantom(Patient.draw("no tumour", seed=seed), view, offset=offset, size=256).image
                pictures.append(preprocess(slice_, Preprocessing(), where="a phantom"))
                series.append((seed, view))

    found = groups(len(pictures), near_duplicates(np.stack(pictures)).tolist())

    assert len(set(found)) == len(set(zip(found, series, strict=True))) == len(set(series))


def test_no_brightness_tells_a_healthy_file_from_the_others():
    peaks = {
        label: [draw_phantom(Patient.draw(label, seed=s), "axial", size=64).image.max() for s in range(12)]
        for label in CLASSES
    }

    assert max(min(values) for values in peaks.values()) < min(max(values) for values in peaks.values())


def test_files_have_the_archives_layout(tmp_path):
    count = write_phantoms(tmp_path / "out", patients=8, slices=2, size=64)

    mats = sorted((tmp_path / "out/figshare").glob("[0-9]*.mat"))
    pictures = sorted((tmp_path / "out/images/no tumour").glob("*.png"))
    assert count == len(mats) + len(pictures) == 8 * 3 * 2
    assert [path.name for path in pictures][:2] == ["p000_axial_1.png", "p000_axial_2.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.mode == "I;16"
    with h5py.File(mats[0]) as file:
        assert file.userblock_size == 512
        group = file["cjdata"]
        assert group["label"].shape == (1, 1)
        assert group["image"].dtype == np.int16
        assert group["tumorMask"].dtype == np.uint8
        assert "".join(map(chr, group["PID"][()].ravel())) == "phantom001"
    with h5py.File(tmp_path / "out/figshare/cvind.mat") as file:
        assert file["cvind"].shape == (1, len(mats))
    assert mats[0].read_bytes()[124:128] == b"\x00\x02IM"


def test_every_patient_is_in_one_fold_and_every_fold_has_every_tumour(tmp_path):
    write_phantoms(tmp_path / "out", patients=20, slices=1, size=64)

    with h5py.File(tmp_path / "out/figshare/cvind.mat") as file:
        folds = file["cvind"][0]
    owners, kinds = {}, {}
    for number, fold in enumerate(folds, start=1):
        with h5py.File(tmp_path / f"out/figshare/{number}.mat") as file:
            owners.setdefault(file["cjdata/PID"][()].tobytes(), set()).add(fold)
            kinds.setdefault(fold, set()).add(file["cjdata/label"][()].item())
    assert all(len(found) == 1 for found in owners.values())
    assert kinds == {fold: {1, 2, 3} for fold in range(1, 6)}


def test_arrays_are_stored_transposed_as_matlab_does(tmp_path):
    image = np.arange(12, dtype=np.int16).reshape(3, 4)
    write_mat(tmp_path / "a.mat", label=2, patient="é7", image=image, mask=image > 5, border=np.arange(6.0))
    write_cvind(tmp_path / "cvind.mat", np.array([1, 0, 5]))

    with h5py.File(tmp_path / "a.mat") as file:
        assert np.array_equal(file["cjdata/image"][()], image.T)
        assert np.array_equal(file["cjdata/tumorMask"][()], (image > 5).T)
        assert file["cjdata/tumorBorder"][()].tolist() == [[0, 1, 2, 3, 4, 5]]
        assert file["cjdata/PID"][()].tolist() == [[ord("é")], [ord("7")]]
    with h5py.File(tmp_path / "cvind.mat") as file:
        assert file["cvind"][()].tolist() == [[1, 0, 5]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patients": 3}, ["--patients", "found 3", "4 or more"]),
        ({"slices": 0}, ["--slices", "found 0"]),
        ({"size": 8}, ["--size", "found 8"]),
    ],
    ids=["patients", "slices", "size"],
)
def test_numbers_that_make_no_dataset_are_refused(tmp_path, options, words):
    with pytest.raises(InputError) as error:
        write_phantoms(tmp_path / "out", **options)

    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size", "status"), [(MAX_SIDE, 0), (MAX_SIDE + 1, 2)])
def test_the_command_draws_nothing_larger_than_prepare_reads(size, status, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("neuralblack.data.phantoms.write_phantoms", lambda *_, size, **__: drawn.append(size))

    done = CliRunner().invoke(app, ["phantoms", str(tmp_path / "out"), "--size", str(size)])

    assert (done.exit_code, drawn) == (status, [size] * (status == 0))


def test_phantoms_take_the_place_of_phantoms_and_of_nothing_else(tmp_path, caplog):
    caplog.set_level("INFO")
    out, scans = tmp_path / "out", tmp_path / "out" / "figshare"
    for said in ([], [f"the phantoms that were in {out} before are replaced"]):
        write_phantoms(out, patients=4, slices=1, size=64)
        assert caplog.messages == said

    def refused():
        with pytest.raises(InputError, match="found something that is no phantoms; expected a new folder"):
            write_phantoms(out, patients=4, slices=1, size=64)
        return True

    (scans / ".DS_Store").touch()  # of somebody who has looked
    write_phantoms(out, patients=4, slices=1, size=64)
    (scans / "thesis.tex").write_text("years of work")
    assert refused() and (scans / "thesis.tex").read_text() == "years of work"
    (scans / "thesis.tex").unlink()
    pixels = np.zeros((64, 64), np.int16)
    write_mat(scans / "1.mat", label=1, patient="100360", image=pixels, mask=pixels > 0, border=np.zeros(4))
    assert refused(), "it may be the archive itself"


def test_unknown_view_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="axial, coronal, sagittal"):
        draw_phantom(Patient.draw("glioma", seed=0), "oblique", size=64)
