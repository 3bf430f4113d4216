"""Bulk runs: what they read, what they write, and that an interrupted one goes on without a slice lost or doubled."""

import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs.predict import predict as job
from PIL import Image
from tests.tiny import save_untrained

from neuralblack.cluster import batch_predict
from neuralblack.cluster.batch_predict import classify_all, pools
from neuralblack.cluster.batch_stages import Classifying
from neuralblack.data.bulk import reader_of, survey
from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.shards import scattered
from neuralblack.data.write_shards import write_shards
from neuralblack.errors import InputError
from neuralblack.files import read_json
from neuralblack.inference.by_file import read_prepared
from neuralblack.inference.predictor import Predictor
from neuralblack.labels import CLASSES
from neuralblack.registry.aliases import CHALLENGER, CHAMPION, MARKED, point_alias
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import open_model
from neuralblack.registry.promotion import promote


@pytest.fixture
def model(tiny, tmp_path) -> Path:
    """An untrained model of the network `tiny`."""
    return save_untrained(tmp_path / "model")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Forty slices in class folders and as .mat files."""
    folder = tmp_path_factory.mktemp("scans")
    write_phantoms(folder, patients=8, slices=2, size=64)
    (folder / "figshare" / "cvind.mat").unlink()  # the archive's folds, no slice
    return folder


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "parts").to_pylist()


def shares(row: dict) -> list[float]:
    return [row[f"p({name})"] for name in CLASSES]


def here(source: str | Path, out: Path, model: Path, *, engine: str = "eager-fp32", **more) -> dict:
    return classify_all(source, out, model=model, engine=engine, workers=0, **more)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_who_was_given_no_gpu_computes_on_the_cpu_of_a_node_that_has_some(model, tmp_path, monkeypatch):
    """Ray shows them all; a process for each of 16 CPUs would load its model onto the first."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    folder = open_model(model)

    Classifying(folder.path, folder.hash, tmp_path, engine="eager-fp32", batch=2, device="cpu")
    with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA|CUDA"):  # there is none here
        Classifying(folder.path, folder.hash, tmp_path, engine="eager-fp32", batch=2)


