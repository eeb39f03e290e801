"""The comparison with Ray Data counts renderings and videos, and changes the rows that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.benchmarks import ray_data
from tests.processes import Usage
from vidgen_dist.storage.names import safe_name

SPEND = """
import time
kept = b"x" * 200_000_000
until = time.process_time() + 0.3
while time.process_time() < until:
    pass
"""


@pytest.fixture
def job(tmp_path: Path) -> ray_data.Job:
    return ray_data.Job(tmp_path, rows=12, seconds=0.1, block_rows=1)


def test_the_second_manifest_changes_the_rows_that_are_named(job: ray_data.Job) -> None:
    ray_data.write_manifest(job)
    before = pq.read_table(job.manifest).to_pylist()
    ray_data.write_manifest(job, changed=True)
    after = pq.read_table(job.manifest).to_pylist()
    differing = {
        column: [number for number in range(12) if before[number][column] != after[number][column]]
        for column in before[0]
    }
    of_kind = {kind: list(numbers) for kind, numbers in ray_data.changes(job).items()}
    assert {column: numbers for column, numbers in differing.items() if numbers} == {
        "prompt": of_kind["other prompts"],
        "num_inference_steps": of_kind["other steps"],
    }
    assert of_kind["unchanged"] == [10, 11]
    assert of_kind["new"] == list(range(12, len(after)))
    assert len({row["id"] for row in after}) == len(after)


def test_renderings_and_videos_are_counted_by_row(job: ray_data.Job) -> None:
    ray_data.write_manifest(job)
    for stamp in ("3,1000", "3,2000", "11,1500"):
        (job.begun / stamp).touch()
    assert ray_data.renderings(job) == {3: 2, 11: 1}
    assert ray_data.renderings(job, since=1600) == {3: 1}
    video = job.output / "videos" / "ab" / f"{safe_name('row-11')}.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    assert ray_data.videos(job) == {11}


def test_usage_is_that_of_the_processes_that_were_started() -> None:
    with Usage(interval=0.01) as usage:
        subprocess.run([sys.executable, "-c", SPEND], check=True)
    assert usage.cpu_seconds >= 0.3
    assert usage.megabytes >= 200
