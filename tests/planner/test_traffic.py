"""A plan's exchanges are those that gangs count while they render."""

from __future__ import annotations

import dataclasses

import pytest

from tests import references
from tests.parallel.ranks import Ranks
from tests.planner.reference_runs import check_sent, reference_run, sent_by_rank
from vidgen_dist import load_pipeline
from vidgen_dist.families.common.costs import ParameterShapes, shared_lists
from vidgen_dist.families.common.step_costs import gathered_bytes
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.sharding import Layout
from vidgen_dist.planner.counting import count_models
from vidgen_dist.planner.estimates import estimate

STEPS = 2

CASES = [
    ("animatediff", "pndm", 0, Degrees(ulysses=2)),
    ("stable_video_diffusion", "small", 0, Degrees(ulysses=2)),
    ("i2vgen_xl", "i2v", 1, Degrees(ulysses=2)),
]
"""Cases of UNet families: the case, the number of its request, and the gang."""


def sent_in_a_step(mesh: Mesh, family: str, name: str, number: int) -> dict[str, int]:
    """What one step more makes a rank send, by purpose; decoding and encoding cancel out."""
    case = references.case(name, family)
    pipeline = load_pipeline(str(case.checkpoint), mesh=mesh, **case.options)
    # The first of three requests encodes a negative prompt for all of them.
    _, fewer, more = (
        pipeline.render(dataclasses.replace(case.requests[number], num_inference_steps=steps)).sent
        for steps in (STEPS, STEPS, STEPS + 1)
    )
    return {purpose: sent - fewer[purpose] for purpose, sent in more.items()}


def aligned_weights(counted: ParameterShapes, ranks: int) -> int:
    """Bytes of the sharded blocks, with the padding between their parameters."""
    blocks = [path for of_list in shared_lists(counted).values() for path in of_list]
    shapes = [
        [shape for key, shape in sorted(counted.shapes.items()) if key.startswith(f"{path}.")]
        for path in blocks
    ]
    return sum(4 * Layout.of(of_block, 4, ranks).length for of_block in shapes)


@pytest.mark.parametrize(("family", "name", "number", "degrees"), CASES, ids=str)
def test_bytes_of_a_step(ranks: Ranks, family: str, name: str, number: int, degrees: Degrees) -> None:
    request = references.case(name, family).requests[number]
    asked = {key: getattr(request, key) for key in ("height", "width", "num_frames", "guidance_scale")}
    given = {f"sampling__{key}": value for key, value in asked.items() if value is not None}
    checkpoint, run = reference_run(name, family, **given)
    told = dict(estimate(run.size, run.work, run.device, degrees, dtype="float32").sent)
    counted = ranks.run(sent_in_a_step, family, name, number, degrees=degrees)
    unet = count_models(checkpoint, references.case(name, family).model).counted["unet"]
    aligned = aligned_weights(unet, degrees.size)
    # Tiny parameters, each of which begins at a multiple of 512 bytes.
    assert told.pop("weights") < aligned
    assert {of_rank["weights"] for of_rank in counted} == {gathered_bytes(aligned, degrees.size)}
    # If a division has a remainder, some ranks send more than others.
    for purpose, sent in told.items():
        mean = sum(of_rank.get(purpose, 0) for of_rank in counted) / degrees.size
        assert mean == pytest.approx(sent, rel=1e-3), purpose
    assert {purpose for of_rank in counted for purpose, sent in of_rank.items() if sent} <= {*told, "weights"}


@pytest.mark.parametrize(
    "degrees",
    [Degrees(ulysses=2, ring=2), Degrees(ulysses=2, cfg=2), Degrees(ulysses=3)],
    ids=str,
)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    request = dataclasses.replace(references.case("5b").requests[0], num_inference_steps=STEPS)
    _, run = reference_run(
        "5b",
        sampling__height=request.height,
        sampling__width=request.width,
        sampling__num_inference_steps=STEPS,
    )
    told = estimate(run.size, run.work, run.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, "5b", "cogvideox", request, degrees=degrees)
    check_sent(counted, told.sent, STEPS)
    # For a first video every rank encodes both prompts; for later ones the negative one is cached.
    prompts = run.work.samples
    encoder = gathered_bytes(4 * sum(run.size.text_encoder.blocks), degrees.size)
    weights = STEPS * told.sent["weights"] + prompts * encoder
    for of_rank in counted:
        # In addition: the rows of the token table, and the padding that makes the shares of tiny blocks
        # equal.
        assert weights <= of_rank["weights"] <= 1.15 * weights
