"""A planned run of a reference checkpoint."""

from __future__ import annotations

from tests import references
from tests.planner.published import spec
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.rules import load_rules
from vidgen_dist.planner.planned_run import PlannedRun, read_planned_run
from vidgen_dist.weights.checkpoint import Checkpoint


def reference_run(name: str, family: str = "cogvideox", **flags: object) -> tuple[Checkpoint, PlannedRun]:
    case = references.case(name, family)
    checkpoint = open_model_checkpoint(case.model)
    return checkpoint, read_planned_run(checkpoint, load_rules(checkpoint, case.task), spec(**flags), "910B")
