"""Count how often a checkpoint shows what its prompts say, on prompts that training never saw.

    python -m tests.demo_model.evaluate [CHECKPOINT] [--count 200] [--sheet PNG] [--misses JSONL]

It renders as `vidgen demo` does, with the demo's own steps, guidance and size, and prints the table of the
model card. `--steps` and `--guidance` try others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.demo_model.clips import MOTIONS, SHAPES, Clip, held_out_clips
from tests.demo_model.measure import ATTRIBUTES, Measured, measure
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.demo import SAMPLING, checkpoint_path
from vidgen_dist.media.contact_sheet import contact_sheet


@dataclass(frozen=True)
class Result:
    """A rendered clip: what was asked for, what its frames show, and the frames (F, H, W, 3) uint8."""

    asked: Clip
    shown: Measured
    frames: NDArray[np.uint8]

    @property
    def right(self) -> dict[str, bool]:
        """Whether each attribute is right."""
        return self.shown.right(self.asked)

    @property
    def miss(self) -> dict[str, Any]:
        """The prompt, and what the frames show of it."""
        return {"prompt": self.asked.prompt, "shown": asdict(self.shown)}


def evaluate(
    checkpoint: str | os.PathLike[str], clips: Sequence[Clip], sampling: dict[str, Any] = SAMPLING
) -> list[Result]:
    """Render clips and measure them; clip number k, from 1, has the seed k."""
    return _evaluate(list(enumerate(clips, start=1)), os.fspath(checkpoint), sampling)


def evaluate_in_processes(
    checkpoint: str | os.PathLike[str], clips: Sequence[Clip], sampling: dict[str, Any], processes: int
) -> list[Result]:
    """The same results, in processes that have a core each."""
    if processes == 1:
        return evaluate(checkpoint, clips, sampling)
    numbered = list(enumerate(clips, start=1))
    parts = [numbered[start::processes] for start in range(processes)]
    work = partial(_evaluate, checkpoint=os.fspath(checkpoint), sampling=sampling)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _take_a_core, (context.Value("i", 0),)) as pool:
        of_parts = pool.map(work, parts, chunksize=1)
    return [of_parts[index % processes][index // processes] for index in range(len(clips))]


def _evaluate(
    numbered: Iterable[tuple[int, Clip]], checkpoint: str, sampling: dict[str, Any]
) -> list[Result]:
    pipeline = load_pipeline(checkpoint)
    results = []
    for number, clip in numbered:
        frames = pipeline(RenderRequest(prompt=clip.prompt, seed=number, **sampling))
        results.append(Result(clip, measure(frames), np.round(frames * 255).astype(np.uint8)))
    return results


def _take_a_core(taken: Any) -> None:
    """Stay on the next core, so that models do not take each other's."""
    with taken.get_lock():
        number, taken.value = taken.value, taken.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def table(results: Sequence[Result]) -> str:
    """In Markdown: how many of the clips are right, of all, of each motion and of each shape."""
    groups = {"all": list(results)}
    groups |= {motion: [r for r in results if r.asked.motion == motion] for motion in MOTIONS}
    groups |= {shape: [r for r in results if r.asked.shape == shape] for shape in SHAPES}
    lines = [
        f"| prompts | clips | {' | '.join(ATTRIBUTES)} | all four |",
        "|---" * (len(ATTRIBUTES) + 3) + "|",
    ]
    for name, group in groups.items():
        counts = [sum(r.right[attribute] for r in group) for attribute in ATTRIBUTES]
        counts.append(sum(all(r.right.values()) for r in group))
        shares = [f"{count / len(group):.1%}" if group else "" for count in counts]
        lines.append(f"| {name} | {len(group)} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, default=checkpoint_path())
    parser.add_argument("--count", type=int, default=200, help="Prompts.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=SAMPLING["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=SAMPLING["guidance_scale"])
    parser.add_argument("--sheet", type=Path, help="Write a contact sheet, as PNG.")
    parser.add_argument("--misses", type=Path, help="Write what is wrong, as JSON lines.")
    arguments = parser.parse_args()
    sampling = {**SAMPLING, "num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    clips = held_out_clips(arguments.count)
    results = evaluate_in_processes(arguments.checkpoint, clips, sampling, arguments.processes)
    print(f"{len(results)} prompts, {arguments.steps} steps, guidance {arguments.guidance:g}\n")
    print(table(results))
    if arguments.sheet:
        shown = [(f"{r.asked.prompt} ({_wrong(r) or 'right'})", r.frames) for r in results]
        contact_sheet(shown, columns=5, cell=96).save(arguments.sheet)
    if arguments.misses:
        misses = [result.miss for result in results if _wrong(result)]
        arguments.misses.write_text("".join(f"{json.dumps(miss)}\n" for miss in misses), encoding="utf-8")


def _wrong(result: Result) -> str:
    """The attributes that are wrong, and what is there instead."""
    return ", ".join(
        f"{name}: {getattr(result.shown, name)}" for name, right in result.right.items() if not right
    )


if __name__ == "__main__":
    main()