def test_a_gpu_that_is_not_there_is_said_before_anything_is_read(scans, model, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(InputError, match="device: found no usable GPU for this process"):
        here(scans, tmp_path / "out", model, gpus=True)

    assert not (tmp_path / "out").exists()


# What is read


def test_every_file_of_a_folder_is_a_row_with_the_same_answer_as_by_itself(scans, model, tmp_path):
    result = here(scans, tmp_path / "out", model)

    files = sorted(path for path in scans.rglob("*") if path.suffix in (".mat", ".png"))
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert sorted(rows) == [str(path.relative_to(scans)) for path in files] and result["items"] == len(files)
    predictor = Predictor.load(model, engine="eager-fp32")
    for path in files[:3] + files[-3:]:
        alone, row = predictor([read_prepared(path, predictor.spec)])[0], rows[str(path.relative_to(scans))]
        assert (row["status"], row["label"], row["model"]) == (alone.status, alone.label, predictor.name)
        assert {name: row[f"p({name})"] for name in CLASSES} == pytest.approx(alone.probabilities, abs=1e-2)


@pytest.mark.parametrize(
    ("to", "words"),
    [("elsewhere", r"site: found a linked folder"), (None, r"site: found Permission denied")],
)
def test_a_folder_that_would_be_left_out_without_a_word_is_refused(to, words, tmp_path, monkeypatch):
    (tmp_path / "scans" / "plain").mkdir(parents=True)
    (tmp_path / "scans" / "plain" / "1.png").write_bytes(png(1))
    site = tmp_path / "scans" / "site"
    if to:
        (tmp_path / to).mkdir()
        site.symlink_to(tmp_path / to)
    else:
        site.mkdir()
        opened = os.scandir

        def scandir(path):  # root may read whatever it likes
            if str(path) == str(site):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(path)

        monkeypatch.setattr(os, "scandir", scandir)

    with pytest.raises(InputError, match=words):
        survey(tmp_path / "scans", Preprocessing(size=64))


@pytest.mark.parametrize("name", [None, CHAMPION, CHALLENGER, MARKED, "id"])
def test_the_job_takes_the_names_of_the_registry_that_the_command_takes(name, scans, model, tmp_path, monkeypatch):
    promoted = promote(model, tmp_path / "registry", Judgement(forced="a test"))
    for alias in (CHALLENGER, MARKED):
        point_alias(tmp_path / "registry", alias, promoted.id)
    asked = Path(promoted.id if name == "id" else name) if name else None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")

    job(str(scans), str(tmp_path / "out"), asked, tmp_path / "registry", engine="eager-fp32", workers=0)

    assert read_json(tmp_path / "out" / "job.json")["facts"]["model"]["name"] == promoted.id
    with pytest.raises(InputError, match="registry registry: found a relative path inside a job"):
        job(str(scans), str(tmp_path / "other"), asked, Path("registry"), engine="eager-fp32", workers=0)


def test_a_model_given_to_the_job_as_a_path_needs_no_registry(scans, model, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)

    job(str(scans), str(tmp_path / "out"), model, engine="eager-fp32", workers=0)
    for relative in (Path("model"), Path("runs/first")):  # one of the job's folder, and one that is not there
        with pytest.raises(InputError, match=f"model {relative}: found a relative path inside a job"):
            job(str(scans), str(tmp_path / "other"), relative, engine="eager-fp32", workers=0)


def test_of_a_folder_the_files_are_taken_that_prepare_takes(tmp_path):
    (tmp_path / "deep").mkdir()
    dicom = bytes(128) + b"DICM"
    files = {"1.nii.gz": b"", "2.NII": b"", "deep/IM0001": dicom, "1.2.840.113619.2.55.3": dicom, "3.png": b""}
    others = {"DICOMDIR": dicom, "README": b"no slice", "scan.bak": dicom, "notes.gz": b""}
    for name, content in (files | others).items():
        (tmp_path / name).write_bytes(content)

    what = survey(tmp_path, Preprocessing(size=64))

    assert sorted(files) == sorted(name for name, _ in what.files) and what.left_out == len(others)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png(1))

    with pytest.raises(InputError, match=r"caf.*found a name that is not UTF-8"):
        survey(tmp_path, Preprocessing(size=64))


def test_a_broken_file_is_a_row_that_says_what_is_wrong_and_the_others_are_answered(model, tmp_path):
    folder = tmp_path / "scans"
    (folder / "deep").mkdir(parents=True)
    (folder / "good.png").write_bytes(png(0))
    (folder / "deep" / "broken.png").write_bytes(png(1)[:100])
    (folder / "other.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (folder / "._good.png").write_bytes(b"what macOS leaves beside files")
    (folder / "notes.txt").write_text("no slice")

    result = here(folder, tmp_path / "out", model)

    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "deep/broken.png": "unreadable",
        "good.png": "ok",
        "other.mat": "unreadable",
    }
    assert rows["other.mat"]["error"].startswith("other.mat: found a MATLAB v5 file; expected")
    assert rows["other.mat"]["label"] is None and rows["other.mat"]["p(glioma)"] is None
    assert result["statuses"] == {"ok": 1, "refused": 0, "unreadable": 2}


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=7)


def write_arrow_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_arrow_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


@pytest.mark.parametrize(
    ("name", "write"),
    [("t.parquet", write_parquet), ("t.arrow", write_arrow_file), ("t.arrow", write_arrow_stream)],
    ids=["parquet", "arrow file", "arrow stream"],
)
def test_rows_of_a_table_are_classified_in_order_across_row_groups_and_shards(model, tmp_path, name, write):
    images = [png(seed) for seed in range(40)] + [None]
    write(tmp_path / name, pa.table({"id": [f"case {at}" for at in range(41)], "jpeg": images}))

    result = here(tmp_path / name, tmp_path / "out", model)

    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"case {at}" for at in range(41)]
    assert rows[40]["status"] == "unreadable" and result["statuses"]["unreadable"] == 1
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 3


