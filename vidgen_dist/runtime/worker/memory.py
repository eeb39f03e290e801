"""Out of memory: the errors by which MindSpore and CANN report it."""

from __future__ import annotations

import re

# MindSpore and CANN raise a RuntimeError with one of many messages.
_NO_MEMORY = re.compile(
    r"out of memory|memory (not|isn't) enough|failed to alloc(ate)? \w*\s*memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the NPU ran out of memory."""
    matches = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(matches)
