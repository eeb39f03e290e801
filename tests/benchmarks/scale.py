"""What a manifest of millions of rows costs: checking, resuming, asking for the status and compacting.

    python -m tests.benchmarks.scale [--rows 100_000] [--part-rows 1000] [--seeds] [--priorities 5]
        [--from 100_000]

With `--from` it runs with that number of rows, with ten times as many, and so on up to `--rows`, and prints
how the costs grow. Manifest and ledger are made by formula; every row is done, with the fingerprint that a
run would have written. The model is `tests.fake_engine`, of which only the rules are used. Every step is a
new process: `resume` is everything that `vidgen render` does before Ray starts, and must find every row done;
`order` reads the first 131,072 rows, of mixed shapes and `--priorities`, as in a run with no row done;
`bad rows` makes dead letters of every tenth row of another manifest, after which the run ends before Ray.
CPU seconds are printed beside those of the clock, because the machine may be busy; memory is the largest
resident size.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from vidgen_dist.ledger import SCHEMA
from vidgen_dist.maintenance.status import read_status
from vidgen_dist.manifest import open_manifest, ordered_rows
from vidgen_dist.output.resume import RowResolver
from vidgen_dist.output.run_file import write_run_file
from vidgen_dist.preflight.plan import make_plan, open_run
from vidgen_dist.processes import InlineExecutor
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec, spec_from_flags

ROW_GROUP = 100_000
PROMPT = "take {}: a red fox runs over fresh snow at dawn, cinematic light, slow motion, 35 mm film"
STEPS = ("resume", "status", "order", "bad rows")
BAD = "bad.parquet"
ORDERED = 2**17


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--from", dest="first", type=int, help="Run with several numbers of rows.")
    parser.add_argument("--part-rows", type=int, default=1000, help="Entries of a ledger part.")
    parser.add_argument("--seeds", action="store_true", help="Rows have seeds.")
    parser.add_argument("--priorities", type=int, default=1, help="Number of different priorities.")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        _step(arguments.step[0], Path(arguments.step[1]))
        return
    rows = arguments.first or arguments.rows
    while rows <= arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            build(Path(scratch), rows, arguments.part_rows, arguments.seeds, arguments.priorities)
            _build_bad(Path(scratch))
            for step in STEPS:
                print(f"{rows:>12,} rows  {step:8} {_measure(step, scratch)}", flush=True)
        rows *= 10


def _measure(step: str, scratch: str) -> str:
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--step", step, scratch]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _step(step: str, scratch: Path) -> None:
    """Run one step in this process, and print what it took."""
    start, cpu = time.perf_counter(), time.process_time()
    base = _peak()
    {"resume": resume, "status": _status, "order": _order, "bad rows": _bad_rows}[step](scratch)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{seconds:7.1f} s  {cpu:7.1f} s of CPU  {_peak():7.0f} MB at most ({base:.0f} MB at the start)")


def _peak() -> float:
    """The largest resident size since the program began, in MB; `getrusage` would count its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _spec(scratch: Path) -> RunSpec:
    return spec_from_flags(
        {
            "model.id": "fake",
            "manifest.uri": str(scratch / "manifest.parquet"),
            "output.uri": str(scratch / "output"),
            "output.format": "npy",
            "topology.device": "cpu",
        }
    )


def resume(scratch: Path) -> None:
    plan = make_plan(*open_run(_spec(scratch)), device="cpu", engine=FAKE_ENGINE)
    assert plan.done == plan.total == plan.manifest.num_rows, (plan.done, plan.total)


def _status(scratch: Path) -> None:
    found = read_status(str(scratch / "output"))
    assert found["done"] == found["total"], found


def _order(scratch: Path) -> None:
    manifest = open_manifest(scratch / "manifest.parquet")
    wanted = np.ones(manifest.num_rows, np.bool_)
    rows = itertools.islice(ordered_rows(manifest, wanted, {}, {}), ORDERED)
    assert sum(1 for _ in rows) == min(ORDERED, manifest.num_rows)


