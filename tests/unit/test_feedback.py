"""What a reader says of a slice: who may, what is kept of it, and that it is kept once."""

import errno
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.service import MODEL, NO, READER_TOKEN, SLICE, Service, assert_problem, feedback_folder, png
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.data.feedback import KEPT_BY, erase_patient, key_from, keyed, list_feedback, read_feedback
from neuralblack.data.join_feedback import join_feedback
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.errors import InputError
from neuralblack.service.auth import readers_from
from neuralblack.service.example_slices import draw_example
from neuralblack.service.feedback import need_secrets, open_feedback

TOKEN = "correct-horse-battery-staple"
KEY = "0f" * 16


def service(folder, **options):
    kept = feedback_folder(folder)
    return Service(**({"feedback": kept, "readers": kept.readers} | options))


def say(to, *, label="glioma", patient="p1", key="key-0001", content=None, token=READER_TOKEN, **fields):
    return to.request(
        "POST",
        "/feedback",
        files={"file": ("Jane Doe.png", content or png(), "image/png")},
        data={"label": label, "patient": patient} | fields,
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
    )


async def opened(data):
    """A decoder that tells pictures apart."""
    return np.asarray(Image.open(io.BytesIO(data)))


def grey(value):
    """A picture of its own."""
    buffer = io.BytesIO()
    Image.new("L", (64, 64), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_a_reader_says_is_on_the_disk_with_the_slice_as_the_model_saw_it(tmp_path):
    response = say(service(tmp_path))

    assert response.status_code == 200
    assert {"status": "kept", "label": "glioma", "agrees": False}.items() <= response.json().items()
    assert response.headers["cache-control"] == "no-store"
    [path] = list_feedback(tmp_path)
    feedback, pixels = read_feedback(path)
    assert np.array_equal(pixels, SLICE)
    assert (feedback.reader, feedback.label, feedback.model) == ("anna", "glioma", MODEL["hash"])
    assert (feedback.answer.label, feedback.answer.probability) == ("pituitary", 0.75)
    assert feedback.patient == keyed(b"k" * 32, "p1")


def test_neither_the_patient_nor_the_files_name_is_kept(tmp_path):
    say(service(tmp_path), patient="Jane-Doe-1950")

    [path] = tmp_path.iterdir()
    assert b"Jane" not in path.read_bytes() and "Jane" not in path.name


def test_a_repetition_under_the_same_key_is_kept_once(tmp_path):
    to = service(tmp_path)

    assert [say(to).json()["status"] for _ in range(3)] == ["kept", "repeated", "repeated"]
    assert len(list_feedback(tmp_path)) == 1


def test_of_many_at_once_under_one_key_one_is_kept(tmp_path):
    to = service(tmp_path)

    with ThreadPoolExecutor(8) as threads:
        answers = [response.json()["status"] for response in threads.map(lambda _: say(to), range(24))]

    assert sorted(answers) == ["kept", *["repeated"] * 23]
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def test_something_else_under_the_same_key_is_refused_and_the_first_stays(tmp_path):
    to = service(tmp_path)
    say(to)

    assert_problem(say(to, label="pituitary"), 409, "other_feedback", "Use a new one")
    assert_problem(say(to, patient="p2"), 409, "other_feedback")
    assert [read_feedback(path)[0].label for path in list_feedback(tmp_path)] == ["glioma"]


def test_a_refused_slice_can_be_said_to_be_something(tmp_path):
    async def refuse(question):
        return NO

    assert say(service(tmp_path, classify=refuse)).status_code == 200

    feedback, _ = read_feedback(*list_feedback(tmp_path))
    assert (feedback.answer.status, feedback.answer.label, feedback.label) == ("refused", None, "glioma")


@pytest.mark.parametrize("token", [TOKEN, "wrong" * 5, ""], ids=["of-everybody", "wrong", "none"])
def test_only_a_reader_may_say_it(token, tmp_path):
    assert_problem(say(service(tmp_path, token=TOKEN), token=token), 401, "unauthorised", "reader")
    assert list(tmp_path.iterdir()) == []


def test_a_readers_token_opens_the_rest_too(tmp_path):
    response = service(tmp_path, token=TOKEN).predict(
        content=png(), headers={"Authorization": f"Bearer {READER_TOKEN}"}
    )

    assert response.status_code == 200


def test_switched_off_it_keeps_nothing_and_says_so():
    to = Service()

    assert_problem(say(to), 403, "feedback_off", "keeps no feedback")
    assert to.request("GET", "/model").json()["feedback"] is False


def test_the_facts_say_that_it_is_on(tmp_path):
    assert service(tmp_path).request("GET", "/model").json()["feedback"] is True


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"label": "glioblastoma"}, 422, "unknown_label"),
        ({"label": "no tumour"}, 422, "unknown_label"),  # a class, but not of this model
        ({"key": ""}, 422, "no_key"),
        ({"key": "short"}, 422, "no_key"),
        ({"patient": "x" * 200}, 422, "invalid_request"),
        ({"name": "Jane"}, 422, "invalid_request"),
        ({"content": b"no picture"}, 415, "unsupported"),
        ({"content": draw_example("glioma")}, 422, "made_up"),
        ({"content": png() + b"\0" * 100_000}, 413, "too_large"),
    ],
    ids=["class", "other-class", "no-key", "short-key", "patient", "field", "kind", "made-up", "size"],
)
def test_what_does_not_fit_is_refused_and_nothing_is_kept(options, status, code, tmp_path):
    assert_problem(say(service(tmp_path), **options), status, code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("charset", "patient", "status", "code"),
    [
        ("undefined", b"p1", 400, "bad_form"),
        ("punycode", b"p1", 400, "bad_form"),
        ("utf-7", b"+2AA-", 422, "invalid_request"),
        ("unicode_escape", rb"\udfff", 422, "invalid_request"),
        ("utf-7", b"p1", 200, None),
        ("nobody-knows-it", "Jané".encode(), 200, None),
    ],
)
def test_a_forms_charset_cannot_make_the_service_fail(charset, patient, status, code, tmp_path):
    fields = {b"label": b"glioma", b'file"; filename="a': png(), b"patient": patient}
    parts = (b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % each for each in fields.items())
    response = service(tmp_path).request(
        "POST",
        "/feedback",
        content=b"".join(parts) + b"--x--",
        headers={
            "Authorization": f"Bearer {READER_TOKEN}",
            "Idempotency-Key": "key-0001",
            "Content-Type": f"multipart/form-data; boundary=x; charset={charset}",
        },
    )

    if code is None:
        assert response.status_code == status and len(list_feedback(tmp_path)) == 1
    else:
        assert_problem(response, status, code)
        assert list(tmp_path.iterdir()) == []


