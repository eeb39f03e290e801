"""The processes of a Ray that a test starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def leave_out_monitors(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let each Ray that this process starts have two processes less.

    What workers print is read by nobody, and no cluster grows; one of the two looks ten times a second.

    Args:
        replace: Sets an attribute.
    """
    from ray._private.node import Node

    for start in ("start_log_monitor", "start_monitor"):
        replace(Node, start, lambda _: None)
