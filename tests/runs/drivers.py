"""Drivers in processes of their own, with the fast fake engine; what they print and enter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import ray

from tests.commands import fake_vidgen


@contextmanager
def vidgen_render(manifest: str, output: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`vidgen render` with the fast fake engine, in a process group of its own, as in a shell."""
    command = [*fake_vidgen(), "render", manifest, str(output)]
    command += ["--model", "fake", "--device", "cpu", "--replicas", "2"]
    command += ["--shard-size", "2", "--format", "npy", *flags]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def flags_to_attach() -> list[str]:
    """Flags for a run on the cluster that the tests share."""
    return ["--address", ray.get_runtime_context().gcs_address]


def read_until(process: subprocess.Popen[str], part: str) -> str:
    """The first line of the run's output that contains this."""
    assert process.stdout is not None
    line = ""
    while part not in line:
        line = process.stdout.readline()
        assert line, f"it ended without {part!r}"
    return line


def ledger(output: Path) -> dict[str, str]:
    if not (output / "ledger").exists():
        return {}
    return {e["id"]: e["status"] for e in pq.read_table(output / "ledger").to_pylist()}
