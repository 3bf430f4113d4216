"""What readers said joins a dataset where it can be learnt from without touching what is tested."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.data.dataset import LEARNT_ONLY, NAMES, open_dataset
from neuralblack.data.describe import describe_dataset
from neuralblack.data.feedback import Feedback, Said, keyed, write_feedback
from neuralblack.data.join_feedback import COPY, DISAGREE, KNOWN, OTHERWISE, REPLACED, join_feedback
from neuralblack.data.mat_writer import write_mat
from neuralblack.data.phantoms import Patient, draw_phantom
from neuralblack.data.places import Place
from neuralblack.data.prepare import prepare
from neuralblack.data.preprocessing import preprocess
from neuralblack.data.splits import make_split
from neuralblack.data.write_shards import write_shards
from neuralblack.errors import InputError
from neuralblack.files import write_manifest

KEY = b"k" * 32
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def head(dataset, seed):
    """A prepared slice of a made-up head that is not in the dataset."""
    phantom = draw_phantom(Patient.draw("glioma", seed=1000 + seed), "axial", size=96)
    return preprocess(phantom.image, dataset.spec, where="a phantom")


class Folder:
    """What a service kept, said one after another."""

    def __init__(self, path, dataset):
        self.path, self.spec, self.count = path, dataset.spec, 0
        path.mkdir()

    def say(self, pixels, label="glioma", *, reader="anna", patient=None, spec=None):
        self.count += 1
        feedback = Feedback(
            at=NOON + timedelta(minutes=self.count),
            reader=reader,
            label=label,
            answer=Said(status="refused"),
            model="0" * 64,
            patient=keyed(KEY, patient) if patient else None,
            preprocessing=spec or self.spec,
        )
        name = f"{self.count:032x}"
        write_feedback(self.path, name, feedback, pixels)
        return name


@pytest.fixture
def folder(dataset, tmp_path):
    return Folder(tmp_path / "kept", dataset)


def test_slices_join_behind_the_others_and_are_only_learnt_from(dataset, folder, tmp_path):
    slices = [head(dataset, seed) for seed in range(3)]
    for pixels, patient in zip(slices, ("new", "new", None), strict=True):
        folder.say(pixels, patient=patient)

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    count = len(dataset)
    assert joined.ids[:count] == dataset.ids and np.array_equal(joined.folds[:count], dataset.folds)
    assert np.array_equal(joined.images[:count], dataset.images) and np.array_equal(joined.boxes[:count], dataset.boxes)
    assert np.array_equal(joined.images[count:], slices) and set(joined.folds[count:]) == {LEARNT_ONLY}
    assert len(set(joined.patients[count:])) == 2 and joined.sources[count:] == ["feedback"] * 3
    before, after = (make_split(each, train=None, validation=[2], test=[1]) for each in (dataset, joined))
    assert np.array_equal(before.test, after.test) and np.array_equal(before.validation, after.validation)
    assert set(after.train) - set(before.train) == {count, count + 1, count + 2}
    rows = dict(describe_dataset(joined))
    assert "only learnt from: 3" in rows["folds"] and rows["feedback"].startswith("3 slices")


def test_what_could_leak_or_is_not_sure_is_left_out_and_listed(dataset, folder, tmp_path):
    named = next(patient for patient in dataset.patients if not patient.startswith("group-"))
    good = folder.say(head(dataset, 0))
    names = {
        KNOWN: [folder.say(head(dataset, 1), patient=named)],
        COPY: [folder.say(dataset.images[0][:, ::-1])],
        DISAGREE: [folder.say(head(dataset, 2), "glioma"), folder.say(head(dataset, 2), "pituitary", reader="ben")],
        REPLACED: [folder.say(head(dataset, 3), "meningioma")],
        OTHERWISE: [folder.say(head(dataset, 4), spec=dataset.spec.model_copy(update={"clip_percent": 1.0}))],
    }
    changed = folder.say(head(dataset, 3), "pituitary")

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert joined.ids[len(dataset) :] == [f"feedback/{good}", f"feedback/{changed}"]
    assert joined.labels[-1] == "pituitary"
    assert joined.manifest["feedback"]["left_out"] == names
    assert "1 that are copies of slices of the dataset" in [words for _, words in describe_dataset(joined)]


@pytest.mark.parametrize("reader", ["anna", "ben"])
@pytest.mark.parametrize("patient", [None, "p1 of another house"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_picture_of_a_known_patient_is_left_out_whoever_else_sent_it(
    mirrored, patient, reader, dataset, folder, tmp_path
):
    named = next(patient for patient in dataset.patients if not patient.startswith("group-"))
    picture = head(dataset, 1)
    names = [
        folder.say(picture[:, ::-1] if mirrored else picture, reader=reader, patient=patient),
        folder.say(picture, patient=named),
        folder.say(picture, reader="carl"),
    ]
    folder.say(head(dataset, 0))

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert joined.manifest["feedback"]["left_out"][KNOWN] == names and len(joined) == len(dataset) + 1


@pytest.mark.parametrize("known_by", [COPY, KNOWN])
def test_who_is_known_by_one_slice_is_known_by_all_that_are_called_so(known_by, dataset, folder, tmp_path):
    named = next(patient for patient in dataset.patients if not patient.startswith("group-"))
    other = folder.say(head(dataset, 1), patient="their other name")
    if known_by == COPY:
        folder.say(dataset.images[0], patient="their other name")
    else:
        folder.say(head(dataset, 2), patient="their other name")
        folder.say(head(dataset, 2), reader="ben", patient=named)
    folder.say(head(dataset, 0), patient="new")

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert other in joined.manifest["feedback"]["left_out"][KNOWN] and len(joined) == len(dataset) + 1


def test_a_picture_that_was_prepared_otherwise_says_whose_it_is(dataset, folder, tmp_path):
    named = next(patient for patient in dataset.patients if not patient.startswith("group-"))
    otherwise = dataset.spec.model_copy(update={"clip_percent": 1.0})
    folder.say(head(dataset, 1), patient=named, spec=otherwise)
    again = folder.say(head(dataset, 1))
    folder.say(head(dataset, 0))

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert joined.manifest["feedback"]["left_out"][KNOWN] == [again]


@pytest.fixture
def merged(tmp_path):
    """A dataset of two hospitals with three people of two names each, who are one for their pictures."""
    for place, names in (("first", "ABC"), ("second", "XYZ")):
        (tmp_path / place).mkdir()
        for number, patient in enumerate(names):
            image = draw_phantom(Patient.draw("glioma", seed=number), "axial", size=96).image
            mask = np.zeros(image.shape, bool)
            mask[20:30, 20:30] = True
            at = tmp_path / place / f"{number + 1}.mat"
            write_mat(at, label=1 + number, patient=f"{patient}1", image=image, mask=mask, border=np.zeros(4))
    return prepare([tmp_path / "first", tmp_path / "second"], tmp_path / "merged", size=64)


@pytest.mark.parametrize("sharded", [False, True], ids=["the dataset", "its shards"])
def test_a_patient_of_two_names_is_known_by_either(merged, cache, sharded, tmp_path):
    dataset = merged
    if sharded:
        write_shards(dataset, str(tmp_path / "shards"))
        dataset = open_dataset(tmp_path / "shards")
    folder = Folder(tmp_path / "kept", dataset)
    names = [folder.say(head(dataset, number), patient=name) for number, name in enumerate(("A1", "X1", "Z1"))]
    folder.say(head(dataset, 7), patient="new")

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert set(merged.patients) == {"A1", "B1", "C1"} and dataset.other_names == joined.other_names
    assert joined.manifest["feedback"]["left_out"][KNOWN] == names
    assert len(joined) == len(merged) + 1
    assert "X1" not in (tmp_path / "out" / "manifest.json").read_text()


def test_the_command_takes_the_address_of_shards(dataset, folder, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURALBLACK_FEEDBACK_KEY", KEY.decode())
    folder.say(head(dataset, 0))
    write_shards(dataset, str(tmp_path / "shards"))
    address = (tmp_path / "shards").as_uri()

    done = CliRunner().invoke(app, ["feedback", str(folder.path), address, "--out", str(tmp_path / "out")])

    assert done.exit_code == 0 and len(open_dataset(tmp_path / "out")) == len(dataset) + 1


def test_where_the_node_has_room_for_one_shard_each_is_fetched_once_to_look_and_once_to_copy(
    dataset, folder, bucket, cache, tmp_path, monkeypatch
):
    folder.say(head(dataset, 0))
    write_shards(dataset, "s3://slices/all", slices=10)
    one = bucket.head_object(Bucket="slices", Key="all/00000.arrow")["ContentLength"]
    monkeypatch.setenv("NEURALBLACK_CACHE_GIB", str(1.5 * one / 2**30))
    monkeypatch.setattr("neuralblack.data.join_feedback.PIECE", 7)
    fetch, fetched = Place.fetch, []
    monkeypatch.setattr(Place, "fetch", lambda *each: fetched.append(each[1]) or fetch(*each))

    joined = join_feedback(folder.path, open_dataset("s3://slices/all"), tmp_path / "out", key=KEY)

    assert joined.hash == join_feedback(folder.path, dataset, tmp_path / "other", key=KEY).hash
    assert max(Counter(fetched).values()) == 2 and len(set(fetched)) == 6


def test_a_patient_whom_a_folder_names_is_known_by_its_last_part(tmp_path):
    for number, place in enumerate(["glioma/p7/t1", "glioma/p7 again", "pituitary/p8", "pituitary"]):
        at = tmp_path / "fold" / place / f"{number % 2}.png"  # the second shows the first one's picture
        at.parent.mkdir(parents=True, exist_ok=True)
        image = draw_phantom(Patient.draw("glioma", seed=max(1, number)), "axial", size=96).image
        Image.fromarray((image / image.max() * 255).astype(np.uint8)).save(at)
    dataset = prepare([tmp_path / "fold"], tmp_path / "slices", size=64)
    folder = Folder(tmp_path / "kept", dataset)
    known = [folder.say(head(dataset, number), patient=name) for number, name in enumerate(("p7", "p7 again", "p8"))]
    for number, name in enumerate(("p9", "glioma", "t1", None), start=3):
        folder.say(head(dataset, number), patient=name)

    joined = join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)

    assert joined.manifest["feedback"]["left_out"][KNOWN] == known and len(joined) == len(dataset) + 4


def test_a_dataset_that_holds_one_name_of_two_is_to_be_prepared_again_and_stays_the_same(merged, tmp_path):
    path = tmp_path / "merged"
    (path / NAMES).unlink()
    kept = {name: value for name, value in merged.manifest.items() if name != "files"}
    (path / "manifest.json").unlink()
    write_manifest(path, kept)
    folder = Folder(tmp_path / "kept", merged)
    folder.say(head(merged, 0), patient="X1")

    with pytest.raises(InputError, match=r"3 patients who have several names.*prepare it again"):
        join_feedback(folder.path, open_dataset(path), tmp_path / "out", key=KEY)
    again = prepare([tmp_path / "first", tmp_path / "second"], path, size=64)

    assert again.hash == merged.hash and again.other_names == merged.other_names


def test_two_readers_who_agree_are_one_slice(dataset, folder, tmp_path):
    for reader in ("anna", "ben"):
        folder.say(head(dataset, 0), reader=reader)

    assert len(join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)) == len(dataset) + 1


def test_a_reader_who_changes_twice_counts_once(dataset, folder, tmp_path):
    for label in ("glioma", "pituitary", "glioma"):
        folder.say(head(dataset, 0), label)

    assert join_feedback(folder.path, dataset, tmp_path / "out", key=KEY).labels[-1] == "glioma"


def test_nothing_that_can_be_learnt_from_is_said_and_nothing_is_written(dataset, folder, tmp_path):
    folder.say(dataset.images[0])

    with pytest.raises(InputError, match="none of which"):
        join_feedback(folder.path, dataset, tmp_path / "out", key=KEY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["no folder", "another picture", "out exists", "twice"])
def test_what_cannot_be_joined_is_named(case, dataset, folder, tmp_path):
    folder.say(head(dataset, 0))
    path, base, out, words = folder.path, dataset, tmp_path / "out", case
    if case == "no folder":
        path = tmp_path / "nowhere"
    elif case == "another picture":
        (path / "other.png").write_bytes(b"no picture")
        words = "other.png"
    elif case == "out exists":
        out.mkdir()
        words = "something there"
    else:
        base = join_feedback(path, dataset, out, key=KEY)
        out, words = tmp_path / "again", "with feedback in it"

    with pytest.raises(InputError, match=words):
        join_feedback(path, base, out, key=KEY)
