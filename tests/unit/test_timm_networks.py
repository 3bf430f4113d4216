"""Networks of timm, and every row of MODELS, go the whole way: stages, folding, heat maps, engines, registry."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.unit.test_engines import CLASSES, needs, random_slices, with_statistics
from tests.unit.test_feature_cache import equal
from tests.unit.test_training import CONFIG
from torch import nn

from neuralblack.cluster.serve_config import ServeArgs
from neuralblack.config import TrainConfig, checked, with_overrides
from neuralblack.data.dataset import open_dataset
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.splits import make_split
from neuralblack.errors import InputError
from neuralblack.inference import openvino_engine, static_batches
from neuralblack.inference.eager import eager
from neuralblack.inference.engines import build_engine
from neuralblack.inference.features import pooled_features
from neuralblack.inference.gradcam import grad_cam
from neuralblack.inference.predictor import Predictor
from neuralblack.models import timm_networks
from neuralblack.models.folding import fold_batch_norms
from neuralblack.models.inputs import to_input
from neuralblack.models.table import MODELS, build_model, network_for, network_of
from neuralblack.registry.aliases import CHAMPION, is_model_id, named_model, resolve
from neuralblack.registry.describe import describe
from neuralblack.registry.gate import Judgement
from neuralblack.registry.model_folder import load_weights, open_model, save_model
from neuralblack.registry.promotion import promote
from neuralblack.training.feature_cache import Sharing
from neuralblack.training.recipe import train
from neuralblack.training.runs import train_here
from neuralblack.training.unfreezing import SCHEDULES, depth_at, set_learning, stage_groups

timm = timm_networks.import_timm("these tests")

SMALL = ["timm:test_resnet", "timm:test_efficientnet", "timm:test_convnext", "timm:mobilenetv3_small_050"]
WHOLE_WAY = [*MODELS, *SMALL, "timm:regnetx_002"]
CONVERTED = [*MODELS, "timm:test_convnext", "timm:mobilenetv3_small_050"]  # of the others `make soak` does it
SIDE = 64  # pixels a side that networks see here: their own 224 cost ten times as much
FAMILIES = [  # the smallest of families that differ in their layers, head or names
    *SMALL,
    "timm:regnetx_002",
    "timm:resnet18.a1_in1k",
    "timm:densenet121",
    "timm:mobilenetv4_conv_small",
    "timm:test_byobnet",
    "timm:convnextv2_atto",
    "timm:mobilevit_xxs",
]
TAGGED = "timm:resnet18.a1_in1k"


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small wait for each other longer than they compute; and OpenVINO compiles half as many graphs."""
    torch.set_num_threads(1)


def model_of(name, *, classes=3):
    """Random weights that differ from layer to layer, sure of what they say."""
    model = with_statistics(build_model(name, classes=classes)).requires_grad_(False)
    model[-1][-1].weight.mul_(300)
    return model


def folder_of(name, path):
    """A model folder of such weights, with one slice to compare engines on."""
    config = TrainConfig(model=name, weights="none", size=SIDE)
    network, model, golden = network_for(config), model_of(name), random_slices(1, size=96)
    with torch.inference_mode():
        reference = {"golden_images": golden, "golden_logits": model(to_input(golden, network))}
    return save_model(
        path,
        model.state_dict(),
        card={
            "classes": list(CLASSES),
            "config": config.model_dump(mode="json"),
            "network_input": network.facts,
        },
        spec=Preprocessing(size=96),
        split={"parts": {}},
        history=[],
        reference=reference,
    )


# What timm publishes, in stages


