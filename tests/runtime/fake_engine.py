"""A fast fake engine: it renders noise from the seed, and does what a prompt tells it to.

Prompts are texts of words; those with a colon are orders:
    sleep:SECONDS   takes that long, in steps of a twentieth of a second
    raise:TEXT      raises RuntimeError
    exit-once:FILE  raises SystemExit unless FILE is there, and makes it
    die:            ends the process
    die-once:FILE   ends the process unless FILE is there, and makes it
    touch:FILE      makes FILE when rendering begins
    wait:FILE       goes on when FILE is there (60 s at most)
    replace:FOLDER  waits for a file in FOLDER, renames FOLDER to FOLDER.away, puts a file in its place
    ignore-steps:   calls no on_step, as a long denoising step would
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vidgen_dist import media
from vidgen_dist.errors import Refused
from vidgen_dist.pipelines.rendering import Rendering
from vidgen_dist.pipelines.rules import Rules, compute_dtype
from vidgen_dist.pipelines.tasks import TaskRules
from vidgen_dist.request import RenderRequest
from vidgen_dist.runtime.engine import OpenedModel
from vidgen_dist.spec import Model

STEP_SECONDS = 0.05

MAIN = "1111"
"""The commit of a hub id's main branch."""

_DEFAULTS = {
    "height": 16,
    "width": 16,
    "num_frames": 2,
    "num_inference_steps": 2,
    "guidance_scale": 6.0,
    "fps": 8.0,
}


def open_model(model: Model, device: str) -> OpenedModel:
    tasks = ("text-to-video", "image-to-video")
    task = model.task or tasks[0]
    if task not in tasks:
        raise Refused(f"{model.id}: task {task!r} is not one that this checkpoint can do")
    of_task = TaskRules(defaults=_DEFAULTS, multiples={"height": 8, "width": 8}, check=lambda _: None)
    rules = Rules(family="Fake", task=task, tasks=tasks, of_task=of_task)
    revision = model.revision or (MAIN if "/" in model.id else None)
    digest = hashlib.sha256(f"{model.id}@{revision}".encode()).hexdigest()
    return OpenedModel(
        rules=rules, digest=digest, revision=revision, dtype=compute_dtype(model.dtype, device)
    )


def load(model: Model, _device: str, _threads: int | None) -> FakePipeline:
    if model.id == "refused-by-workers":
        raise Refused("transformer.weight: missing")
    if model.id == "breaks-when-loaded":
        raise RuntimeError("device 0 is on fire")
    if model.id == "dies-when-loaded":
        os._exit(1)
    return FakePipeline()


class FakePipeline:
    def render(self, request: RenderRequest, on_step: Any = None) -> Rendering:
        begun = time.perf_counter()
        seconds = 0.0
        step = on_step or _ignore
        for word in request.prompt.split():
            order, colon, argument = word.partition(":")
            if not colon:
                continue
            if order == "touch":
                Path(argument).touch()
            elif order == "sleep":
                seconds += float(argument)
            elif order == "wait":
                _wait_until(Path(argument).exists, step)
            elif order == "replace":
                _wait_until(lambda folder=Path(argument): any(folder.glob("*.parquet")), step)
                os.rename(argument, f"{argument}.away")
                Path(argument).touch()
            elif order == "raise":
                raise RuntimeError(argument)
            elif order == "exit-once" and _is_first(Path(argument)):
                raise SystemExit("the model wants to leave")
            elif order == "die" or (order == "die-once" and _is_first(Path(argument))):
                os._exit(1)
            elif order == "ignore-steps":
                step = _ignore
        until = begun + seconds
        while time.perf_counter() < until:
            time.sleep(STEP_SECONDS)
            step(1, 2)
        if request.image is not None:
            media.read_image(request.image)
        rng = np.random.Generator(np.random.PCG64(request.seed or 0))
        shape = (request.num_frames, request.height, request.width, 3)
        return Rendering(rng.random(shape, np.float32), {"denoise": time.perf_counter() - begun})


def _ignore(_done: int, _steps: int) -> None:
    """A step that nobody hears of."""


def _wait_until(is_so: Callable[[], bool], step: Any) -> None:
    until = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(STEP_SECONDS)
        step(1, 2)


def _is_first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
