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
        lease: Of the output's lease.
        commit: Of the ledger.
        supervisor: Of gangs.
        progress: Of lines on the console.
        status: Of `status.json` and metrics.
        stragglers: Of slow rows and gangs.
        retries: Of what workers and the driver ask of a storage.
    """

    lease: LeasePolicy = field(default_factory=LeasePolicy)
    commit: CommitPolicy = field(default_factory=CommitPolicy)
    supervisor: SupervisorPolicy = field(default_factory=SupervisorPolicy)
    progress: ProgressPolicy = field(default_factory=ProgressPolicy)
    status: StatusPolicy = field(default_factory=StatusPolicy)
    stragglers: StragglerPolicy = field(default_factory=StragglerPolicy)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
