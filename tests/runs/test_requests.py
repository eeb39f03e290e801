"""What a run asks of its storage."""

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
from vidgen_dist.output import ledger_committer as committer
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import Storage, open_storage

MOST = 1.2
"""Requests a video, in the steady state."""


@pytest.mark.usefixtures("local_ray")
def test_a_video_costs_one_request_and_a_share_of_a_ledger_part(
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
    s3_bucket: str,
    s3_traffic: Traffic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a run of many rows asks for beyond one of few is the steady state."""
    # Parts as often as there may be any.
    monkeypatch.setattr(committer, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(committer, "TICK_SECONDS", 0.01)
    few, many = 30, 230
    asked: list[Counter[tuple[str, str]]] = []
    for rows in (few, many):
        manifest = make_manifest(*({"id": f"{i:03d}", "prompt": "a"} for i in range(rows)))
        spec = make_spec(manifest, output__uri=f"s3://{s3_bucket}/out-{rows}", topology__shard_size=8)
        s3_traffic.counts.clear()
        assert render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE).done == rows
        asked.append(Counter())
        for (method, path), count in s3_traffic.counts.items():
            folder = path.removeprefix(f"/{s3_bucket}/out-{rows}/").partition("/")[0]
            asked[-1][method, folder] += count
    print(asked)
    assert [counts["PUT", "videos"] for counts in asked] == [few, many]
    assert (asked[1].total() - asked[0].total()) / (many - few) <= MOST


@pytest.mark.parametrize(("gangs", "seconds"), [(8, 60.0), (100, 240.0), (1000, 240.0), (64, 0.03)])
def test_parts_of_the_ledger_are_few_and_nothing_waits_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gangs: int, seconds: float
) -> None:
    """However slow the model is, with so many gangs."""
    now = [0.0]
    written: list[float] = []
    monkeypatch.setattr(entry_writer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Storage, "write_bytes", lambda *_: written.append(now[0]))
    writer = LedgerWriter(
        open_storage(tmp_path),
        "run",
        max_entries=committer.MANY_ENTRIES,
        max_seconds=committer.WAIT_SECONDS,
        min_entries=committer.FEW_ENTRIES,
        patience=committer.PATIENCE_SECONDS,
    )
    videos, longest = 2000, 0.0
    begun: list[float] = []
    while len(begun) < videos:
        now[0] += min(seconds / gangs, committer.TICK_SECONDS)
        while len(begun) < now[0] * gangs / seconds:
            begun.append(now[0])
            writer.take([entry(str(len(begun)))])
        waiting = begun[len(begun) - writer.waiting :]
        longest = max([longest, *(now[0] - since for since in waiting[:1])])
        writer.flush_due()
    assert 1 + len(written) / videos <= MOST
    assert longest <= committer.PATIENCE_SECONDS + committer.TICK_SECONDS