def test_it_counts_as_no_slice_that_was_asked_about(tmp_path):
    heard = []
    to = service(tmp_path, listeners=[lambda *slice_: heard.append(slice_)])

    say(to)
    say(to)

    counted = to.request("GET", "/metrics").text
    assert heard == [] and 'neuralblack_labels_total{label="pituitary"}' not in counted
    assert 'neuralblack_requests_total{outcome="kept",route="feedback"} 1.0' in counted
    assert 'neuralblack_requests_total{outcome="repeated",route="feedback"} 1.0' in counted


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    assert_problem(say(service(tmp_path)), 507, "no_room", "Tell the operator")
    assert list(tmp_path.iterdir()) == []


def test_a_repetition_of_what_is_damaged_on_the_disk_hears_no_word_of_room_and_the_damaged_file_stays(tmp_path, caplog):
    to = service(tmp_path)
    say(to)
    [path] = list_feedback(tmp_path)
    path.write_bytes(half := path.read_bytes()[:200])

    assert_problem(say(to), 500, "damaged", "cannot be read any more", "Tell the operator")
    assert path.name in caplog.text and path.read_bytes() == half and list(tmp_path.iterdir()) == [path]
    assert say(to, key="key-0002").status_code == 200


def test_a_folder_that_is_gone_is_said_to_the_reader_and_in_the_log(tmp_path, caplog):
    (tmp_path / "kept").mkdir()
    to = service(tmp_path / "kept")
    shutil.rmtree(tmp_path / "kept")

    assert_problem(say(to), 507, "not_kept", "out of reach")
    assert str(tmp_path / "kept") in caplog.text
    (tmp_path / "kept").mkdir()
    assert say(to).status_code == 200, "and it goes on where the folder is there again"


def test_it_is_on_the_disk_before_it_is_answered(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))

    assert say(service(tmp_path)).status_code == 200

    assert [path.parent for path in synced] == [tmp_path, tmp_path.parent]  # the file, its folder


def bomb(_):
    """A picture of hundreds of megapixels, which Pillow refuses."""
    stream = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: data.replace(b"anna", b"ann\0"), bomb])
