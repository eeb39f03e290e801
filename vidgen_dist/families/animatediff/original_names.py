"""The names of motion modules in AnimateDiff's repository (https://github.com/guoyww/AnimateDiff)."""

from __future__ import annotations

import re

from vidgen_dist.weights.lora.fit import OriginalName


def original_name(module: str) -> OriginalName | None:
    """The original name of a module of diffusers' `UNetMotionModel`; None if it is the same."""
    name = re.sub(r"(\.motion_modules\.\d+)\.", r"\1.temporal_transformer.", module)
    if name == module:
        return None
    name = re.sub(r"\.attn1\b", ".attention_blocks.0", name)
    return OriginalName(re.sub(r"\.attn2\b", ".attention_blocks.1", name))