@pytest.mark.parametrize("name", FAMILIES)
def test_the_stages_are_the_published_forward_pass_to_the_last_bit(name):
    network = network_of(name)
    torch.manual_seed(3)
    published = with_statistics(network.build())
    colours = torch.randn(1, 3, 96, 96)

    stages = nn.Sequential(network.stages(published, published.get_submodule(network.head))).eval()
    with torch.inference_mode():
        found, expected = stages(colours), published(colours)
        ahead = published.forward_head(published.forward_features(colours), pre_logits=True)
        before = nn.Sequential(*[*stages.children()][:-1], *[*stages[-1].children()][:-1])(colours)

    assert torch.equal(found, expected)
    assert torch.equal(before, ahead.flatten(1)), "what the classifier takes"
    names = [stage for stage, _ in stages.named_children()]
    assert names == ["stem", *(f"layer{number}" for number in range(1, len(names) - 1)), "head"]
    assert len(names) == len(timm_networks._features(published)) + 1 >= 3


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        *((name, {}) for name in (*FAMILIES, *MODELS)),
        ("timm:rexnet_100", {}),  # by default it drops of its head
        ("timm:test_convnext", {"drop_rate": 0.5, "drop_path_rate": 0.5}),
        ("timm:densenet121", {"drop_rate": 0.5, "proj_drop_rate": 0.5}),
    ],
)
def test_nothing_is_dropped_by_chance_so_that_a_run_that_goes_on_has_the_weights_of_an_unbroken_one(name, rates):
    network = network_of(name)
    published = network.build(**rates)
    stages = nn.Sequential(network.stages(published, published.get_submodule(network.head))).train()
    colours = torch.randn(2, 3, 64, 64)

    with torch.inference_mode():
        assert torch.equal(stages(colours), stages(colours))
    assert not [each for each in stages.modules() if isinstance(each, nn.Dropout) and each.p]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_one_channel_stem_sees_a_slice_as_the_published_stem_sees_it_three_times(name):
    network = network_of(name)
    torch.manual_seed(3)
    published = network.build().eval()
    grey = torch.randn(1, 1, 96, 96)

    with torch.inference_mode():
        expected = network.stages(published, nn.Identity())["stem"](grey.expand(-1, 3, -1, -1))
        timm_networks.one_channel(published, network.stem)
        found = network.stages(published, nn.Identity())["stem"](grey)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_size_mean_and_deviation_are_those_of_timms_configuration(name):
    given, network = timm.get_pretrained_cfg(name.removeprefix("timm:")), network_of(name)

    assert network.size == given.input_size[-1]
    assert (network.mean, network.std) == (pytest.approx(np.mean(given.mean)), pytest.approx(np.mean(given.std)))
    assert network.facts == {"size": network.size, "mean": network.mean, "std": network.std}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_vit", ["no pooling of maps"]),
        ("swin_tiny_patch4_window7_224", ["(1, 56, 56, 96) instead of maps (B, C, H, W)"]),
        ("visformer_tiny", ["not its forward pass"]),
        ("nf_regnet_b0", ["cannot be summed over the colours"]),
        ("levit_128s", ["no chain of stages"]),
    ],
    ids=["tokens", "channels last", "an embedding", "normalised weights", "two heads"],
)
def test_what_is_no_chain_of_stages_is_refused_and_the_families_that_fit_are_named(name, words):
    with pytest.raises(InputError) as error:
        network_of(f"timm:{name}")

    for word in [
        *words,
        f"model timm:{name}",
        "resnet, resnext, regnet, densenet, efficientnet, mobilenetv3, convnext",
    ]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stages: stages.update(layer1=nn.Sequential(stages["layer1"], nn.Tanh())), "not its forward pass"),
        (
            lambda stages: stages.update(layer2=nn.Sequential(nn.Hardtanh(0, 1e-3, inplace=True), stages["layer2"])),
            "a stage that changes its input in place, layer2",
        ),
    ],
    ids=["another step", "in place"],
)
def test_stages_that_give_other_numbers_or_spoil_their_input_are_refused(change, words, monkeypatch):
    whole = timm_networks._stages

    def stages(published, head, **more):
        found = whole(published, head, **more)
        change(found)
        return found

    timm_networks.timm_network.cache_clear()
    monkeypatch.setattr(timm_networks, "_stages", stages)
    with pytest.raises(InputError, match=words):
        network_of("timm:test_resnet")


