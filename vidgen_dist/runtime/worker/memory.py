"""Memory that was too short for a row: how MindSpore and CANN say so."""

from __future__ import annotations

import re

# MindSpore and CANN raise a RuntimeError with one of many texts.
_NO_MEMORY = re.compile(
    r"out of memory|memory (not|isn't) enough|failed to alloc(ate)? \w*\s*memory", re.IGNORECASE
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of the host or of the NPU."""
    told = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(told)
