"""How patient a run is, in one value that is handed down to what waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy


@dataclass(frozen=True)
class RunPolicies:
    """What a run waits for, how long, and how often it tries.

    Args:
        supervisor: Of gangs.
    """

    supervisor: SupervisorPolicy = field(default_factory=SupervisorPolicy)
