"""What the tests of pipelines share."""

from __future__ import annotations

import pytest

from vidgen_dist.pipelines import hunyuan_video_rules, tasks


@pytest.fixture
def nothing_told() -> None:
    """What is told once in a process has not been told yet."""
    tasks.warn_of_frames.cache_clear()
    hunyuan_video_rules._warn_of_guidance.cache_clear()
