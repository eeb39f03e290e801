"""How patient a run is, in one value that is handed down to what waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidgen_dist.observability.progress import ProgressPolicy
from vidgen_dist.observability.stragglers import StragglerPolicy
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.output.status_file import StatusPolicy
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.storage.retry_policy import RetryPolicy


@dataclass(frozen=True)
class RunPolicies:
    """What a run waits for, how long, and how often it tries.

    Args:
        lease: Heartbeats of the output's lease, and how long others wait for one.
        commit: When entries are written to the ledger.
        supervisor: How long gangs may take, and how many of them may be lost.
        progress: How often progress is printed.
        status: How often `status.json` and metrics are brought up to date.
        stragglers: Which rows and gangs are called slow.
        retries: How often workers and the driver ask a storage again that refuses.
    """

    lease: LeasePolicy = field(default_factory=LeasePolicy)
    commit: CommitPolicy = field(default_factory=CommitPolicy)
    supervisor: SupervisorPolicy = field(default_factory=SupervisorPolicy)
    progress: ProgressPolicy = field(default_factory=ProgressPolicy)
    status: StatusPolicy = field(default_factory=StatusPolicy)
    stragglers: StragglerPolicy = field(default_factory=StragglerPolicy)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
