"""What `vidgen render` costs over a bare loop: videos per minute of one replica over those of the pipeline.

    python -m tests.benchmarks.run [--rows 8] [--steps 120] [--rounds 3]

Both sides render the same rows of the demo's checkpoint with all cores, each in a process of its own, in
turns. Loading and starting are left out on both: the time that counts runs from the first finished
video to the last. The bare loop calls the pipeline and nothing else: it neither encodes nor writes.

On CPU encoding takes its time from the model's cores, which an NPU's host does not. The number of steps makes
up for that a little: a video renders for seconds here, for minutes with a published model.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.demo import checkpoint_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", metavar="MANIFEST", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(_bare_loop(Path(arguments.bare)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "manifest.parquet"
        _write_manifest(manifest, arguments.rows, arguments.steps)
        ratios = []
        for i in range(arguments.rounds):
            bare = _run_bare(manifest)
            whole = _run_whole(manifest, Path(scratch) / f"output-{i}", arguments.rows)
            ratios.append(whole / bare)
            print(f"vidgen render {whole:.2f} videos/min, bare loop {bare:.2f}, ratio {ratios[-1]:.3f}")
    print(f"whole-run efficiency: {statistics.median(ratios):.3f}")


def _write_manifest(path: Path, rows: int, steps: int) -> None:
    table = pa.table(
        {
            "id": [f"row-{i}" for i in range(rows)],
            "prompt": ["a red fox runs over fresh snow at dawn"] * rows,
            "seed": list(range(rows)),
            "num_frames": [17] * rows,
            "num_inference_steps": [steps] * rows,
        }
    )
    pq.write_table(table, path)


def _bare_loop(manifest: Path) -> float:
    """Videos per minute of the pipeline alone."""
    pipeline = load_pipeline(str(checkpoint_path()))
    requests = [RenderRequest(**row) for row in pq.read_table(manifest).to_pylist()]
    pipeline(requests[0])
    begun = time.perf_counter()
    for request in requests[1:]:
        pipeline(request)
    return 60 * (len(requests) - 1) / (time.perf_counter() - begun)


def _run_bare(manifest: Path) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.run", "--bare", str(manifest)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(finished.stdout.strip().splitlines()[-1])


def _run_whole(manifest: Path, output: Path, rows: int) -> float:
    """Videos per minute of a whole run, from the times in its ledger."""
    command = [sys.executable, "-m", "vidgen_dist", "render", str(manifest), str(output)]
    command += ["--model", str(checkpoint_path()), "--device", "cpu", "--replicas", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished: list[datetime] = sorted(pq.read_table(output / "ledger")["finished_at"].to_pylist())
    if len(finished) != rows:
        raise RuntimeError(f"{output}: {len(finished)} of {rows} rows are in the ledger")
    return 60 * (rows - 1) / (finished[-1] - finished[0]).total_seconds()


if __name__ == "__main__":
    main()