def test_tables_without_ids_number_their_rows_and_may_keep_images_as_hugging_face_does(model, tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("a", "b"):
        images = [{"bytes": png(seed), "path": None} for seed in range(2)]
        pq.write_table(pa.table({"image": images}), tmp_path / "tables" / f"{name}.parquet")

    here(tmp_path / "tables", tmp_path / "out", model)

    assert [row["id"] for row in rows_of(tmp_path / "out")] == [
        "a.parquet#0",
        "a.parquet#1",
        "b.parquet#0",
        "b.parquet#1",
    ]


def test_a_prepared_dataset_is_classified_without_being_prepared_again(dataset, model, tmp_path):
    here(dataset.path, tmp_path / "out", model, engine="auto")

    rows = rows_of(tmp_path / "out")
    expected = Predictor.load(model, engine="eager-fp32").probabilities(dataset.images)
    assert [row["id"] for row in rows] == dataset.ids
    assert np.allclose([[row[f"p({name})"] for name in CLASSES] for row in rows], expected, atol=1e-2)


def test_shards_on_an_s3_server_give_the_answers_of_their_dataset(dataset, bucket, model, tmp_path):
    write_shards(dataset, "s3://slices/all", slices=7)

    here(dataset.path, tmp_path / "out", model)
    here("s3://slices/all", tmp_path / "of-shards", model)

    expected = {row["id"]: row for row in rows_of(tmp_path / "out")}
    found = rows_of(tmp_path / "of-shards")
    assert [row["id"] for row in found] == [dataset.ids[row] for row in scattered(len(dataset))]
    for row in found:
        assert shares(row) == pytest.approx(shares(expected[row["id"]]), abs=1e-6)
    assert np.ptp([shares(row) for row in found], axis=0).min() > 1e-4, "an exchanged row would be seen"


def test_shards_that_became_another_datasets_are_refused_where_they_are_read(dataset, tmp_path):
    write_shards(dataset, str(tmp_path), slices=7)

    with pytest.raises(InputError, match="as when the run began"):
        reader_of(str(tmp_path), "shards", "0" * 64)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_model_of_marked_tumours_takes_the_boxes_that_a_dataset_holds(dataset, tiny, tmp_path, sharded):
    model, source = save_untrained(tmp_path / "roi", shown="roi"), dataset.path
    if sharded:
        source = tmp_path / "shards"
        write_shards(dataset, str(source), slices=7)

    here(source, tmp_path / "out", model)

    outlined = {name for name, box in zip(dataset.ids, dataset.boxes, strict=True) if box[0] >= 0}
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert 0 < len(outlined) < len(rows)
    assert {name for name, row in rows.items() if row["status"] == "ok"} == outlined
    for row in (dataset.ids.index(name) for name in list(outlined)[:3]):
        part = slice(row, row + 1)
        expected = Predictor.load(model, engine="eager-fp32").probabilities(dataset.images[part], dataset.boxes[part])
        assert shares(rows[dataset.ids[row]]) == pytest.approx(expected[0].tolist(), abs=1e-6)


def test_pixels_prepared_in_another_way_than_the_models_are_refused(dataset, tiny, tmp_path):
    other = save_untrained(tmp_path / "other", clip_percent=2)

    with pytest.raises(InputError, match="as the model was trained on") as error:
        here(dataset.path, tmp_path / "out", other)

    assert "Fix: give the original files" in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"pixels": [b"x"]}, {}, ["found pixels", "a column bytes or image or jpeg", "--column"]),
        ({"pixels": [b"x"]}, {"column": "scan"}, ["found pixels", "a column scan"]),
        ({"image": ["text"]}, {}, ["image of type string", "binary"]),
        ({"image": pa.array([], pa.binary())}, {}, ["no rows"]),
    ],
    ids=["no column", "no such column", "no bytes", "no rows"],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_reason(model, tmp_path, columns, options, words):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")

    with pytest.raises(InputError) as error:
        here(tmp_path / "t.parquet", tmp_path / "out", model, **options)

    for word in words:
        assert word in str(error.value)


# Going on


