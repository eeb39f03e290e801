"""NaN and infinity end a rendering; on a gang they end it on all ranks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import load_pipeline, nn
from vidgen_dist.families.common.rendering import NumericalError, check_finite, to_frames
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone

WRONG = (np.nan, np.inf, -np.inf)


@pytest.mark.parametrize("wrong", WRONG)
def test_one_wrong_value_is_enough(wrong: float) -> None:
    values = np.zeros((1, 3, 4, 5, 5), np.float32)
    check_finite(values, "denoise, step 3 of 50")
    assert to_frames(values, alone().gang).shape == (4, 5, 5, 3)
    values[0, 2, 3, 4, 4] = wrong
    with pytest.raises(NumericalError, match="denoise, step 3 of 50: values are NaN or infinite"):
        check_finite(values, "denoise, step 3 of 50")
    with pytest.raises(NumericalError, match="decode: values are NaN or infinite"):
        to_frames(values, alone().gang)


def spoil(pipeline: Any, part: str, wrong: float, call: int) -> None:
    """Make one value in a pipeline part's result wrong, from the n-th call on, counted from 1."""
    good, calls = getattr(pipeline, part), [0]

    def spoiled(*args: Any, **kwargs: Any) -> nn.Tensor:
        calls[0] += 1
        out = nn.to_numpy(good(*args, **kwargs)).copy()
        if calls[0] >= call:
            out.reshape(-1)[:1] = wrong
        return nn.from_numpy(out)

    setattr(pipeline, part, spoiled)


def load(mesh: Mesh | None = None) -> tuple[Any, Any]:
    """A pipeline and a request of three steps."""
    case = references.case("5b")
    pipeline = load_pipeline(str(case.checkpoint), mesh=mesh)
    return pipeline, dataclasses.replace(case.requests[0], num_inference_steps=3)


# Infinity less infinity, before the check.
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("part", "call", "stage"),
    [
        ("text_encoder", 1, "encode, text:"),
        ("text_encoder", 2, "encode, text:"),
        ("transformer", 1, "denoise, step 1 of 3:"),
        ("transformer", 3, "denoise, step 3 of 3:"),
    ],
)
def test_the_stage_and_the_step_are_named(part: str, call: int, stage: str, wrong: float) -> None:
    pipeline, request = load()
    spoil(pipeline, part, wrong, call)
    with pytest.raises(NumericalError, match=f"^{stage} values are NaN or infinite"):
        pipeline(request)


def test_a_decoder_that_overflows_makes_no_white_video() -> None:
    pipeline, request = load()
    spoil(pipeline.vae, "decode", np.inf, 1)
    with pytest.raises(NumericalError, match=r"^decode: "):
        pipeline(request)


def test_a_conditioning_image_that_overflows_the_encoder() -> None:
    case = references.case("i2v")
    pipeline: Any = load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant)
    good = pipeline.vae.encode
    pipeline.vae.encode = lambda pixels: (
        good(pixels)[0],
        nn.from_numpy(nn.to_numpy(good(pixels)[1]) * np.inf),
    )
    with pytest.raises(NumericalError, match=r"^encode, pixels: "):
        pipeline(dataclasses.replace(case.requests[0], num_inference_steps=2))


def spoil_first_rank(mesh: Mesh) -> tuple[str, np.ndarray]:
    """Wrong frames on rank 0, which alone has frames; then a request that succeeds."""
    pipeline, request = load(mesh)
    good = pipeline.vae.decode
    if mesh.rank == 0:
        spoil(pipeline.vae, "decode", np.nan, 1)
    try:
        pipeline(request)
        told = "rendered"
    except NumericalError as error:
        told = str(error)
    pipeline.vae.decode = good
    return told, pipeline(request)


def test_ranks_of_a_gang_raise_alike_and_go_on(ranks: Ranks) -> None:
    told = ranks.run(spoil_first_rank, degrees=Degrees(ulysses=2))
    assert [error.partition(":")[0] for error, _ in told] == ["decode", "decode"]
    pipeline, request = load()
    np.testing.assert_allclose(told[0][1], pipeline(request), atol=1e-4)
