"""Tests of encoders run on the CPU."""

import pytest

from vidgen_dist import nn


@pytest.fixture(autouse=True, scope="session")
def cpu() -> None:
    nn.set_device("cpu")
