"""What a network is shown of a slice: all of it, the head, or a marked tumour; the same in training and in serving."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from ray import tune
from typer.testing import CliRunner

from neuralblack.cli import app
from neuralblack.cluster.space import DEFAULT_SPACE, check_space
from neuralblack.config import TrainConfig
from neuralblack.data import crops
from neuralblack.data.crops import as_shown, box_at, crop, head_region, tumour_region, uncrop
from neuralblack.data.prepare import prepare
from neuralblack.data.preprocessing import marked
from neuralblack.data.slices import Prepared, box_from
from neuralblack.data.splits import load_split
from neuralblack.errors import InputError, RunError
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.quantize import quantize
from neuralblack.inference.reference import calibrate
from neuralblack.models.execution import choose_execution
from neuralblack.models.heads import probabilities, scores
from neuralblack.models.inputs import to_input
from neuralblack.models.table import MODELS
from neuralblack.registry.aliases import alias_now
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import load_reference, load_weights, open_model
from neuralblack.registry.promotion import name_challenger, promote
from neuralblack.training.frozen import code_hash
from neuralblack.training.pixels import Pixels
from neuralblack.training.recipe import check
from neuralblack.training.runs import train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")
FORCED = Judgement(forced="a test")


def head(side=64, *, left=10, top=20, size=30):
    """A bright square of a given size in noise as dark as air."""
    pixels = np.random.default_rng(0).integers(0, 20, (side, side)).astype(np.uint8)
    pixels[top : top + size, left : left + size] = 200
    return pixels


@pytest.fixture(scope="module")
def outlined(dataset):
    """The tumours alone: every slice has a box."""
    return prepare([dataset.path.parent / "scans" / "figshare"], dataset.path.parent / "outlined", size=64, workers=1)


@pytest.fixture
def of_heads(dataset, tiny, tmp_path):
    train_here(
        SHORT.model_copy(update={"input": "head"}), data=dataset.path, run=tmp_path / "heads", calibrate=calibrate
    )
    return Predictor.load(tmp_path / "heads", engine="eager-fp32")


@pytest.fixture
def of_marks(outlined, tiny, tmp_path):
    config = SHORT.model_copy(update={"input": "roi"})
    train_here(config, data=outlined.path, run=tmp_path / "run", calibrate=calibrate)
    return Predictor.load(tmp_path / "run", engine="eager-fp32")


def test_the_head_is_found_in_the_dark_around_it():
    x0, y0, x1, y1 = head_region(head())

    assert x0 <= 10 and y0 <= 20 and x1 >= 40 and y1 >= 50
    assert x1 - x0 == y1 - y0 <= 34


def test_a_few_bright_pixels_are_no_head():
    pixels = head()
    pixels[2, 60] = 255

    assert head_region(pixels) == head_region(head())


@pytest.mark.parametrize("pixels", [np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)])
def test_a_slice_without_a_head_or_without_a_background_is_shown_whole(pixels):
    assert head_region(pixels) == (0, 0, 64, 64)
    assert crop(pixels, head_region(pixels)) is pixels


def test_a_crop_has_the_size_of_a_slice_and_holds_what_was_in_the_region():
    shown = crop(head(), (10, 20, 40, 50))

    assert shown.shape == (64, 64) and (shown[2:-2, 2:-2] == 200).all()  # its rim mixes with what is around it


def test_what_was_said_of_a_crop_lies_where_it_was_cut():
    whole = uncrop(np.full((64, 64), 255, np.uint8), (10, 20, 40, 50))

    assert (whole[20:50, 10:40] == 255).all() and whole.sum() == 255 * 30 * 30


def test_every_tumours_box_is_in_the_head(dataset):
    for row in np.flatnonzero(dataset.boxes[:, 0] >= 0):
        x0, y0, x1, y1 = head_region(dataset.images[row])
        left, top, right, bottom = dataset.boxes[row]
        assert x0 <= left and y0 <= top and right <= x1 and bottom <= y1


def test_a_network_is_trained_and_asked_with_the_same_crops(of_heads, dataset):
    rows = load_split(of_heads.folder.split, dataset).test
    shown = as_shown(dataset, "head").images[rows]
    assert not np.array_equal(shown, dataset.images[rows])
    stages = load_weights(of_heads.folder)
    with torch.no_grad():
        logits = stages(to_input(torch.from_numpy(shown), MODELS["tiny"]))
    expected = torch.softmax(scores(logits, loss=SHORT.loss) / of_heads.temperature, 1)

    found = of_heads.probabilities(dataset.images[rows])

    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    answers = of_heads([np.array(dataset.images[row]) for row in rows])
    for answer, row in zip(answers, expected, strict=True):
        if answer.probabilities:
            assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)


def test_golden_slices_are_kept_as_the_network_is_shown_them(of_heads, dataset):
    golden = load_reference(of_heads.folder)["golden_images"].numpy()
    split = load_split(of_heads.folder.split, dataset)
    shown = as_shown(dataset, "head").images[split.validation]

    assert all(any(np.array_equal(one, each) for each in shown) for one in golden)


def test_a_heat_map_lies_where_the_head_was_cut(of_heads):
    heat = of_heads.explain(head())
    x0, y0, x1, y1 = head_region(head())
    outside = heat.copy()
    outside[y0:y1, x0:x1] = 0

    assert heat.shape == (64, 64) and not outside.any()


def test_a_card_says_what_the_network_is_shown(of_heads, of_marks_card, dataset, tmp_path):
    evaluate_held_out(of_heads, dataset.path, tmp_path / "report", with_baselines=False)

    assert "shown the head, cut" in (tmp_path / "report/README.md").read_text()
    assert "It needs a box around the tumour" in of_marks_card


@pytest.fixture
def of_marks_card(outlined, tiny, tmp_path):
    config = SHORT.model_copy(update={"input": "roi"})
    train_here(config, data=outlined.path, run=tmp_path / "marked", calibrate=calibrate)
    predictor = Predictor.load(tmp_path / "marked", engine="eager-fp32")
    evaluate_held_out(predictor, outlined.path, tmp_path / "marked-report", with_baselines=False)
    return (tmp_path / "marked-report/README.md").read_text()


def test_a_model_of_marked_tumours_is_shown_the_box_with_its_margin(of_marks, outlined):
    (row,) = load_split(of_marks.folder.split, outlined).test[:1]
    pixels, box = np.array(outlined.images[row]), box_at(outlined.boxes[row])
    stages = load_weights(of_marks.folder)
    shown = crop(pixels, tumour_region(pixels, box))
    with torch.no_grad():
        logits = stages(to_input(torch.from_numpy(shown)[None], MODELS["tiny"]))

    found = of_marks.probabilities(pixels[None], outlined.boxes[[row]])

    np.testing.assert_allclose(found, probabilities(logits / of_marks.temperature).numpy(), atol=1e-5)


def test_without_a_box_it_refuses_that_slice_and_no_other(of_marks, outlined):
    (row,) = load_split(of_marks.folder.split, outlined).test[:1]
    pixels, box = np.array(outlined.images[row]), box_at(outlined.boxes[row])

    without, marked = of_marks([Prepared(pixels), Prepared(pixels, box=box)])

    assert without.status == "refused" and [reason.code for reason in without.reasons] == ["no_box"]
    assert "no_box" not in [reason.code for reason in marked.reasons]
    with pytest.raises(InputError, match="1 of 1 slices without the box"):
        of_marks.probabilities(pixels[None])


def test_slices_without_a_box_are_not_trained_on_as_marked_tumours(dataset, tiny, tmp_path):
    with pytest.raises(InputError, match=r"input roi.*\d+ slices without the box.*outlined tumours alone"):
        train_here(SHORT.model_copy(update={"input": "roi"}), data=dataset.path, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_marked_tumours_is_never_the_champion_and_never_behind_it(
    of_marks, of_heads, outlined, tmp_path_factory, tiny
):
    registry = tmp_path_factory.mktemp("registry")
    model = promote(of_marks.folder.path, registry, FORCED)

    assert alias_now(registry, "roi") == model.id and alias_now(registry, "champion") is None
    with pytest.raises(InputError, match="must be shown a marked tumour"):
        name_challenger(of_marks.folder.path, registry)


def test_a_search_tries_heads_and_never_marks(tiny):
    assert list(DEFAULT_SPACE["input"].categories) == ["slice", "head"]
    with pytest.raises(InputError, match=r"input roi.*a person must draw"):
        check_space(SHORT, {"input": tune.choice(["slice", "roi"])})
    with pytest.raises(InputError, match=r"input roi.*a person must draw"):
        check_space(SHORT.model_copy(update={"input": "roi"}), {"lr": tune.loguniform(1e-4, 1e-2)})


def test_guidance_is_for_whole_slices(tiny):
    with pytest.raises(InputError, match=r"guidance.*input head"):
        check(SHORT.model_copy(update={"input": "head", "guidance": 0.1}), classes=3)


@pytest.mark.parametrize(
    ("fixed", "searched"),
    [
        ({"guidance": 0.1}, {"input": tune.choice(["slice", "head"])}),
        ({"input": "head"}, {"guidance": tune.choice([0.0, 0.1])}),
        ({}, {"input": tune.choice(["slice", "head"]), "guidance": tune.uniform(0.0, 0.1)}),
    ],
)
def test_a_search_that_would_guide_what_is_cut_to_the_head_is_refused(fixed, searched, tiny):
    with pytest.raises(InputError, match=r"guidance.*input head"):
        check_space(SHORT.model_copy(update=fixed), searched)


@pytest.mark.parametrize("text", ["1,2,3", "a,2,3,4", "-1,2,3,4", "1.5,2,3,4", ""])
def test_a_box_is_four_whole_numbers(text):
    with pytest.raises(InputError, match="four whole numbers"):
        box_from(text)
    assert box_from("1, 2,3,4") == (1, 2, 3, 4)


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 0, 3, 5), (0, 0, 41, 5), (0, 0, 5, 31)])
def test_a_box_lies_in_the_slice(box):
    with pytest.raises(InputError, match="inside the slice of 40 x 30 pixels"):
        marked(Prepared(np.zeros((64, 64), np.uint8), shape=(30, 40)), box, where="scan")


def test_the_command_line_takes_a_box(of_marks, outlined, tmp_path):
    (row,) = load_split(of_marks.folder.split, outlined).test[:1]
    Image.fromarray(outlined.images[row]).save(tmp_path / "slice.png")
    command = ["predict", str(tmp_path / "slice.png"), "--model", str(tmp_path / "run"), "--engine", "eager-fp32"]

    refused = CliRunner().invoke(app, [*command, "--json"])
    marked = CliRunner().invoke(app, [*command, "--json", "--box", ",".join(map(str, outlined.boxes[row]))])

    assert json.loads(refused.stdout)["reasons"][0]["code"] == "no_box"
    (expected,) = of_marks([Prepared(np.array(outlined.images[row]), box=box_at(outlined.boxes[row]))])
    assert json.loads(marked.stdout).get("label") == expected.label
    outside = CliRunner().invoke(app, [*command, "--json", "--box", "1,2,3,400"])
    assert outside.stdout == "" and str(outside.exception).startswith(f"{command[1]}, --box: found the box 1,2,3,400;")


def test_int8_is_measured_on_what_the_network_is_shown(of_heads, dataset, monkeypatch):
    pytest.importorskip("nncf")
    asked = []

    def stop(folder, images):
        asked.append(images)
        raise RunError("seen enough")

    monkeypatch.setattr("neuralblack.inference.quantize.quantised", stop)
    with pytest.raises(RunError, match="seen enough"):
        quantize(of_heads.folder.path, dataset.path, calibration=4)

    shown = as_shown(dataset, "head").images[:]
    assert all(any(np.array_equal(one, each) for each in shown) for one in asked[0])


def test_training_reads_crops_row_by_row(dataset):
    pixels = Pixels(as_shown(dataset, "head").images, choose_execution("cpu", precision="fp32"))

    assert torch.equal(pixels(torch.tensor([3, 1])), torch.from_numpy(as_shown(dataset, "head").images[[3, 1]]))


def test_what_is_kept_of_frozen_stages_goes_with_the_code_that_cuts(monkeypatch):
    read, before = inspect.getsource, code_hash()
    monkeypatch.setattr(inspect, "getsource", lambda code: read(code) + ("\n# changed" if code is crops else ""))

    assert code_hash() != before


def test_an_old_model_is_shown_whole_slices(dataset, tiny, tmp_path):
    train_here(SHORT, data=dataset.path, run=tmp_path / "run")
    card = open_model(tmp_path / "run" / "model").card
    del card["config"]["input"]

    assert TrainConfig.model_validate(card["config"]).input == "slice"
