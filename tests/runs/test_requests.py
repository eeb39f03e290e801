"""The requests of a run to its storage."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from tests.ledger.parts import entry
from tests.storage.s3_traffic import Traffic
from vidgen_dist.ledger import LedgerWriter, entry_writer
from vidgen_dist.output.ledger_committer import MANY_ENTRIES, CommitPolicy
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_storage

MOST = 1.2
"""Requests per video, in the steady state."""


@pytest.mark.usefixtures("local_ray")
def test_a_video_costs_one_request_and_a_share_of_a_ledger_part(
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
    s3_bucket: str,
    s3_traffic: Traffic,
) -> None:
    """The steady state is the difference between a run of many rows and a run of few."""
    # Parts are written as often as possible.
    policies = RunPolicies(commit=CommitPolicy(part_seconds=0.0, tick_seconds=0.01))
    few, many = 30, 230
    asked: list[Counter[tuple[str, str]]] = []
    for rows in (few, many):
        manifest = make_manifest(*({"id": f"{i:03d}", "prompt": "a"} for i in range(rows)))
        spec = make_spec(manifest, output__uri=f"s3://{s3_bucket}/out-{rows}", topology__shard_size=8)
        s3_traffic.counts.clear()
        result = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)
        assert result.done == rows
        asked.append(Counter())
        for (method, path), count in s3_traffic.counts.items():
            folder = path.removeprefix(f"/{s3_bucket}/out-{rows}/").partition("/")[0]
            asked[-1][method, folder] += count
    print(asked)
    assert [counts["PUT", "videos"] for counts in asked] == [few, many]
    assert (asked[1].total() - asked[0].total()) / (many - few) <= MOST


@pytest.mark.parametrize(("gangs", "seconds"), [(8, 60.0), (100, 240.0), (1000, 240.0), (64, 0.03)])
def test_ledger_parts_are_few_and_no_entry_waits_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gangs: int, seconds: float
) -> None:
    """With many gangs and a model of any speed."""
    now = [0.0]
    written: list[float] = []
    monkeypatch.setattr(entry_writer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Storage, "write_bytes", lambda *_: written.append(now[0]))
    policy = CommitPolicy()
    writer = LedgerWriter(
        open_storage(tmp_path),
        "run",
        max_entries=MANY_ENTRIES,
        max_seconds=policy.part_seconds,
        min_entries=policy.min_entries,
        patience=policy.patience_seconds,
    )
    videos, longest = 2000, 0.0
    begun: list[float] = []
    while len(begun) < videos:
        now[0] += min(seconds / gangs, policy.tick_seconds)
        while len(begun) < now[0] * gangs / seconds:
            begun.append(now[0])
            writer.take([entry(str(len(begun)))])
        waiting = begun[len(begun) - writer.waiting :]
        longest = max([longest, *(now[0] - since for since in waiting[:1])])
        writer.flush_due()
    assert 1 + len(written) / videos <= MOST
    assert longest <= policy.patience_seconds + policy.tick_seconds
