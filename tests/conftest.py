"""What several test files share: a small dataset of made-up heads, and a Ray of our own."""

import pytest
import torch
from tests.tiny import MODELS, add_tiny_network, phantom_dataset

from neuralblack.data.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """60 slices of 64 x 64 pixels, four classes, folds 1 to 5."""
    return phantom_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(autouse=True)
def threads():
    """Torch's number of threads, on which sums' last bits depend, as it was before a test."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def tiny():
    """The row `tiny` in MODELS."""
    add_tiny_network()
    yield "tiny"
    del MODELS["tiny"]
