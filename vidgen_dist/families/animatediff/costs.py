"""AnimateDiff as a plan sees it: what its parameters do, and what a request makes of it."""

from __future__ import annotations

from collections.abc import Mapping

from vidgen_dist.families.animatediff.config import AnimateDiffConfigs
from vidgen_dist.families.animatediff.rules import AnimateDiffRequest
from vidgen_dist.families.common.costs import Costs, Counted, ModelSize, Workload, autoencoder, component
from vidgen_dist.families.common.unet_costs import image_convolutions, unet


def size(configs: AnimateDiffConfigs, counted: Mapping[str, Counted], _task: str) -> ModelSize:
    """A checkpoint's size, the adapter's in the UNet."""
    return ModelSize(
        denoisers=(unet("unet", counted["unet"], groups=configs.motion_unet.norm_num_groups),),
        others=(component("text_encoder", counted["text_encoder"]),),
        vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),
    )


def workload(configs: AnimateDiffConfigs, r: AnimateDiffRequest) -> Workload:
    """What a request asks of the model."""
    channels, frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    at_once = min(r.decode_chunk_size, frames)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=len(configs.scheduler.schedule(r.num_inference_steps)),
        guided=r.is_guided,
        tokens=frames * rows * columns,
        text_tokens=configs.text_encoder.max_position_embeddings,
        latents=channels * frames * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=at_once,
        batches=-(-frames // at_once),
        text_joins=False,
    )


COSTS = Costs(size, workload)
