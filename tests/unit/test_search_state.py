"""Tune's state of a search that a kill or a full disk has cut off; with a real Tune: tests/ray/test_cluster.py."""

import pickle
import shutil

import pytest

from neuralblack.cluster.search_state import KEPT, SEARCH, can_go_on, keep_state

STATE = "experiment_state-2026-12-01_10-00-00.json"
SEARCHER = "searcher-state-2026-12-01_10-00-00.pkl"


@pytest.fixture
def run(tmp_path):
    """A search's folder as Tune leaves it, with one trial of ours, and the copy that was made beside it."""
    (tmp_path / "trials" / "a").mkdir(parents=True)
    (tmp_path / SEARCH).mkdir()
    (tmp_path / SEARCH / "tuner.pkl").write_bytes(pickle.dumps("tuner"))
    (tmp_path / SEARCH / STATE).write_text('{"trials": 1}')
    (tmp_path / SEARCH / SEARCHER).write_bytes(pickle.dumps("searcher"))
    keep_state(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [STATE, SEARCHER])
def test_a_state_that_was_cut_off_is_replaced_by_its_copy(run, name, caplog):
    path = run / SEARCH / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    keep_state(run)  # what is cut off never replaces a whole copy

    assert can_go_on(run)
    assert path.read_bytes() == whole
    assert "was cut off; its copy counts" in caplog.text


def test_with_neither_a_whole_state_nor_a_copy_the_search_begins_anew_and_nothing_is_deleted(run, caplog):
    (run / SEARCH / STATE).write_text('{"tri')
    shutil.rmtree(run / KEPT)

    assert not can_go_on(run)
    assert not (run / SEARCH).exists() and not (run / "trials").exists()
    assert (run / "lost-1" / "trials" / "a").is_dir() and (run / "lost-1" / SEARCH / "tuner.pkl").exists()
    assert "it begins anew, and what was there is in" in caplog.text


def test_a_search_that_never_began_and_a_whole_one_are_told_apart(run, tmp_path_factory):
    assert can_go_on(run)
    assert not can_go_on(tmp_path_factory.mktemp("new"))