def test_a_damaged_file_is_named(damage, tmp_path):
    say(service(tmp_path))
    [path] = list_feedback(tmp_path)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(InputError, match=path.name):
        read_feedback(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("anna", "NAME=TOKEN"),
        (f"Anna={TOKEN}", "small letters"),
        ("anna=short", "5 characters"),
        (f"anna={TOKEN} anna={TOKEN}x", "there twice"),
        (f"anna={TOKEN} ben={TOKEN}", "a token twice"),
    ],
)
def test_readers_that_cannot_be_told_apart_are_refused_without_repeating_a_token(value, words):
    with pytest.raises(InputError, match="NEURALBLACK_READERS") as error:
        readers_from({"NEURALBLACK_READERS": value})

    assert words in str(error.value) and TOKEN not in str(error.value)


def test_a_readers_token_is_not_everybodys():
    with pytest.raises(InputError, match="a token twice"):
        readers_from({"NEURALBLACK_READERS": f"anna={TOKEN}", "NEURALBLACK_TOKEN": TOKEN})


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"NEURALBLACK_FEEDBACK_KEY": KEY}, "no readers"),
        ({"NEURALBLACK_READERS": f"anna={TOKEN}"}, "no key"),
        ({"NEURALBLACK_READERS": f"anna={TOKEN}", "NEURALBLACK_FEEDBACK_KEY": "short"}, "5 characters"),
    ],
    ids=["no-readers", "no-key", "short-key"],
)
def test_a_folder_is_not_opened_without_readers_and_a_key(environ, words, tmp_path):
    with pytest.raises(InputError, match=words):
        open_feedback(
            tmp_path / "new", environ, classes=("glioma",), model=MODEL["hash"], preprocessing=Preprocessing()
        )

    assert not (tmp_path / "new").exists()


class KilledError(BaseException):
    """Stands for a SIGKILL: nothing behind it is cleared up."""


def left_by_a_killed_replica(folder, patient, content=None):
    """Have a replica killed between a file's last byte and its name; returns what is there then."""
    before = set(folder.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", killed)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(KilledError):
            say(service(folder, decode=opened), patient=patient, key=f"key-of-{patient}", content=content)
    [left] = set(folder.iterdir()) - before
    return left


def killed(*_):
    raise KilledError


def test_what_a_killed_replica_left_of_a_patient_is_forgotten_too(tmp_path):
    left_by_a_killed_replica(tmp_path, "p1")
    other = left_by_a_killed_replica(tmp_path, "p2", grey(2))
    half = tmp_path / f".{'a' * 32}.{'b' * 8}"
    half.write_bytes(other.read_bytes()[:300])

    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (1, 0)
    assert list(tmp_path.iterdir()) == [other], "half a file is nobody's for certain, so it goes"


def test_a_slice_that_has_both_its_names_is_one(tmp_path):
    assert say(service(tmp_path)).status_code == 200
    [path] = list_feedback(tmp_path)
    os.link(path, tmp_path / f".{path.stem}.{'b' * 8}")

    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (1, 0)
    assert list(tmp_path.iterdir()) == []


def test_who_is_forgotten_while_a_slice_is_written_is_not_kept_and_the_reader_hears_it(tmp_path, monkeypatch):
    link = os.link

    def forgotten_before(source, target):
        assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (1, 0)
        link(source, target)

    monkeypatch.setattr(os, "link", forgotten_before)

    assert_problem(say(service(tmp_path)), 507, "not_kept")
    assert list(tmp_path.iterdir()) == []


def test_what_gets_its_name_while_its_patient_is_forgotten_is_forgotten(tmp_path, monkeypatch):
    assert say(service(tmp_path)).status_code == 200
    [path] = list_feedback(tmp_path)
    unnamed = path.rename(tmp_path / f".{path.stem}.{'b' * 8}")
    unlink = Path.unlink

    def named_before(self, missing_ok=False):
        if self == unnamed:
            os.link(unnamed, path)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", named_before)

    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (1, 0)
    assert list(tmp_path.iterdir()) == []


def test_opening_the_folder_sweeps_what_was_left_an_hour_ago(tmp_path):
    assert say(service(tmp_path)).status_code == 200
    [path] = list_feedback(tmp_path)
    old, new, other = (tmp_path / name for name in (f".{'a' * 32}.{'b' * 8}", f".{'c' * 32}.{'d' * 8}", ".nfs0001"))
    for left in (old, new, other):
        left.write_bytes(path.read_bytes())
    for left in (old, other, path):
        os.utime(left, (0, 0))
    environ = {"NEURALBLACK_READERS": f"anna={TOKEN}", "NEURALBLACK_FEEDBACK_KEY": KEY}

    open_feedback(tmp_path, environ, classes=("glioma",), model=MODEL["hash"], preprocessing=Preprocessing())

    assert set(tmp_path.iterdir()) == {path, new, other, tmp_path / KEPT_BY}


def test_a_folder_that_cannot_be_written_to_is_said_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    environ = {"NEURALBLACK_READERS": f"anna={TOKEN}", "NEURALBLACK_FEEDBACK_KEY": KEY}

    with pytest.raises(InputError, match="cannot be written to"):
        open_feedback(
            tmp_path / "file" / "below",
            environ,
            classes=("glioma",),
            model=MODEL["hash"],
            preprocessing=Preprocessing(),
        )


def test_the_key_comes_from_the_environment():
    assert key_from({"NEURALBLACK_FEEDBACK_KEY": f" {KEY}\n"}) == KEY.encode()


def test_only_a_service_is_told_to_make_a_new_key():
    with pytest.raises(InputError, match="openssl rand"):
        need_secrets({"NEURALBLACK_READERS": f"anna={TOKEN}"})
    with pytest.raises(InputError, match="that the service was started with"):
        key_from({})


def test_a_folder_that_was_kept_by_another_key_is_not_used(dataset, tmp_path):
    environ = {"NEURALBLACK_READERS": f"anna={TOKEN}", "NEURALBLACK_FEEDBACK_KEY": KEY}
    opened_by = partial(
        open_feedback, tmp_path / "kept", classes=("glioma",), model=MODEL["hash"], preprocessing=Preprocessing()
    )
    for _ in range(2):
        opened_by(environ)

    other = "another key than the one that .*kept was kept by"
    with pytest.raises(InputError, match=other):
        opened_by(environ | {"NEURALBLACK_FEEDBACK_KEY": "1e" * 16})
    with pytest.raises(InputError, match=other):
        erase_patient(tmp_path / "kept", "p1", key=b"k" * 32)
    with pytest.raises(InputError, match=other):
        join_feedback(tmp_path / "kept", dataset, tmp_path / "out", key=b"k" * 32)
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "kept").iterdir())
    assert erase_patient(tmp_path / "kept", "p1", key=KEY.encode()) == (0, 0)


