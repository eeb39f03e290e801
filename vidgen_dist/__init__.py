"""Render videos at dataset scale on Ascend NPUs."""

from __future__ import annotations

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [os.path.dirname(os.path.dirname(__file__))]:
    # `python -m vidgen_dist` puts the current folder first: a numpy.py in it would be taken for NumPy.
    del sys.path[0]

from typing import TYPE_CHECKING, Any

from vidgen_dist.errors import Refused
from vidgen_dist.package import VERSION
from vidgen_dist.request import RenderRequest, RequestError

if TYPE_CHECKING:
    from vidgen_dist.background.handle import RunHandle, render
    from vidgen_dist.families.loader import load_pipeline

__version__ = VERSION
__all__ = ["Refused", "RenderRequest", "RequestError", "RunHandle", "load_pipeline", "render"]


def __getattr__(name: str) -> Any:
    # `vidgen status` must answer without loading MindSpore.
    if name == "load_pipeline":
        from vidgen_dist.families.loader import load_pipeline

        return load_pipeline
    if name in ("RunHandle", "render"):
        from vidgen_dist.background import handle

        return getattr(handle, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
