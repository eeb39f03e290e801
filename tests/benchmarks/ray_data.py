"""The same small job by `vidgen render` and by Ray Data: how long it takes, and what a killed process costs.

    pip install pandas        # Ray Data's
    python -m tests.benchmarks.ray_data [--rows 80] [--seconds 0.2]

The job: rows of a manifest, each rendered to a small mp4 by two workers. The engine is the tests' fake
one: it sleeps, then makes noise, so that what is compared is everything around the model. Ray Data runs as
its guide for batch inference does: `read_parquet`, `map_batches` with a pool of two actors that render and
write the file, `write_parquet` for what became of the rows.

Each is run three times: undisturbed; with a worker killed half way (SIGKILL); with the driver and all that it
started killed half way, and then started again. Seconds run from the start of the process to its end, Ray's
own start included. What is counted is the rows of which two processes rendered frames, and at the end the
rows with a whole video and with an entry in the results.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.processes import descendants
from tests.runtime import fake_engine
from vidgen_dist import media, storage
from vidgen_dist.request import RenderRequest
from vidgen_dist.spec import Model

PATIENCE = 300.0

Start = Callable[[Path, Path], "subprocess.Popen[bytes]"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=0.2, help="What a row's rendering takes.")
    parser.add_argument("--peer", nargs=2, metavar=("MANIFEST", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        _render_with_ray_data(*arguments.peer)
        return
    for fault in ("none", "worker", "driver"):
        for name, start in (("vidgen", _start_vidgen), ("Ray Data", _start_ray_data)):
            with tempfile.TemporaryDirectory() as scratch:
                print(f"killed: {fault:7} {name:9}", end="", flush=True)
                print(_run(start, fault, Path(scratch), arguments.rows, arguments.seconds))


def _start_vidgen(manifest: Path, output: Path) -> subprocess.Popen[bytes]:
    flags = ["--model", "fake", "--device", "cpu", "--replicas", "2", "--format", "mp4"]
    module = "tests.runtime.vidgen_with_fake_engine"
    return _start([module, "render", str(manifest), str(output), *flags])


def _start_ray_data(manifest: Path, output: Path) -> subprocess.Popen[bytes]:
    return _start(["tests.benchmarks.ray_data", "--peer", str(manifest), str(output)])


def _start(module_and_arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *module_and_arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _render_with_ray_data(manifest: str, output: str) -> None:
    import ray

    # The actors take two cores, and reading and writing need one as well.
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=4)
    # A block a row: else one actor has them all.
    rows = ray.data.read_parquet(manifest).repartition(pq.read_metadata(manifest).num_rows)
    pool = ray.data.ActorPoolStrategy(size=2)
    results = rows.map_batches(_Render, fn_constructor_args=(output,), batch_size=1, compute=pool)
    results.write_parquet(f"{output}/ledger")


class _Render:
    """One of Ray Data's actors."""

    def __init__(self, output: str) -> None:
        self._pipeline = fake_engine.load(Model(id="fake"), "cpu", None, None)
        self._output = storage.open_storage(output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        uris = []
        for i in range(len(batch["id"])):
            row = {name: column[i] for name, column in batch.items()}
            row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
            frames = media.to_uint8(self._pipeline.render(RenderRequest(**row)).frames)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video.mp4"
                video = media.write_video(frames, path, format="mp4", fps=8.0, crf=18)
                uris.append(media.commit_video(self._output, video, storage.safe_name(row["id"])))
        return {"id": batch["id"], "uri": uris}


def _run(start: Start, fault: str, scratch: Path, rows: int, seconds: float) -> str:
    marks = [scratch / "marks" / f"{i:04}" for i in range(rows)]
    for folder in marks:
        folder.mkdir(parents=True)
    manifest, output = scratch / "manifest.parquet", scratch / "output"
    table = {
        "id": [f"row-{i}" for i in range(rows)],
        "prompt": [f"sleep:{seconds} mark:{folder}" for folder in marks],
        "num_frames": [9] * rows,
        "height": [64] * rows,
        "width": [64] * rows,
    }
    pq.write_table(pa.table(table), manifest)
    begun = time.monotonic()
    process = start(manifest, output)
    if fault != "none":
        _wait_until(lambda: sum(any(folder.iterdir()) for folder in marks) >= rows // 2)
    if fault == "worker":
        _kill(int(_latest(marks).name.split(",")[2]))
    if fault == "driver":
        for pid in (process.pid, *descendants(process.pid)):
            _kill(pid)
        process.wait()
        process = start(manifest, output)
    status = process.wait(PATIENCE)
    took = time.monotonic() - begun
    twice = sum(len({mark.name.split(",")[2] for mark in folder.iterdir()}) > 1 for folder in marks)
    videos = len(list((output / "videos").rglob("*.mp4")))
    ledger = output / "ledger"
    known = set(pq.read_table(ledger)["id"].to_pylist()) if any(ledger.rglob("*.parquet")) else set()
    return (
        f" {took:6.1f} s, exit status {status}; of {rows} rows {videos} videos, {len(known)} in the results, "
        f"{twice} rendered twice"
    )


def _latest(marks: Sequence[Path]) -> Path:
    return max((mark for folder in marks for mark in folder.iterdir()), key=lambda mark: mark.stat().st_mtime)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    main()