def test_an_unknown_name_is_answered_with_near_ones_and_nothing_is_asked_of_the_hub():
    with pytest.raises(InputError, match=r"found 'timm:resnet18x'; expected a network of timm, as timm:resnet18,"):
        network_of("timm:resnet18x")
    with pytest.raises(InputError, match=r"found 'timm:resnet18\.nothing'.*timm:resnet18\.tv_in1k"):
        network_of("timm:resnet18.nothing")
    with pytest.raises(InputError, match="expected a network of timm"):
        network_of("timm:hf-hub:somebody/resnet18")
    with pytest.raises(InputError, match="one of resnet50, efficientnet_lite0, timm:NAME"):
        network_of("test_resnet")


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_networks.timm_network.cache_clear()

    for name in ("timm:test_resnet", "efficientnet_lite0"):
        with pytest.raises(InputError, match=rf"model {name}: found no timm.*neuralblack\[timm\]"):
            build_model(name, classes=3)


# Weights


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:mobilenetv3_small_050", "timm:densenet121"])
def test_a_file_in_timms_layout_gives_the_whole_backbone_and_a_part_of_one_is_refused(name, suffix, tmp_path):
    network, path = network_of(name), tmp_path / f"weights.{suffix}"
    published = with_statistics(network.build())
    state = published.state_dict()
    write = save_file if suffix == "safetensors" else torch.save
    write(state, path)

    model = build_model(name, classes=5, weights=str(path)).eval()

    grey = torch.randn(1, 1, 96, 96)
    ahead = nn.Sequential(*[*model.children()][:-1], *[*model[-1].children()][:-1])
    with torch.inference_mode():
        features = published.forward_features(grey.expand(-1, 3, -1, -1))
        expected = published.forward_head(features, pre_logits=True).flatten(1)
        torch.testing.assert_close(ahead(grey), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    del state[next(iter(state))]
    write(state, path)
    with pytest.raises(InputError, match="tensors; the first that is missing is"):
        build_model(name, classes=5, weights=str(path))


def test_weights_that_the_hub_does_not_give_are_one_line_and_those_it_gives_are_used(monkeypatch):
    state = timm.create_model("test_resnet").state_dict()
    make = timm.create_model

    def hub(name, *, pretrained):
        if pretrained and name == "test_convnext":
            raise OSError("no route")
        net = make(name)
        net.load_state_dict(state)
        return net

    network_of("timm:test_resnet"), network_of("timm:test_convnext")
    monkeypatch.setattr(timm, "create_model", hub)

    with pytest.raises(
        InputError, match=r"imagenet of timm:test_convnext: found no download \(OSError\).*weights=PATH"
    ):
        network_of("timm:test_convnext").imagenet()
    model = build_model("timm:test_resnet", classes=3, weights="imagenet")
    assert torch.equal(model.stem[0][0].weight, state["conv1.0.weight"].sum(1, keepdim=True))


def test_a_network_for_which_nobody_published_weights_says_so():
    name = next(each for each in timm.list_models("regnetz_*") if not timm.is_model_pretrained(each))

    with pytest.raises(InputError, match="found none published"):
        network_of(f"timm:{name}").imagenet()


# Training


@pytest.mark.parametrize("name", [*WHOLE_WAY, "timm:mobilenetv4_conv_small"])
def test_schedules_count_any_number_of_stages_from_the_head_down(name):
    model = build_model(name, classes=3)

    for schedule in SCHEDULES.values():
        for epoch in range(8):
            depth = min(len(model), depth_at(schedule, epoch))
            set_learning(model, depth, batch_norm="local")
            learning = [any(each.requires_grad for each in stage.parameters()) for stage in model]
            assert learning == [False] * (len(model) - depth) + [True] * depth
            assert [stage.training for stage in model] == learning
    rates = [group["lr"] for group in stage_groups(model, lr=1.0, decay=2.0, weight_decay=0.1)]
    assert len(set(rates)) == len(model) and max(rates) == 1.0


def test_a_batch_norm_behind_the_pooling_keeps_its_statistics_so_that_a_batch_of_one_slice_can_be_learnt():
    model = build_model("timm:mobilenetv4_conv_small", classes=3)
    norm = next(each for each in model[-1].modules() if isinstance(each, nn.BatchNorm2d))

    set_learning(model, 2, batch_norm="local")
    model(torch.randn(1, 1, 64, 64)).sum().backward()

    assert not norm.training and norm.weight.grad is not None
    assert any(each.training for each in model[-2].modules() if isinstance(each, nn.BatchNorm2d))


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_shared_activations_give_the_bits_of_a_trial_that_shares_nothing(name, dataset, tmp_path):
    changes = {"model": name, "size": SIDE, "batch_size": 4, "epochs": 2, "schedule": {0: 1, 1: 2}}
    config = CONFIG.model_copy(update=changes)

    def trial(folder=None, **more):
        states, shared = [], []

        def report(metrics, state):
            states.append({key: value.clone() for key, value in state["model"].items()})
            shared.append(metrics["shared"])

        data = open_dataset(dataset.path)
        split = make_split(data, train=None, validation=(2,), test=(1,))
        split = replace(split, train=split.train[:6], validation=split.validation[:2])
        sharing = Sharing(folder, 2**30) if folder else None
        train(config.model_copy(update=more), data, split, report=report, device="cpu", sharing=sharing)
        return states[-1], shared

    alone, _ = trial()
    trial(tmp_path, lr=0.001)
    shared, found = trial(tmp_path)

    assert found == [1, 1]
    assert equal(shared, alone)


# Serving


@pytest.mark.parametrize("name", [*FAMILIES, *MODELS])
def test_folding_keeps_the_outputs_of_any_norm_and_takes_every_batch_norm_away_that_follows_a_convolution(name):
    model = model_of(name)
    inputs = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(model, torch.zeros(1, 1, 96, 96))

    with torch.inference_mode():
        expected, found = model(inputs), folded(inputs)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    before, left = (sum(isinstance(each, nn.BatchNorm2d) for each in net.modules()) for net in (model, folded))
    assert left < before or not before
    assert left == 0 or name == "timm:densenet121", "in front of a convolution"


class Between(nn.Module):
    """A convolution, a norm, and what is done with the maps between them."""

    def __init__(self, body):
        super().__init__()
        self.conv, self.norm, self.body = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), body

    def forward(self, x):
        return self.body(self.conv, self.norm, x)


