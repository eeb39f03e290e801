"""A fast fake engine: it renders noise from the seed, and executes the commands in a prompt.

Words of a prompt that have a colon are commands:
    sleep:SECONDS   takes that long, in steps of a twentieth of a second
    raise:TEXT      raises RuntimeError
    nan:TEXT        raises NumericalError, which is a row's own fault
    uncounted:      counts a collective that no other rank has begun
    exit-once:FILE  raises SystemExit unless FILE exists, and creates it
    die:            ends the process
    die-once:FILE   ends the process unless FILE exists, and creates it
    stop-once:FILE  stops the process, as SIGSTOP does, unless FILE exists, and creates it
    hang-once:FILE  never returns, unless FILE exists, and creates it
    raise-once:FILE raises RuntimeError unless FILE exists, and creates it
    starve:FILE     runs out of memory, and adds a line to FILE, until that has two
    touch:FILE      creates FILE when rendering begins
    stamp:FILE      creates a file beside FILE: its name, a comma and the nanoseconds since 1970
    sign:FOLDER     creates a file in FOLDER, once, named after the rank, the process, NPUs and cores
    wait:FILE       goes on when FILE exists (60 s at most)
    replace:FOLDER  waits for a file in FOLDER, renames FOLDER to FOLDER.away, puts a file in its place
    spoil:FOLDER    renames FOLDER to FOLDER.away, puts a link in its place to where nobody can write
    black:          renders black frames
    frozen:         renders the first frame again and again
    ignore-steps:   gives no sign of life, as in a long denoising step
    mark:FOLDER     creates a file in FOLDER after every step, named after the step, the rank and the process
    at:STEP         commands are executed after that step (the first)

Only that rank of a gang executes `COMMAND@RANK:`. Ranks of a gang wait for each other before every step, over
the links that models use.
"""

from __future__ import annotations

import functools
import hashlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidgen_dist import media
from vidgen_dist.engine import OpenedModel
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.rendering import (
    NumericalError,
    OnProgress,
    OnState,
    Rendering,
    ResumeState,
    StageClock,
    seeded,
)
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, Rules, TaskRules
from vidgen_dist.families.rules import compute_dtype
from vidgen_dist.parallel.collectives import Traffic
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.links import Links, Listener
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.spec import ModelOptions, RunSpec, parse_bytes

FAKE_ENGINE = __name__
"""The argument `engine` of a run."""

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


@dataclass(frozen=True, kw_only=True)
class FakeRequest(ResolvedRequest):
    prompt: str
    num_frames: int
    guidance_scale: float

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > 1


@dataclass(frozen=True, kw_only=True)
class FakeImageRequest(FakeRequest):
    image: Any


def resolved(**fields: Any) -> FakeRequest:
    """A request with these fields, and every default filled in."""
    kind = FakeImageRequest if "image" in fields else FakeRequest
    return kind(**{"prompt": "x", **_DEFAULTS, **fields})


def open_model(model: ModelOptions, device: str, _ring: int = 1) -> OpenedModel:
    tasks = (TEXT_TO_VIDEO, IMAGE_TO_VIDEO)
    task = model.task or tasks[0]
    if task not in tasks:
        raise Refused(f"{model.id}: task {task!r} is not supported by this checkpoint")
    of_task = TaskRules(
        request=FakeImageRequest if task == IMAGE_TO_VIDEO else FakeRequest,
        defaults=_DEFAULTS,
        multiples={"height": 8, "width": 8},
    )
    rules = Rules(family="Fake", task=task, tasks=tasks, of_task=of_task)
    revision = model.revision or (MAIN if "/" in model.id else None)
    digest = hashlib.sha256(f"{model.id}@{revision}".encode()).hexdigest()
    return OpenedModel(
        rules=rules, digest=digest, revision=revision, dtype=compute_dtype(model.dtype, device)
    )


def start_check(_model: ModelOptions) -> Callable[[], None]:
    return lambda: None


def choose_gangs(_spec: RunSpec, _device: str, npus: int, _rows: int) -> tuple[int, Degrees]:
    return npus // 2, Degrees(ulysses=2)


def check_memory(spec: RunSpec, _device: str, _npus: int) -> None:
    if parse_bytes(spec.topology.memory or "") < 10**6:
        raise Refused("topology.memory: a rank needs 1 MB")


@dataclass(frozen=True)
class FakeMesh:
    """A rank and its links to the others."""

    rank: int = 0
    ranks: int = 1
    links: Links | None = None
    traffic: Traffic = field(default_factory=Traffic)

    def rehearse(self) -> None:
        self.meet()

    def meet(self) -> None:
        """Wait for all ranks.

        Raises:
            PeerLost: One of them is gone.
        """
        if self.links is None:
            return
        self.traffic.issued[tuple(range(self.ranks))] += 1
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        got = [bytearray(1) for _ in others]
        sends = [(rank, memoryview(b"x")) for rank in others]
        self.links.exchange(sends, list(zip(others, map(memoryview, got), strict=True))).wait()


class FakeRendezvous:
    def __init__(self, host: str) -> None:
        self._listener = Listener(host)
        self.address = self._listener.address

    def join(self, addresses: Sequence[str], rank: int, degrees: Degrees, timeout: float) -> FakeMesh:
        assert len(addresses) == degrees.size
        return FakeMesh(rank, degrees.size, self._listener.connect(addresses, rank, timeout))


def open_rendezvous(_device: str, _threads: int | None, host: str) -> FakeRendezvous:
    return FakeRendezvous(host)


