"""What the parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.output.lease import Lease
from vidgen_dist.preflight.plan import Plan
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.interrupts import Interrupts


@dataclass(frozen=True)
class RunContext:
    """A run that is planned and holds its output's lease.

    Args:
        plan: What to render.
        lease: The right to write to the output.
        interrupts: When to end.
        progress: The counts on the console.
        counted: Digest of what is counted, see `RunStatus`.
        policies: How long to wait, and how often to try.
    """

    plan: Plan
    lease: Lease
    interrupts: Interrupts
    progress: RunProgress
    counted: str
    policies: RunPolicies
