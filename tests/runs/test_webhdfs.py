"""Runs with an output on a storage whose rename does not overwrite."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.storage.webhdfs import WebHdfs
from vidgen_dist.maintenance.verification import verify
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.output.ledger_entries import latest_entries
from vidgen_dist.output.status_file import read_status_file
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import open_storage


def run(spec: RunSpec) -> RunResult:
    policies = RunPolicies(lease=LeasePolicy(interval_seconds=0.2))
    return render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)


@pytest.mark.usefixtures("local_ray")
def test_a_run_with_other_settings_replaces_all_videos_of_the_run_before(
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
) -> None:
    with WebHdfs() as server:
        uri = f"webhdfs://127.0.0.1:{server.server_port}/user/me/out"
        output, manifest = open_storage(uri), make_manifest("one", "two sleep:1", "three")
        digests: set[str] = set()
        for seed in (0, 1):
            spec = make_spec(manifest, output__uri=uri, topology__replicas=1, seed=seed)
            result = run(spec)
            assert (result.done_before, result.done, result.failed, result.exit_status) == (0, 3, 0, 0)
            status = read_status_file(output)
            assert status is not None
            assert (status.state, status.done) == ("finished", 3)
            for entry in latest_entries(output).values():
                assert hashlib.sha256(read_bytes(entry["uri"])).hexdigest() == entry["sha256"]
                digests.add(entry["sha256"])
            found = verify(uri, deep=True)
            assert (found.videos, found.missing, found.torn, found.temporary) == (3, 0, 0, 0)
        assert len(digests) == 6
        # No lease and no temporary file is left.
        assert [path for path in output.sizes() if path.startswith(".") or "/." in path] == []