def load(model: ModelOptions, _device: str, _threads: int | None, mesh: FakeMesh | None) -> FakePipeline:
    if model.id == "refused-by-workers":
        raise Refused("transformer.weight: missing")
    if model.id == "breaks-when-loaded":
        raise RuntimeError("device 0 is on fire")
    if model.id == "dies-when-loaded":
        os._exit(1)
    if model.id == "hangs-when-loaded":
        time.sleep(3600)
    if mesh is not None:
        assert mesh.traffic.issued, "a mesh is rehearsed before the model is loaded"
    return FakePipeline(mesh or FakeMesh(), command="die:" if model.id == "dies-in-every-row" else "")


def load_prompt_encoder(model: ModelOptions, _device: str, _threads: int | None) -> FakeEncoder:
    load(model, _device, _threads, None)
    return FakeEncoder()


class FakeEncoder:
    """Executes the commands in a prompt, and keeps nothing."""

    def encode_prompts(self, request: FakeRequest) -> None:
        pipeline = FakePipeline(FakeMesh())
        for command, argument in pipeline._commands(request.prompt):
            pipeline._execute(command, argument, lambda: None)


class FakePipeline:
    def __init__(self, mesh: FakeMesh, command: str = "") -> None:
        self._mesh = mesh
        self._command = command

    def render(
        self,
        request: FakeRequest,
        on_progress: OnProgress | None = None,
        *,
        resume: ResumeState | None = None,
        on_state: OnState | None = None,
    ) -> Rendering:
        commands = self._commands(f"{request.prompt} {self._command}")
        wanted = dict(commands)
        clock = StageClock(on_progress)
        with clock.stage("encode"):
            if isinstance(request, FakeImageRequest):
                media.read_image(request.image)
        rng = seeded(request.seed)
        noise = rng.random((request.num_frames, request.height, request.width, 3), np.float32)
        steps, first, latents = request.num_inference_steps, 0, noise
        if resume is not None:
            first, latents = resume.step, np.array(resume.arrays["latents"])
            rng.bit_generator.state = resume.rng
        with clock.stage("denoise", steps):
            if "ignore-steps" in wanted:
                clock.on_progress = None
            for i in range(first, steps):
                self._mesh.meet()
                latents = (latents + rng.random(latents.shape, np.float32)) % 1
                if "mark" in wanted:
                    Path(wanted["mark"], f"{i + 1},{self._mesh.rank},{os.getpid()}").touch()
                if on_state is not None:
                    on_state(ResumeState(i + 1, {"latents": latents}, rng.bit_generator.state))
                clock.report("denoise", i + 1, steps)
                if i + 1 == int(wanted.get("at", 1)):
                    step = functools.partial(clock.report, "denoise", i + 1, steps)
                    for command, argument in commands:
                        self._execute(command, argument, step)
        with clock.stage("decode"):
            self._mesh.meet()
            frames = latents.copy()
        if "black" in wanted:
            frames[:] = 0
        if "frozen" in wanted:
            frames[:] = frames[:1]
        return Rendering(frames, clock.seconds)

    def _commands(self, prompt: str) -> list[tuple[str, str]]:
        """The commands in a prompt for this rank, and their arguments."""
        found = []
        for word in prompt.split():
            command, colon, argument = word.partition(":")
            command, at, rank = command.partition("@")
            if colon and (not at or int(rank) == self._mesh.rank):
                found.append((command, argument))
        return found

    def _execute(self, command: str, argument: str, step: Callable[[], None]) -> None:
        file = Path(argument)
        if command == "touch":
            file.touch()
        elif command == "stamp":
            file.with_name(f"{file.name},{time.time_ns()}").touch()
        elif command == "sign":
            npus = os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
            cores = "+".join(map(str, sorted(os.sched_getaffinity(0))))
            sign = file / f"{self._mesh.rank},{os.getpid()},{npus},{cores}"
            if not sign.exists():
                sign.touch()
        elif command == "sleep":
            until = time.perf_counter() + float(argument)
            _wait_until(lambda: time.perf_counter() >= until, step)
        elif command == "wait":
            _wait_until(file.exists, step)
        elif command == "replace":
            _wait_until(lambda: any(file.glob("*.parquet")), step)
            os.rename(argument, f"{argument}.away")
            file.touch()
        elif command == "spoil":
            _wait_until(file.exists, step)
            os.rename(argument, f"{argument}.away")
            # In /sys not even root can create files.
            file.symlink_to("/sys")
        elif command == "raise" or (command == "raise-once" and _is_first(file)):
            raise RuntimeError(argument)
        elif command == "nan":
            raise NumericalError(argument)
        elif command == "uncounted":
            self._mesh.traffic.issued[tuple(range(self._mesh.ranks))] += 1
        elif command == "starve" and _count(file) <= 2:
            raise RuntimeError("Device(id:0) memory isn't enough and alloc failed, kernel name: MatMul")
        elif command == "exit-once" and _is_first(file):
            raise SystemExit("the model wants to leave")
        elif command == "die" or (command == "die-once" and _is_first(file)):
            os._exit(1)
        elif command == "stop-once" and _is_first(file):
            os.kill(os.getpid(), signal.SIGSTOP)
        elif command == "hang-once" and _is_first(file):
            while True:
                time.sleep(3600)


def _wait_until(condition: Callable[[], Any], step: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(STEP_SECONDS)
        step()


def _count(file: Path) -> int:
    """Add a line to a file; returns how many it has."""
    with file.open("a+") as lines:
        lines.write("x\n")
        lines.seek(0)
        return len(lines.readlines())


def _is_first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
