"""The costs of AnimateDiff: the size of a checkpoint, and the work of a request."""

from __future__ import annotations

from collections.abc import Mapping

from vidgen_dist.families.animatediff.config import AnimateDiffConfigs
from vidgen_dist.families.animatediff.rules import AnimateDiffRequest
from vidgen_dist.families.common.costs import (
    Costs,
    ModelSize,
    ParameterShapes,
    Workload,
    autoencoder,
    component_size,
)
from vidgen_dist.families.common.unet_costs import image_convolutions, unet


def size(configs: AnimateDiffConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size, including the motion adapter."""
    return ModelSize(
        denoisers=(unet("unet", counted["unet"], groups=configs.unet.norm_num_groups),),
        others=(component_size("text_encoder", counted["text_encoder"]),),
        vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),
    )


def workload(configs: AnimateDiffConfigs, r: AnimateDiffRequest) -> Workload:
    """The work of rendering a request."""
    channels, frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=configs.scheduler.predictions(r.num_inference_steps),
        guided=r.is_guided,
        tokens=frames * rows * columns,
        text_tokens=configs.text_encoder.max_position_embeddings,
        text_joins=False,
        latents=channels * frames * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=min(r.decode_chunk_size, frames),
        batches=-(-frames // r.decode_chunk_size),
    )


COSTS = Costs(size, workload)
