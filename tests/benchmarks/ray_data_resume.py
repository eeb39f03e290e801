"""What it costs to find that all rows are done: with our ledger, and with Ray Data's checkpoints.

    pip install "pandas<3"    # for Ray Data; later versions need a NumPy that MindSpore does not accept
    python -m tests.benchmarks.ray_data_resume [--rows 100_000] [--part-rows 1000]

Manifest and ledger are those of `tests.benchmarks.scale`, and the checkpoints have as many files as the
ledger has parts; a job with blocks of one row is measured with `--part-rows 1`. Ours is everything that
`vidgen render` does before Ray starts, with the rows' fingerprints. Ray Data reads the manifest, filters it
and writes the remaining rows, of which there are none; Ray is started before the measurement. Processor time
is that of all processes, memory that of the largest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks import scale
from tests.processes import Usage

TOOK = "took"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--part-rows", type=int, default=1000, help="Rows of a checkpoint's file.")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        {"vidgen": _vidgen, "Ray Data": _ray_data}[given.step[0]](Path(given.step[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        scale.build(Path(folder), given.rows, max(given.part_rows, 1000), seeds=False, priorities=1)
        _write_checkpoints(Path(folder), given.part_rows)
        for system in ("vidgen", "Ray Data"):
            command = [sys.executable, "-m", "tests.benchmarks.ray_data_resume", "--step", system, folder]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            # Ray prints lines, too.
            line = next(line for line in found.splitlines() if line.startswith(TOOK))
            print(f"{given.rows:>12,} rows  {system:9} {line}", flush=True)


def _write_checkpoints(folder: Path, part_rows: int) -> None:
    (folder / "checkpoints").mkdir()
    ids = pq.read_table(folder / "manifest.parquet", columns=["id"]).combine_chunks()
    for start in range(0, len(ids), part_rows):
        pq.write_table(ids.slice(start, part_rows), folder / "checkpoints" / f"{start:012d}.parquet")


def _vidgen(folder: Path) -> None:
    watch = time.perf_counter()
    with Usage() as usage:
        scale.resume(folder)
    _report(time.perf_counter() - watch, usage)


def _ray_data(folder: Path) -> None:
    import ray
    from ray.data.checkpoint import CheckpointConfig

    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=4)
    # Otherwise the first worker's start would be counted.
    ray.get(ray.remote(pa.array).remote([1]))
    ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(folder / "checkpoints"), delete_checkpoint_on_success=False
    )
    watch = time.perf_counter()
    with Usage() as usage:
        ray.data.read_parquet(str(folder / "manifest.parquet")).write_parquet(str(folder / "results"))
    _report(time.perf_counter() - watch, usage)
    assert not list((folder / "results").glob("*.parquet")), "all rows were known"


def _report(seconds: float, usage: Usage) -> None:
    print(f"{TOOK} {seconds:7.1f} s  {usage.cpu_seconds:7.1f} s of CPU  {usage.megabytes:7.0f} MB at most")


if __name__ == "__main__":
    main()