def test_a_patient_is_forgotten_and_the_others_stay(tmp_path):
    to = service(tmp_path, decode=opened)
    for index, patient in enumerate(("p1", "p2", " p1 ")):
        assert say(to, patient=patient, key=f"key-000{index}", content=grey(index)).status_code == 200

    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (2, 0)
    assert [read_feedback(path)[0].patient for path in list_feedback(tmp_path)] == [keyed(b"k" * 32, "p2")]
    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (0, 0)


def test_the_pictures_of_a_patient_are_forgotten_whatever_name_they_came_under_and_it_is_said(tmp_path, monkeypatch):
    to = service(tmp_path, decode=opened)
    for index, (patient, value) in enumerate([("p1", 1), ("", 1), ("p2", 1), ("p2", 2), ("", 3)]):
        assert say(to, patient=patient, key=f"key-000{index}", content=grey(value)).status_code == 200
    left_by_a_killed_replica(tmp_path, "p3", grey(1))
    monkeypatch.setenv("NEURALBLACK_FEEDBACK_KEY", "k" * 32)

    said = CliRunner().invoke(app, ["forget", str(tmp_path), "--patient", "p1"]).stdout

    assert {int(read_feedback(path)[1][0, 0]) for path in tmp_path.iterdir()} == {2, 3}
    assert "4 slices removed" in said and "3 of them came under another name or none" in said


def test_who_is_killed_while_forgetting_can_do_it_again(tmp_path, monkeypatch):
    to = service(tmp_path, decode=opened)
    for index, patient in enumerate(("", "p2")):
        assert say(to, patient=patient, key=f"key-000{index}", content=grey(1)).status_code == 200
    left_by_a_killed_replica(tmp_path, "p1", grey(1))
    unlink, left = Path.unlink, [2]

    def killed_at_the_third(self, missing_ok=False):
        if not left[0]:
            raise KilledError
        left[0] -= 1
        unlink(self, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Path, "unlink", killed_at_the_third)
        erase_patient(tmp_path, "p1", key=b"k" * 32)

    assert erase_patient(tmp_path, "p1", key=b"k" * 32) == (1, 0) and list_feedback(tmp_path) == []


def test_beside_a_damaged_file_nobody_is_forgotten(tmp_path):
    say(service(tmp_path), patient="p1")
    (tmp_path / "damaged.png").write_bytes(b"no picture")

    with pytest.raises(InputError, match=r"damaged\.png"):
        erase_patient(tmp_path, "p1", key=b"k" * 32)
    assert len(list_feedback(tmp_path)) == 2
