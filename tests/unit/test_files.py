"""A folder is the old one or the new one, whatever happens to whoever writes it."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from neuralblack.errors import InputError
from neuralblack.files import check_manifest, clear_leftovers, is_held, lock, make_folder, new_folder


def write(path, text):
    with new_folder(path) as folder:
        (folder / "text").write_text(text)


def fail_at_second_rename(monkeypatch, fail):
    """Let the folder be moved aside, then call `fail` in place of moving the new one there."""
    rename, calls = Path.rename, []

    def counted(self, target):
        calls.append(target)
        if len(calls) == 2:
            fail()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced_whole(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out" / "more").touch()
    write(tmp_path / "out", "new")

    assert (tmp_path / "out" / "text").read_text() == "new"
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["text"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
def test_an_error_between_the_two_renames_leaves_the_old_folder(monkeypatch, tmp_path, error):
    write(tmp_path / "out", "old")

    def fail():
        raise error

    fail_at_second_rename(monkeypatch, fail)
    with pytest.raises(type(error)):
        write(tmp_path / "out", "new")

    assert (tmp_path / "out" / "text").read_text() == "old"
    assert names(tmp_path) == ["out"]


def die_between_renames(path):
    monkeypatch = pytest.MonkeyPatch()
    fail_at_second_rename(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    write(path, "new")


def test_the_folder_that_a_kill_left_moved_aside_is_put_back_by_the_next_writer(tmp_path):
    write(tmp_path / "out", "old")
    other = multiprocessing.get_context("fork").Process(target=die_between_renames, args=(tmp_path / "out",))
    other.start()
    other.join(60)
    assert other.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert any(name.endswith(".old") for name in names(tmp_path))

    with pytest.raises(RuntimeError, match="stopped"), new_folder(tmp_path / "out"):
        assert (tmp_path / "out" / "text").read_text() == "old"
        raise RuntimeError("stopped")

    assert (tmp_path / "out" / "text").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_leftovers_of_this_folder_only_are_cleared(tmp_path):
    for name in ("out", ".out.0123abcd", ".out.0123abcd.old", ".out.mine", ".outer.0123abcd"):
        (tmp_path / name).mkdir()

    clear_leftovers(tmp_path / "out")

    assert names(tmp_path) == [".out.mine", ".outer.0123abcd", "out"]


@pytest.mark.parametrize(
    "put",
    [lambda path: path.write_text("mine"), lambda path: path.symlink_to(path.with_name("nowhere"))],
    ids=["file", "dangling link"],
)
def test_what_is_no_folder_is_replaced_and_leaves_nothing(tmp_path, put):
    put(tmp_path / "out")
    write(tmp_path / "out", "new")

    assert (tmp_path / "out" / "text").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_folder_stays_and_what_it_points_to_is_filled(tmp_path):
    (tmp_path / "disk" / "room").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "room")

    write(tmp_path / "out", "old")
    write(tmp_path / "out", "new")

    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "room" / "text").read_text() == "new"
    assert names(tmp_path) == ["disk", "out"] and names(tmp_path / "disk") == ["room"]


def write_often(path, text):
    for _ in range(30):
        write(path, text)


def test_writers_of_the_same_folder_take_turns(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(tmp_path / "out", text)) for text in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert (tmp_path / "out" / "text").read_text() in "abc"
    assert names(tmp_path) == ["out"]


def test_a_held_lock_is_refused_to_who_does_not_wait_and_free_afterwards(tmp_path):
    with lock(tmp_path / "lock"), pytest.raises(BlockingIOError), lock(tmp_path / "lock", wait=False):
        pass
    with lock(tmp_path / "lock", wait=False):
        pass


def only_read(monkeypatch):
    """Let files be opened for reading alone, as on a disk that may only be read; root is refused nowhere."""
    opened = Path.open

    def reading(self, mode="r", *arguments, **more):
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", str(self))
        return opened(self, mode, *arguments, **more)

    monkeypatch.setattr(Path, "open", reading)


def test_a_lock_in_a_folder_that_may_only_be_read_names_the_folder(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()
    only_read(monkeypatch)

    with (
        pytest.raises(InputError, match=f"{tmp_path}: found a folder that cannot be written to"),
        lock(tmp_path / "lock"),
    ):
        pass
    assert not is_held(tmp_path / "lock") and not is_held(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_made_says_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(InputError, match=r"^/proc: found a folder in which none can be made .* to make below in"):
        make_folder(Path("/proc/run/below"))  # which root cannot make either
    (tmp_path / "link").symlink_to(tmp_path / "not mounted")
    with pytest.raises(InputError, match=f"^{tmp_path / 'link'}: found a file in its place"):
        make_folder(tmp_path / "link")
    with pytest.raises(InputError, match=f"^{tmp_path}: found a folder in which none can be made .File name too long"):
        make_folder(tmp_path / ("x" * 300))
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"^{tmp_path / 'file'}: found a file in its place; expected a folder"):
            make_folder(path)


def test_a_manifest_whose_hashes_are_numbers_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"files": {"a": 5}}')

    with pytest.raises(InputError, match="no hash"):
        check_manifest(tmp_path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file/out", "file: found a file; expected a folder to write out in"),
        ("file/a/out", "found a file"),
        (".", "name"),
    ],
)
def test_a_place_where_no_folder_can_be_is_said_before_anything_is_written(tmp_path, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")

    with pytest.raises(InputError, match=words), new_folder(Path(place)):
        raise AssertionError("its block ran")

    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"
