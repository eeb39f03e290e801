"""What only CogVideoX does: clips that are cut, an adapter that it does not take."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests import references
from vidgen_dist import Refused, RequestError, load_pipeline
from vidgen_dist.families.loader import AnyPipeline

CLIP = references.case("v2v")


@pytest.fixture(scope="module")
def pipeline() -> AnyPipeline:
    return load_pipeline(str(CLIP.checkpoint), task=CLIP.task, variant=CLIP.variant)


def test_clip_shorter_than_num_frames_is_refused(pipeline: AnyPipeline) -> None:
    with pytest.raises(RequestError, match=r"num_frames: 1000 .* at most the clip's"):
        pipeline(dataclasses.replace(CLIP.requests[0], num_frames=1000))


def test_num_frames_cuts_a_clip(pipeline: AnyPipeline) -> None:
    request = dataclasses.replace(CLIP.requests[0], num_inference_steps=2)
    cut = pipeline(dataclasses.replace(request, num_frames=5))
    same = pipeline(dataclasses.replace(request, video=request.video[:5]))
    np.testing.assert_array_equal(cut, same)


def test_adapter_is_refused() -> None:
    with pytest.raises(Refused, match="adapter: 'motion'"):
        load_pipeline(str(references.case("2b").checkpoint), adapter="motion")
