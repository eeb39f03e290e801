"""Render videos at dataset scale on Ascend NPUs."""

from __future__ import annotations

import os
import sys

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()] != [os.path.dirname(os.path.dirname(__file__))]:
    # `python -m vidgen_dist` puts the current folder first: a numpy.py in it would be taken for NumPy.
    del sys.path[0]

from typing import TYPE_CHECKING, Any

from vidgen_dist.errors import Refused
from vidgen_dist.request import RenderRequest, RequestError

if TYPE_CHECKING:
    from vidgen_dist.families.loader import load_pipeline

__version__ = "0.1.0"
__all__ = ["Refused", "RenderRequest", "RequestError", "load_pipeline"]


def __getattr__(name: str) -> Any:
    # `vidgen status` must answer without loading MindSpore.
    if name == "load_pipeline":
        from vidgen_dist.families.loader import load_pipeline

        return load_pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
