"""The names of the transformer's modules in Lightricks' repository (https://github.com/Lightricks/LTX-Video)."""

from __future__ import annotations

import re

from vidgen_dist.weights.lora.fit import OriginalName


def original_name(module: str) -> OriginalName | None:
    """The original name of a module of diffusers' `LTXVideoTransformer3DModel`; None if it is the same."""
    name = re.sub(r"^proj_in\b", "patchify_proj", module)
    name = re.sub(r"^time_embed\b", "adaln_single", name)
    name = re.sub(r"\.norm_(q|k)$", r".\1_norm", name)
    return None if name == module else OriginalName(name)
