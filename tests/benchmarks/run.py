"""What `vidgen render` costs beside a bare loop: videos per minute of one replica, divided by the pipeline's.

    python -m tests.benchmarks.run [--rows 40] [--steps 100] [--turn 3] [--cores 1]

Both sides render the same rows with a tiny checkpoint, each in a process of its own. They take turns of a few
seconds, in which the processes of the other side are stopped, so that a machine whose speed changes
favours neither side. The time of a side's own turns counts, from its first finished video to its last:
loading and starting are left out on both sides. The bare loop only calls the pipeline: it neither encodes nor
writes.

On CPU the model computes on all cores, and Ray and the encoder compete with it, unlike on an NPU's host. With
`--cores 1` both models use one core, and everything else has the other cores. The number of steps compensates
for that a little: a video renders for seconds here, and for minutes with a published model.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from tests.processes import descendants
from tests.tiny_checkpoint import make_checkpoint
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.cli import app

Turn = tuple[float, float]
"""The begin and end of a turn, in seconds of `time.time()`."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--turn", type=float, default=3.0, help="Seconds of a turn.")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="Cores of the model.")
    parser.add_argument("--side", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, *rest = arguments.side
        {"bare": _bare_loop, "render": _render}[side](arguments.cores, *rest)
        return
    with tempfile.TemporaryDirectory() as scratch:
        manifest = Path(scratch) / "manifest.parquet"
        _write_manifest(manifest, arguments.rows, arguments.steps)
        _compare(manifest, Path(scratch), arguments.cores, arguments.turn)


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


def _render(cores: int, *arguments: str) -> None:
    """`vidgen render` on a Ray with this many CPUs, so that its only worker uses this many cores."""
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own name
    ray.init(
        address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, namespace="vidgen"
    )
    app(["render", *arguments])


def _bare_loop(cores: int, manifest: str, checkpoint: str) -> None:
    """The pipeline alone; prints the time when each video is finished."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    pipeline = load_pipeline(checkpoint)
    for row in pq.read_table(manifest).to_pylist():
        pipeline(RenderRequest(**row))
        print(time.time(), flush=True)


def _compare(manifest: Path, scratch: Path, cores: int, turn: float) -> None:
    output, times, checkpoint = scratch / "output", scratch / "times", scratch / "checkpoint"
    make_checkpoint(checkpoint)
    this = [sys.executable, "-m", "tests.benchmarks.run", "--cores", str(cores), "--side"]
    render = [*this, "render", str(manifest), str(output)]
    render += ["--model", str(checkpoint), "--device", "cpu", "--replicas", "1"]
    bare = [*this, "bare", str(manifest), str(checkpoint)]
    videos = output / "videos"
    with times.open("w") as file, _started(bare, file) as loop:
        _stop_when(loop, lambda: times.stat().st_size > 0)
        with _started(render, subprocess.DEVNULL) as whole:
            _stop_when(whole, lambda: videos.is_dir() and any(videos.rglob("*.mp4")))
            turns = _take_turns([whole, loop], turn)
    finished = [
        sorted(at.timestamp() for at in pq.read_table(output / "ledger")["finished_at"].to_pylist()),
        [float(line) for line in times.read_text().split()],
    ]
    seconds = [_seconds_a_video(*side) for side in zip(finished, turns, strict=True)]
    print(f"a video: vidgen render {seconds[0]:.3f} s, bare loop {seconds[1]:.3f} s")
    print(f"whole-run efficiency: {seconds[1] / seconds[0]:.3f}")


@contextmanager
def _started(command: Sequence[str], stdout: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _stop_when(side: subprocess.Popen[bytes], begun: Callable[[], bool]) -> None:
    """Let a side load without interruption, and stop it when its first video is finished."""
    while side.poll() is None and not begun():
        time.sleep(0.1)
    _send(side, signal.SIGSTOP)


def _take_turns(sides: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[list[Turn]]:
    """Let the sides take turns until one ends, then let the other end, too; returns each side's turns."""
    turns: list[list[Turn]] = [[], []]
    while all(side.poll() is None for side in sides):
        for side, its_turns in zip(sides, turns, strict=True):
            begun = time.time()
            _send(side, signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                side.wait(seconds)
            _send(side, signal.SIGSTOP)
            its_turns.append((begun, time.time()))
    for side in sides:
        _send(side, signal.SIGCONT)
        if side.wait():
            raise RuntimeError(f"{side.args}: exit status {side.returncode}")
    return turns


def _send(side: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and all of its descendants."""
    if side.poll() is None:
        for pid in (side.pid, *descendants(side.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _seconds_a_video(finished: Sequence[float], turns: Sequence[Turn]) -> float:
    """Seconds of a side's turns per video, from the first to the last video that it finished within them."""
    within = [at for at in finished if turns[0][0] <= at <= turns[-1][1]]

    def elapsed(at: float) -> float:
        return sum(min(at, end) - begun for begun, end in turns if begun < at)

    return (elapsed(within[-1]) - elapsed(within[0])) / (len(within) - 1)


if __name__ == "__main__":
    main()
