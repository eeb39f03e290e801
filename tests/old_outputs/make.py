"""Makes outputs for later commits to go on with: by `vidgen render`, killed between two steps.

    python -m tests.old_outputs.make FOLDER [NAME ...]

The runs take place in FOLDER/NAME, which is not there yet. Ledgers and run files name it, so take one that
says nothing of a machine, such as /data. The names are those of OUTPUTS; by default all.

Only the `vidgen` command is used, and the files that its README speaks of.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import vidgen_dist
from tests.old_outputs import OUTPUTS, OldOutput
from tests.processes import descendants

PATIENCE = 120.0

SAVED, TWIN = "s3://bucket/key?x=1#y %2e%2e%2f", "\u00e9"
"""The row whose rendering is cut short, and one of the same pixels that is not begun."""

CUT_SHORT = {"prompt": "Waves roll over a quiet beach.", "seed": 2**62 + 11, "num_inference_steps": 40}

TOLD = ("id", "status", "frames", "fps", "width", "height", "seed", "fingerprint", "sha256", "source")
MEASURED = ("mean_luma", "motion", "clipped", "flags")
"""What of the ledger does not depend on when and where a row was rendered."""


@dataclass(frozen=True)
class Rows:
    """A manifest that grows.

    Args:
        first: Its rows in the first run, which ends.
        later: What it grows by before the second run, which is killed.
        failed: Those of `first` that fail.
        adopted: Those of `later` whose videos are stored and not entered when the run is killed.
    """

    first: Sequence[dict[str, Any]]
    later: Sequence[dict[str, Any]]
    failed: Sequence[str] = ()
    adopted: Sequence[str] = ()


ROWS = {
    "cogvideox": Rows(
        first=[
            {"id": "../../escaped/狐 🦊", "prompt": "A red fox runs through the snow."},
            {"id": "two\nlines\t", "prompt": "A panda plays a guitar", "source": "b.csv", "seed": 0},
            {"id": "x" * 999 + "y", "prompt": "A street musician", "use_dynamic_cfg": True},
        ],
        later=[
            {"id": "x" * 1000, "prompt": "A street musician"},
            {"id": SAVED, **CUT_SHORT, "priority": 1, "source": "c.csv"},
            {"id": TWIN, **CUT_SHORT},
            {"id": "e\u0301", "prompt": "An old train crosses a bridge.", "fps": 12.5},
        ],
    ),
    "ltx": Rows(
        first=[
            {"id": "PLAIN", "prompt": "A red fox runs through the snow."},
            {"id": "videos/../../ledger/part.parquet", "prompt": "A panda", "image": "fox.png"},
            {"id": "a\\b ", "prompt": "A hummingbird drinks", "image": "torn.png", "source": "b.csv"},
        ],
        later=[
            {"id": "🦊" * 40, "prompt": "An old train crosses a bridge.", "priority": 2, "source": "c.csv"},
            {"id": SAVED, **CUT_SHORT, "priority": 1, "frame_rate": 12.5},
            {"id": TWIN, **CUT_SHORT, "frame_rate": 12.5},
            {"id": "plain", "prompt": "A red fox runs through the snow.", "guidance_rescale": 0.5},
        ],
        failed=["a\\b "],
        adopted=["🦊" * 40],
    ),
}


def main() -> None:
    """Make the outputs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(OUTPUTS), metavar="NAME")
    given = parser.parse_args()
    for name in given.names:
        make(OUTPUTS[name], ROWS[name], given.folder.absolute() / name)


