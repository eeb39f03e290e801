"""The engine of the models; a process dies while it changes LoRAs, once for each folder of LoRAs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vidgen_dist import engine
from vidgen_dist.engine import (  # noqa: F401 - the functions of an engine
    check_memory,
    choose_gangs,
    open_model,
    open_rendezvous,
    start_check,
)

KILLING_ENGINE = __name__
"""The argument `engine` of a run."""

READS = 2
"""After so many parts of weights the process dies."""


def load(model: Any, device: str, threads: int | None, mesh: Any) -> Any:
    pipeline = engine.load(model, device, threads, mesh)
    use = pipeline.loras.use

    def die_once(loras: Sequence[tuple[str, float]], on_read: Callable[[], None] = lambda: None) -> Any:
        reads = 0

        def read() -> None:
            nonlocal reads
            on_read()
            reads += 1
            if loras and reads == READS and pipeline.mesh.rank == pipeline.mesh.gang.size - 1:
                try:
                    (Path(loras[0][0]).parent / "killed").touch(exist_ok=False)
                except FileExistsError:
                    return
                os.kill(os.getpid(), signal.SIGKILL)

        return use(loras, read)

    pipeline.loras.use = die_once
    return pipeline
