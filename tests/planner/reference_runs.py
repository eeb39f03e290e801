"""Planned runs of reference checkpoints, and what their gangs send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests import references
from tests.families import tiny
from tests.planner.published import spec
from vidgen_dist import RenderRequest
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.rules import load_rules
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.planner.planned_run import PlannedRun, read_planned_run
from vidgen_dist.weights.checkpoint import Checkpoint


def reference_run(name: str, family: str = "cogvideox", **flags: object) -> tuple[Checkpoint, PlannedRun]:
    case = references.case(name, family)
    checkpoint = open_model_checkpoint(case.model)
    return checkpoint, read_planned_run(checkpoint, load_rules(checkpoint, case.task), spec(**flags), "910B")


def sent_by_rank(mesh: Mesh, name: str, family: str, request: RenderRequest) -> dict[str, int]:
    """Bytes that a rank sends while it renders, by purpose."""
    return dict(tiny.pipeline(references.case(name, family), mesh).render(request).sent)


def check_sent(counted: Sequence[Mapping[str, int]], planned: Mapping[str, float], steps: int) -> None:
    """On average, ranks have sent what the plan says of each step.

    If tokens or heads do not divide evenly, some ranks send more than others.

    Args:
        counted: What each rank has sent, by purpose.
        planned: What a rank sends in a step, by purpose.
        steps: How many there were.
    """
    for purpose in ("ulysses", "ring", "tokens", "cfg"):
        mean = sum(of_rank.get(purpose, 0) for of_rank in counted) / len(counted)
        assert mean == pytest.approx(steps * planned[purpose], rel=1e-3), purpose