def _bad_rows(scratch: Path) -> None:
    output = scratch / "output of bad rows"
    flags = {"manifest.uri": str(scratch / BAD), "output.uri": str(output)}
    spec = _spec(scratch).override({**flags, "faults.bad_rows": "fail", "faults.max_failures": 0})
    result = render(spec, Console(stderr=True), engine=FAKE_ENGINE)
    assert result.failed == -(-result.total // 10), result


def _build_bad(scratch: Path) -> None:
    """The same manifest, with a wrong number of frames in every tenth row."""
    with pq.ParquetFile(scratch / "manifest.parquet") as good:
        at = good.schema_arrow.get_field_index("num_frames")
        with pq.ParquetWriter(scratch / BAD, good.schema_arrow) as writer:
            for group in range(good.num_row_groups):
                table = good.read_row_group(group)
                frames = table.column(at).to_numpy().copy()
                frames[::10] = -3
                writer.write_table(table.set_column(at, "num_frames", pa.array(frames)))


def build(scratch: Path, rows: int, part_rows: int, seeds: bool, priorities: int) -> None:
    schema = _manifest_rows(0, 1, seeds, priorities).schema
    with pq.ParquetWriter(scratch / "manifest.parquet", schema) as writer:
        for start in range(0, rows, ROW_GROUP):
            writer.write_table(_manifest_rows(start, min(rows, start + ROW_GROUP), seeds, priorities))
    plan = make_plan(*open_run(_spec(scratch)), device="cpu", engine=FAKE_ENGINE)
    write_run_file(plan.output, plan.recorded)
    (scratch / "output" / "ledger").mkdir()
    resolving = RowResolver(plan.model.rules, plan.spec.seed, plan.identity)
    # Workers render at the same time: a part has rows from anywhere.
    random = np.random.default_rng(0)
    part = 0
    for batch in plan.manifest.batches():
        looking = list(resolving.fingerprints(batch, np.ones(len(batch), np.bool_), InlineExecutor()))
        places = np.concatenate([each.places for each in looking])
        order = random.permutation(len(places))
        ids = batch.ids.take(pa.array(places[order]))
        prints = pa.concat_arrays([each.fingerprints.result() for each in looking]).take(pa.array(order))
        for start in range(0, len(order), part_rows):
            table = _entries(ids.slice(start, part_rows), prints.slice(start, part_rows))
            pq.write_table(
                table,
                scratch / "output" / "ledger" / f"part-{part:06d}.parquet",
                compression="zstd",
                write_page_checksum=True,
            )
            part += 1


def _manifest_rows(start: int, stop: int, seeds: bool, priorities: int) -> pa.Table:
    numbers = range(start, stop)
    columns = {
        "id": [f"clip-{number:012d}" for number in numbers],
        "prompt": [PROMPT.format(number) for number in numbers],
        "num_frames": [(17, 33, 49)[number % 3] for number in numbers],
        "guidance_scale": [4.0 + number % 5 for number in numbers],
    }
    if seeds:
        columns["seed"] = list(numbers)
    if priorities > 1:
        # Spread with the multiplier of Lehmer's generator.
        columns["priority"] = [number * 48271 % (2**31 - 1) % priorities for number in numbers]
    return pa.table(columns)


def _entries(ids: pa.Array, fingerprints: pa.Array) -> pa.Table:
    count = len(ids)
    constant = {
        "status": "done",
        "frames": 49,
        "fps": 8.0,
        "width": 720,
        "height": 480,
        "bytes": 1_500_000,
        "model": "fake",
        "attempt": 1,
        "worker": "0123456789ab-gang-1",
        "seconds_denoise": 60.0,
        "finished_at": datetime.now(UTC),
    }
    hexes = np.frombuffer(os.urandom(32 * count), np.uint8).reshape(count, 32)
    columns = {name: pa.array([value] * count, SCHEMA.field(name).type) for name, value in constant.items()}
    columns["id"], columns["fingerprint"] = ids, fingerprints
    columns["sha256"] = pa.array([row.tobytes().hex() for row in hexes])
    columns["uri"] = pa.array([f"s3://bucket/run/videos/{row_id}.mp4" for row_id in ids.to_pylist()])
    return pa.table([columns.get(field.name, pa.nulls(count, field.type)) for field in SCHEMA], schema=SCHEMA)


if __name__ == "__main__":
    main()
