"""Published UNets and autoencoders: diffusers' parameters, and torch's count of operations."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import numpy as np

from tests import references
from vidgen_dist.families.common.costs import ParameterShapes, Workload
from vidgen_dist.families.common.unet_costs import UNet, unet

UNETS = ("animatediff", "stable_video_diffusion", "i2vgen_xl")

# What a family's model has in `sharded`.
_LISTS = re.compile(
    r"((?:(?:down|up)_blocks\.\d+|mid_block)\.(?:resnets|attentions|motion_modules|temp_convs|temp_attentions))\."
)


@functools.cache
def counted(name: str) -> ParameterShapes:
    """A model's parameters, with its lists of layers sharded."""
    with np.load(references.HERE / "unet_operations.npz") as arrays:
        shapes = json.loads(str(arrays[f"{name}.shapes"]))
        found = {str(key): tuple(shape) for key, shape in zip(arrays[f"{name}.keys"], shapes, strict=True)}
    lists = dict.fromkeys(match[1] for key in found if (match := _LISTS.match(key)))
    return ParameterShapes(found, tuple(lists))


def facts(name: str) -> dict[str, Any]:
    """The input of torch's count, and its result."""
    with np.load(references.HERE / "unet_operations.npz") as arrays:
        return json.loads(str(arrays["models"]))[name]


@functools.cache
def network(name: str) -> UNet:
    """A UNet's costs."""
    return unet("unet", counted(name), groups=32)


def workload(name: str, **changes: Any) -> Workload:
    """The video that torch counted, with pixels eight times the latents'."""
    told = facts(name)
    frames, rows, columns = told["frames"], told["rows"], told["columns"]
    # I2VGen-XL's text has 64 tokens from the image's latents and 4 from its CLIP vector in addition.
    beside = 68 if name == "i2vgen_xl" else 0
    values = {
        "frames": frames,
        "height": 8 * rows,
        "width": 8 * columns,
        "steps": 25,
        "guided": told["samples"] == 2,
        "tokens": frames * rows * columns,
        "text_tokens": told["text_tokens"] + beside,
        "latents": 4 * frames * rows * columns,
        "latent_rows": rows,
        "latent_columns": columns,
        "frames_at_once": 8,
        "batches": -(-frames // 8),
        "text_joins": False,
    }
    return Workload(**{**values, **changes})
