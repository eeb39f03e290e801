"""What a plan says of exchanges is what gangs count when they render."""

from __future__ import annotations

import dataclasses

import pytest

from tests import references
from tests.parallel.ranks import Ranks
from tests.planner.test_counting import reference_job
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.families.common.steps import gathered_bytes
from vidgen_dist.parallel.mesh import Degrees, Mesh
from vidgen_dist.planner.costs import estimate

STEPS = 2


def sent_by_rank(mesh: Mesh, name: str, request: RenderRequest) -> dict[str, int]:
    pipeline = load_pipeline(str(references.case(name).checkpoint), mesh=mesh)
    return dict(pipeline.render(request).sent)


@pytest.mark.parametrize(
    "degrees",
    [Degrees(ulysses=2, ring=2), Degrees(ulysses=2, cfg=2), Degrees(ulysses=3)],
    ids=str,
)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    request = dataclasses.replace(references.case("5b").requests[0], num_inference_steps=STEPS)
    _, job = reference_job(
        "5b",
        sampling__height=request.height,
        sampling__width=request.width,
        sampling__num_inference_steps=STEPS,
    )
    told = estimate(job.size, job.work, job.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, "5b", request, degrees=degrees)
    # Tokens and heads that do not divide make one rank send more and another less.
    for purpose in ("ulysses", "ring", "tokens", "cfg"):
        mean = sum(of_rank.get(purpose, 0) for of_rank in counted) / degrees.size
        assert mean == pytest.approx(STEPS * told.sent[purpose], rel=1e-3), purpose
    # Of a first video every rank encodes both halves' prompts; later ones have the negative one already.
    prompts = job.work.samples
    encoder = gathered_bytes(4 * sum(job.size.text_encoder.blocks), degrees.size)
    weights = STEPS * told.sent["weights"] + prompts * encoder
    for of_rank in counted:
        # On top: the rows of the table of tokens, and what makes the shares of tiny blocks equal.
        assert weights <= of_rank["weights"] <= 1.15 * weights
