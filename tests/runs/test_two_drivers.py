"""Two runs on one output: the second one is refused, takes over, or continues after the first."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.output.holders import holder_of, policy_of, write_holder
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import read_ledger
from vidgen_dist.output import lease as leases
from vidgen_dist.output.lease import Lease
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.output_layout import LEASE_FILE, LEASE_LOCK
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("where", ["local", "s3"])
def test_two_drivers_on_one_output(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    tmp_path: Path,
    s3_bucket: str,
    where: str,
) -> None:
    policies = RunPolicies(lease=policy_of(0.5))
    uri = str(tmp_path / "out") if where == "local" else f"s3://{s3_bucket}/out"
    began, go = tmp_path / "began", tmp_path / "go"
    prompts = [f"touch:{began} wait:{go}", "two", "three"]
    spec = make_spec(make_manifest(*prompts), output__uri=uri, topology__replicas=1)
    console = io.StringIO()
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(render, spec, Console(file=console), engine=FAKE_ENGINE, policies=policies)
            wait_until(lambda: began.exists() or first.done())
            with pytest.raises(Refused, match="is rendering into it") as refused:
                render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)
        finally:
            go.touch()
        result = first.result(PATIENCE)
    assert (result.done, result.exit_status) == (3, 0)
    named = str(refused.value).split("run ")[1].split(" ")[0]
    assert f"run {named}\n" in console.getvalue()
    again = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)
    assert (again.done_before, again.exit_status) == (3, 0)
    assert not any(name in open_storage(uri).list() for name in (LEASE_FILE, LEASE_LOCK))


@pytest.mark.usefixtures("local_ray")
def test_a_driver_that_was_taken_over_stops_and_nothing_is_lost(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    policies = RunPolicies(lease=policy_of(0.5), commit=CommitPolicy(patience_seconds=0.0))
    began = tmp_path / "began"
    prompts = ["one", "two", f"touch:{began} ignore-steps: wait:{tmp_path}/never", "four"]
    spec = make_spec(make_manifest(*prompts), topology__replicas=1, topology__shard_size=1)
    console = io.StringIO()
    output = open_storage(spec.output.uri)

    def usurped() -> bool:
        write_holder(output, run="usurper")
        # A heartbeat that had read the lease before may have overwritten it.
        time.sleep(2 * policies.lease.interval_seconds)
        return holder_of(output).run == "usurper"

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(render, spec, Console(file=console), engine=FAKE_ENGINE, policies=policies)
        wait_until(lambda: began.exists() or first.done())
        wait_until(lambda: read_ledger(output).done == 2)
        wait_until(usurped)
        result = first.result(PATIENCE)
    assert result.exit_status == 1
    assert "run usurper (since then, last heartbeat later) took over" in result.message
    assert (result.done, result.pending) == (2, 2)
    assert holder_of(output).run == "usurper"


@pytest.mark.usefixtures("local_ray")
def test_rows_that_another_run_did_during_planning_are_not_rendered_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run begins after the first plan, and has ended when the lease is free."""
    spec = make_spec(make_manifest("one", "two"), topology__replicas=1)
    take_lease = leases.acquire

    def acquire_late(*args: object, **kwargs: object) -> Lease:
        monkeypatch.setattr("vidgen_dist.runtime.driver.render.acquire", take_lease)
        assert render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE).done == 2
        return take_lease(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("vidgen_dist.runtime.driver.render.acquire", acquire_late)
    result = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)
    assert (result.done_before, result.done) == (2, 0)