def make(old: OldOutput, rows: Rows, folder: Path) -> None:
    """Make one output, and see what becomes of its rows, in a folder that is not there yet."""
    folder.mkdir(parents=True)
    checkpoint = shutil.copytree(old.checkpoint, folder / "checkpoint")
    manifest, out = folder / "manifest.parquet", folder / "out"
    if any("image" in row for row in (*rows.first, *rows.later)):
        write_images(folder)

    def command(output: Path) -> list[str]:
        render = [sys.executable, "-m", "vidgen_dist", "render", str(manifest), str(output)]
        return [*render, "--model", str(checkpoint), *old.flags(folder)]

    # Each run tries what failed again.
    status = 1 if rows.failed else 0
    write_manifest(manifest, rows.first)
    run(command(out), status)
    write_manifest(manifest, [*rows.first, *rows.later])
    kill_when_saved(command(out), out, rows.adopted)
    clean(out)

    run(command(folder / "whole"), status)
    again = shutil.copytree(out, folder / "again")
    run(command(again), status)
    expected = {
        "release": vidgen_dist.__version__,
        "done": [row["id"] for row in rows.first if row["id"] not in rows.failed],
        "failed": list(rows.failed),
        "adopted": list(rows.adopted),
        "saved": SAVED,
        "step": resumed_step(again),
        "twin": TWIN,
        "rows": outcomes(folder / "whole"),
    }
    compare(expected, outcomes(again))

    shutil.rmtree(old.folder, ignore_errors=True)
    old.folder.mkdir()
    for path in (manifest, *folder.glob("*.png")):
        shutil.copy(path, old.folder)
    shutil.copytree(out, old.folder / "out")
    (old.folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in old.folder.rglob("*") if path.is_file())
    print(f"{old.name}: {size:,} bytes, saved after step {expected['step']}")


def write_images(folder: Path) -> None:
    """An image, and one that was cut short."""
    ramp = Image.linear_gradient("L").resize((32, 32))
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(folder / "fox.png", optimize=True)
    content = (folder / "fox.png").read_bytes()
    (folder / "torn.png").write_bytes(content[: len(content) // 2])


def write_manifest(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows; what one leaves out is an empty cell."""
    names = list(dict.fromkeys(["source", *(name for row in rows for name in row)]))
    pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows]), path)


def run(command: Sequence[str], status: int) -> None:
    """Run to the end."""
    done = subprocess.run(command, check=False)
    if done.returncode != status:
        raise SystemExit(f"{command}: exit status {done.returncode}, not {status}")


def kill_when_saved(command: Sequence[str], output: Path, stored: Sequence[str]) -> None:
    """Kill a run with all its processes as soon as it has saved a rendering.

    Args:
        command: Starts it.
        output: Its output.
        stored: Rows whose videos it has stored by then.
    """
    videos = len(files(output / "videos")) + len(stored)
    process = subprocess.Popen(command)
    until = time.monotonic() + PATIENCE
    while not files(output / "scratch"):
        if process.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"{command}: has saved nothing")
        time.sleep(0.002)
    for pid in (*descendants(process.pid), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    if len(files(output / "videos")) != videos:
        raise SystemExit(f"{output}: there are not {videos} videos; make it again")


def files(folder: Path) -> list[Path]:
    """Files that are whole: what is being written has a hidden name."""
    return [path for path in folder.rglob("[!.]*") if path.is_file()]


def clean(output: Path) -> None:
    """Remove the logs, which name hosts, and the lease: another machine's run would wait for it."""
    shutil.rmtree(output / "logs")
    for path in list(output.rglob(".*")):
        path.unlink()


def outcomes(output: Path) -> list[dict[str, Any]]:
    """What became of each row at last, in the order of their ids."""
    entries = pq.read_table(output / "ledger").sort_by("finished_at").to_pylist()
    latest = {entry["id"]: {name: entry[name] for name in (*TOLD, *MEASURED)} for entry in entries}
    return [latest[row_id] for row_id in sorted(latest)]


def resumed_step(output: Path) -> int:
    """The step after which the saved rendering was gone on with, as the worker's log says."""
    (log,) = (output / "logs").iterdir()
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    (event,) = (event for event in events if event["event"] == "resumed")
    if event["row"] != SAVED or "error" in event:
        raise SystemExit(f"{output}: was not gone on with: {event}")
    return event["step"]


def compare(expected: dict[str, Any], again: list[dict[str, Any]]) -> None:
    """See that what was gone on with has become what it is in one go."""
    for one, other in zip(expected["rows"], again, strict=True):
        # What was adopted was measured on frames that were encoded.
        names = TOLD if one["id"] in expected["adopted"] else (*TOLD, *MEASURED)
        differing = [name for name in names if one[name] != other[name]]
        if differing:
            raise SystemExit(f"{one['id']!r}: in one go it has other values of {differing}")


if __name__ == "__main__":
    main()
