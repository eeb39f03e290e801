"""The file that names the holder of an output's lease."""

from __future__ import annotations

import json

from vidgen_dist.output.lease import Holder, LeasePolicy, read_holder
from vidgen_dist.output_layout import LEASE_FILE
from vidgen_dist.storage.folder import Storage


def holder_of(output: Storage) -> Holder:
    return read_holder(output.read_bytes(LEASE_FILE))


def write_holder(output: Storage, **fields: object) -> None:
    """Write the lease of a run whose process is gone."""
    whole = {"run": "gone", "since": "then", "heartbeat": "later", "beats": 7, **fields}
    output.write_bytes(LEASE_FILE, json.dumps(whole).encode())


def policy_of(interval: float) -> LeasePolicy:
    """No process is being killed in these tests, so locks need no patience."""
    return LeasePolicy(interval_seconds=interval, lock_seconds=0.1)