def test_the_same_command_again_does_only_what_is_missing(scans, model, tmp_path):
    out = tmp_path / "out"
    first = here(scans, out, model)
    before, parts = rows_of(out), sorted((out / "parts").iterdir())
    written = {path: path.stat().st_mtime_ns for path in parts}
    parts[1].unlink()
    (out / "parts" / f".{parts[0].name}.0123abcd").write_bytes(b"half a part")

    again = here(scans, out, model)

    assert len(parts) > 2 and rows_of(out) == before
    assert [path for path in parts if path.stat().st_mtime_ns != written[path]] == [parts[1]]
    assert sorted((out / "parts").iterdir()) == parts
    assert {name: again[name] for name in ("items", "statuses", "labels", "facts")} == {
        name: first[name] for name in ("items", "statuses", "labels", "facts")
    }


def test_another_input_or_model_into_the_same_folder_is_refused(scans, model, tmp_path):
    copy = shutil.copytree(scans, tmp_path / "copy")
    out = tmp_path / "out"
    here(copy, out, model)
    (copy / "one more.png").write_bytes(png(3))

    with pytest.raises(InputError, match="choose another folder for another input or model"):
        here(copy, out, model)
    (copy / "one more.png").unlink()
    with pytest.raises(InputError, match=r"found model .*; expected model"):
        here(copy, out, save_untrained(tmp_path / "other", clip_percent=2))
    with pytest.raises(InputError, match="found other files"):
        here(copy, scans, model)
    with pytest.raises(InputError, match=r"^/proc: found a folder in which none can be made"):
        here(copy, Path("/proc/answers"), model)


def test_a_file_that_vanishes_ends_the_run_instead_of_being_called_unreadable(scans, model, tmp_path):
    copy = shutil.copytree(scans, tmp_path / "copy")
    last = max(copy.rglob("*.png"))

    with pytest.raises(InputError, match="the file that was listed"):
        here(copy, tmp_path / "out", model, progress=lambda done, total: last.unlink(missing_ok=True))

    assert not (tmp_path / "out" / "summary.json").exists()


def test_what_a_lost_worker_leaves_is_done_by_the_next_ones_and_a_worker_that_cannot_start_is_said_at_once(
    scans, model, tmp_path, monkeypatch
):
    import ray

    from neuralblack.cluster import batch_predict
    from neuralblack.errors import RunError

    losses = [2, 2]  # of two attempts, each behind two shards
    cause = ray.exceptions.ActorUnavailableError("the actor is temporarily unavailable", None)

    def on_ray(what, missing, folder, out, **more):
        given = missing[: losses.pop()] if losses else missing
        yield from batch_predict._here(what, given, folder, out, device="cpu", **more)
        if given is not missing:
            raise batch_predict._cause(cause)

    monkeypatch.setattr(batch_predict, "_on_ray", on_ray)
    whole = batch_predict.classify_all(scans, tmp_path / "out", model=model, engine="eager-fp32")

    assert losses == [] and whole["items"] == len(rows_of(tmp_path / "out"))
    unable = ray.exceptions.ActorDiedError()
    unable._actor_init_failed = True
    assert isinstance(batch_predict._cause(unable), RunError)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"workers": None, "gpus": True, "nodes_may_come": False}, ((1, 1, 1), (7, 7, 7))),
        ({"workers": None, "gpus": True, "nodes_may_come": True}, ((1, 4, 4), (1, 7, 28))),
        ({"workers": 1, "gpus": True, "nodes_may_come": True}, ((1, 1, 1), (7, 7, 7))),
        ({"workers": None, "gpus": False, "nodes_may_come": True}, ((1, 32, 32), (1, 8, 32))),
        ({"workers": None, "gpus": False, "nodes_may_come": False}, ((8, 8, 8), (8, 8, 8))),
    ],
    ids=["one node", "of four", "as many as asked for", "CPUs of four", "CPUs of one"],
)
def test_a_bulk_run_that_waits_for_nodes_takes_all_that_the_autoscaler_can_bring(asked, expected, monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(batch_predict, "reachable_resources", lambda: {"CPU": 32.0, "GPU": 4.0})

    assert tuple((pool.least, pool.first, pool.most) for pool in pools(shards=100, **asked)) == expected
    assert [pool.most for pool in pools(shards=3, **asked)] == [min(3, pool[2]) for pool in expected]
    monkeypatch.setattr(batch_predict, "reachable_resources", lambda: None)
    assert pools(shards=100, **asked)[0].most == (asked["workers"] or (1 if asked["gpus"] else 8)), "nobody knows more"