def asks_for_a_size(conv, norm, x):
    x = conv(x)
    return norm(x) if x.shape[0] > 0 else x


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param(asks_for_a_size, 0, id="size"),
        pytest.param(lambda conv, norm, x: (y := conv(x)) + norm(y), 1, id="read-twice"),
        pytest.param(lambda conv, norm, x: norm(conv(x).relu_()), 1, id="in-place"),
        pytest.param(lambda conv, norm, x: norm(conv(norm(conv(x)))), 1, id="called-twice"),
        pytest.param(lambda conv, norm, x: torch.cat([y := conv(x), norm(y)], 1), 1, id="list"),
        pytest.param(lambda conv, norm, x: (y := conv(x)).chunk(2)[0] + norm(y)[:1], 1, id="chunks"),
        pytest.param(lambda conv, norm, x: (y := conv(x)).max(1)[0] + norm(y)[:, 0], 1, id="two-results"),
        pytest.param(lambda conv, norm, x: [y := conv(x), y.__setitem__(0, 1.0), norm(y)][-1], 1, id="written-to"),
    ],
)
def test_a_norm_is_folded_only_where_nothing_else_reads_the_convolution(body, left):
    stages = with_statistics(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Between(body)))
    inputs = torch.randn(2, 1, 9, 9)

    folded = fold_batch_norms(stages, torch.zeros(1, 1, 9, 9))

    assert sum(isinstance(each, nn.BatchNorm2d) for each in folded.modules()) == left
    torch.testing.assert_close(folded(inputs), stages(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_a_heat_map_is_drawn_of_the_last_maps_for_every_class(name):
    network, model = network_of(name), model_of(name)
    inputs = torch.randn(1, 1, network.size, network.size)

    heats = [grad_cam(model, inputs, label) for label in range(3)]

    assert all(heat.ndim == 2 and min(heat.shape) > 1 for heat in heats)
    assert all(0 <= float(heat.min()) <= float(heat.max()) <= 1 for heat in heats)
    assert not torch.equal(heats[0], heats[1])


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_a_model_folder_is_saved_promoted_found_and_answers(name, tmp_path):
    saved = folder_of(name, tmp_path / "model")

    model = promote(saved.path, tmp_path / "registry", Judgement(forced="a test"))

    assert is_model_id(model.id)
    assert resolve(tmp_path / "registry", CHAMPION).id == resolve(tmp_path / "registry", model.id).id == saved.id
    assert named_model(tmp_path / model.id, tmp_path / "registry") == tmp_path / model.id  # a path, not an id
    args = {"model": model.id, "hash": model.hash, "registry": str(tmp_path), "anonymous": True}
    assert checked(ServeArgs, args, where="a test").model == model.id
    assert equal(load_weights(model).state_dict(), load_weights(saved).state_dict())
    images = random_slices(2, size=96)
    expected = eager(model, dtype=torch.float32, device=torch.device("cpu"))(images)
    assert expected.logits.shape == (2, 3) and expected.features.isfinite().all()
    predictor = Predictor(model, engine="eager-fp32")
    (answer,) = predictor([images[0].numpy()])
    assert answer.status == "ok" and set(answer.probabilities) == set(CLASSES)
    assert predictor.name == model.id
    assert predictor.explain(images[0].numpy()).shape == (96, 96)


@pytest.mark.parametrize(
    "name", [*CONVERTED, *(pytest.param(name, marks=pytest.mark.soak) for name in WHOLE_WAY if name not in CONVERTED)]
)
def test_openvino_answers_as_pytorch_does(name, tmp_path, monkeypatch):
    needs("openvino-fp32")
    monkeypatch.setattr(openvino_engine, "SIZES", (1,))  # each size costs a compilation
    monkeypatch.setattr(openvino_engine, "run_in_pieces", partial(static_batches.run_in_pieces, sizes=(1,)))
    model, images = folder_of(name, tmp_path / "model"), random_slices(1, size=96)

    expected = eager(model, dtype=torch.float32, device=torch.device("cpu"))(images)
    found = build_engine(model, name="openvino-fp32")(images)

    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-3)


def test_a_name_with_a_colon_and_a_dot_becomes_an_id_without_them(tmp_path):
    model = promote(folder_of(TAGGED, tmp_path / "model").path, tmp_path / "registry", Judgement(forced="a test"))

    assert model.id == f"timm_resnet18_a1_in1k-{model.hash[:12]}"
    assert model.config.model == TAGGED
    assert named_model(tmp_path.joinpath(model.id).relative_to(tmp_path), tmp_path / "registry") == model.path


def test_a_run_writes_its_networks_input_on_the_card_and_is_served_with_it_whatever_timm_says_later(
    dataset, tmp_path, monkeypatch
):
    texts = ["model=timm:test_resnet", "weights=none", "epochs=1", "batch_size=16", "schedule=head-only"]
    config = with_overrides(TrainConfig(), [*texts, "precision=fp32"])
    model = train_here(config, data=dataset.path, run=tmp_path / "run")
    said = Predictor(model, engine="eager-fp32").probabilities(dataset.images[:2])

    assert model.card["network_input"] == {"size": 160, "mean": 0.5, "std": 0.5}
    assert model.card["made_with"]["timm"] == timm.__version__
    assert dict(describe(model.path))["network input"] == "mean 0.5, size 160, std 0.5"
    row = replace(network_of("timm:test_resnet"), size=64, mean=0.1, std=2.0)
    monkeypatch.setattr("neuralblack.models.table.timm_network", lambda _: row)
    again = open_model(model.path)
    assert again.network.facts == model.card["network_input"]
    assert np.array_equal(Predictor(again, engine="eager-fp32").probabilities(dataset.images[:2]), said)
    with pytest.raises(InputError, match=r"a run with network_input\.mean 0\.5 where this command says 0\.1"):
        train_here(config, data=dataset.path, run=tmp_path / "run")


def test_a_network_that_timm_has_changed_is_refused_with_the_versions_that_it_was_made_with(tmp_path, monkeypatch):
    model = folder_of("timm:test_resnet", tmp_path / "model")
    other = network_of("timm:test_efficientnet")
    monkeypatch.setattr("neuralblack.models.table.timm_network", lambda _: other)

    with pytest.raises(InputError, match=r"weights of another timm:test_resnet than.*install what it was"):
        load_weights(model)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm:test_convnext", "timm:mobilenetv3_small_050"])
def test_the_linear_probe_sees_what_the_classifier_takes(name):
    found = pooled_features(random_slices(2, size=96).numpy(), model=name, weights="none")

    assert found.shape == (2, network_of(name).features)
