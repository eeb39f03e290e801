"""Messages for the author of a family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vidgen_dist import Refused
from vidgen_dist.families import mochi
from vidgen_dist.families.family import Lazy, PipelineClass


def test_a_task_that_there_is_not() -> None:
    pipelines = (PipelineClass("MochiPipeline", "text-to-vidoe", Lazy("any:Any")),)
    with pytest.raises(
        ValueError, match=r"^Mochi: the task of MochiPipeline is 'text-to-vidoe'; allowed: text-"
    ):
        replace(mochi.FAMILY, pipelines=pipelines)


def test_a_task_that_no_pipeline_does() -> None:
    told = "^Mochi: its rules have the task 'image-to-video', which none of its pipelines does; their "
    with pytest.raises(Refused, match=told):
        mochi.FAMILY.pipeline_for("MochiPipeline", "image-to-video")
