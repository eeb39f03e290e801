"""The costs of I2VGen-XL: the size of a checkpoint, and the work of a request."""

from __future__ import annotations

from collections.abc import Mapping

from vidgen_dist.families.common.costs import (
    Costs,
    ModelSize,
    ParameterShapes,
    Workload,
    autoencoder,
    component_size,
)
from vidgen_dist.families.common.unet_costs import image_convolutions, unet
from vidgen_dist.families.i2vgen_xl.config import I2VGenXLConfigs
from vidgen_dist.families.i2vgen_xl.rules import I2VGenXLRequest


def size(configs: I2VGenXLConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size."""
    return ModelSize(
        denoisers=(unet("unet", counted["unet"], groups=configs.unet.norm_num_groups),),
        # One prompt of 77 tokens and one image: almost no time.
        others=tuple(component_size(name, counted[name]) for name in ("text_encoder", "image_encoder")),
        vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),
    )


def workload(configs: I2VGenXLConfigs, r: I2VGenXLRequest) -> Workload:
    """The work of rendering a request."""
    channels, frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    at_once = min(r.decode_chunk_size, frames)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=configs.scheduler.predictions(r.num_inference_steps),
        guided=r.is_guided,
        tokens=frames * rows * columns,
        text_tokens=configs.attended_tokens,
        latents=frames * channels * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=at_once,
        batches=-(-frames // at_once),
        encoded_frames=1,
        text_joins=False,
    )


COSTS = Costs(size, workload)
