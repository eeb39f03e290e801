"""All policies of a run in one value, which is passed to the parts that wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidgen_dist.observability.progress import ProgressPolicy
from vidgen_dist.observability.stragglers import StragglerPolicy
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.output.status_file import StatusPolicy
from vidgen_dist.runtime.connection import ConnectionPolicy
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.storage.retry_policy import RetryPolicy


@dataclass(frozen=True)
class RunPolicies:
    """How long a run waits for what, and how often it tries.

    Args:
        lease: Heartbeats of the output's lease, and how long other runs wait for one.
        commit: When entries are written to the ledger.
        supervisor: How long gangs may take, and how many of them may be lost.
        progress: How often progress is printed.
        status: How often `status.json` and metrics are brought up to date.
        stragglers: Which rows and gangs count as slow.
        connection: How long Ray may take to start, or a cluster to answer.
        retries: How often workers and the driver repeat a request that the storage has refused.
    """

    lease: LeasePolicy = field(default_factory=LeasePolicy)
    commit: CommitPolicy = field(default_factory=CommitPolicy)
    supervisor: SupervisorPolicy = field(default_factory=SupervisorPolicy)
    progress: ProgressPolicy = field(default_factory=ProgressPolicy)
    status: StatusPolicy = field(default_factory=StatusPolicy)
    stragglers: StragglerPolicy = field(default_factory=StragglerPolicy)
    connection: ConnectionPolicy = field(default_factory=ConnectionPolicy)
    retries: RetryPolicy = field(default_factory=RetryPolicy)
