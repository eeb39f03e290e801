"""The costs of Stable Video Diffusion: the size of a checkpoint, and the work of a request."""

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
from vidgen_dist.families.stable_video_diffusion.config import GROUPS, StableVideoDiffusionConfigs
from vidgen_dist.families.stable_video_diffusion.rules import StableVideoDiffusionRequest


def size(
    _configs: StableVideoDiffusionConfigs, counted: Mapping[str, ParameterShapes], _task: str
) -> ModelSize:
    """A checkpoint's size."""
    return ModelSize(
        denoisers=(unet("unet", counted["unet"], groups=GROUPS),),
        others=(component_size("image_encoder", counted["image_encoder"]),),
        vae=autoencoder(counted["vae"], image_convolutions, divides="batch"),
    )


def workload(configs: StableVideoDiffusionConfigs, r: StableVideoDiffusionRequest) -> Workload:
    """The work of rendering a request."""
    frames, channels, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    chunk = min(r.decode_chunk_size or frames, frames)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=configs.scheduler.predictions(r.num_inference_steps),
        guided=r.is_guided,
        tokens=frames * rows * columns,
        latents=channels * frames * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=chunk,
        batches=-(-frames // chunk),
        # The image's embedding.
        text_tokens=1,
        text_joins=False,
        encoded_frames=1,
    )


COSTS = Costs(size, workload)
