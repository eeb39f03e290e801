"""What the tests of families share."""

from __future__ import annotations

import pytest

from tests.planner.conftest import run
from vidgen_dist import nn
from vidgen_dist.families.common import tasks
from vidgen_dist.families.hunyuan_video.rules import _warn_of_guidance

__all__ = ["run"]


@pytest.fixture(autouse=True, scope="session")
def cpu() -> None:
    nn.set_device("cpu")


@pytest.fixture
def nothing_told() -> None:
    """Warnings that are given once in a process have not been given yet."""
    tasks._warn_of_frames.cache_clear()
    _warn_of_guidance.cache_clear()
