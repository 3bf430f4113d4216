"""Gradients of depthwise convolutions: those of float32 from the same bf16 numbers, where torch's own are slow."""

import pytest
import torch
from torch import nn

from neuralblack.config import TrainConfig
from neuralblack.data.splits import make_split
from neuralblack.training.depthwise import DepthwiseGradients
from neuralblack.training.recipe import train


def is_ours(output):
    return type(output.grad_fn).__name__ == "_ConvolutionBackward"


def random(*shape, seed=0):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return numbers.contiguous(memory_format=torch.channels_last)


def learn(conv, inputs):
    """Outputs, and the gradients of inputs and weights for the same gradient of the outputs."""
    inputs = inputs.clone().requires_grad_()
    outputs = conv(inputs)
    conv.zero_grad()
    outputs.backward(random(*outputs.shape, seed=1).to(torch.bfloat16).to(outputs.dtype))
    return outputs.detach(), [inputs.grad, *(each.grad for each in conv.parameters())]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "how", [{"kernel_size": 3, "stride": 2}, {"kernel_size": 5, "padding": 2}, {"kernel_size": 3, "dilation": 2}]
)
def test_the_forward_pass_keeps_its_bits_and_gradients_are_those_of_float32(how, bias):
    conv = nn.Conv2d(8, 8, groups=8, bias=bias, **how)
    for parameter in conv.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()  # so that float32 learns from the same numbers
    inputs = random(2, 8, 15, 15).to(torch.bfloat16).float()

    expected, exact = learn(conv, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        plain, _ = learn(conv, inputs)
        with DepthwiseGradients():
            found, gradients = learn(conv, inputs)

    assert torch.equal(found, plain) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-7)
    for gradient, one in zip(gradients, exact, strict=True):
        assert torch.equal(gradient, one.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    ("conv", "dtype"),
    [
        pytest.param(nn.Conv2d(8, 8, 3, groups=8), torch.bfloat16, id="small"),
        pytest.param(nn.Conv2d(8, 8, 3, stride=2), torch.bfloat16, id="dense"),
        pytest.param(nn.Conv2d(8, 16, 3, stride=2, groups=8), torch.bfloat16, id="two-for-each"),
        pytest.param(nn.Conv2d(8, 8, 5, groups=8, padding="same"), torch.bfloat16, id="padding-by-name"),
        pytest.param(nn.Conv2d(8, 8, 5, groups=8), torch.float32, id="fp32"),
        pytest.param(
            lambda x: nn.functional.conv2d(x, random(8, 1, 5, 5), None, 2, 1, 1, 8), torch.bfloat16, id="call"
        ),
    ],
)
def test_what_torch_does_fast_is_left_to_it(conv, dtype):
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), DepthwiseGradients():
        assert not is_ours(conv(random(2, 8, 15, 15)))


def test_what_learns_nothing_is_left_alone():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), DepthwiseGradients():
        assert nn.Conv2d(8, 8, 5, groups=8)(random(2, 8, 15, 15)).grad_fn is None


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_run_learns_with_them(dataset, precision):
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda net, inputs, output: seen.append(output))
    config = TrainConfig(
        model="efficientnet_lite0",
        weights="none",
        size=32,
        schedule="all",
        epochs=1,
        batch_size=64,
        precision=precision,
    )
    split = make_split(dataset, train=None, validation=(), test=(1,))

    with hook:
        train(config, dataset, split, report=lambda metrics, state: None, device="cpu")

    assert seen
    assert any(is_ours(output) for output in seen) == (precision == "bf16")
