"""The costs of the toy family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vidgen_toy.config import ToyConfigs
from vidgen_toy.rules import ToyRequest

from vidgen_dist.families.common.costs import (
    BlockStack,
    Convolution,
    Costs,
    ModelSize,
    ParameterShapes,
    Shapes,
    Workload,
    autoencoder,
    linear_weights,
    network,
)


def size(configs: ToyConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size."""
    ratio = configs.vae.spatial_compression_ratio
    return ModelSize(
        denoisers=tuple(
            network(
                name,
                counted[name],
                BlockStack(
                    heads=getattr(configs, name).num_heads,
                    width=getattr(configs, name).width,
                    linear=linear_weights(counted[name], "blocks.0"),
                    alive=6,
                    operators=10,
                ),
            )
            for name in ("denoiser", "denoiser_2")
        ),
        vae=autoencoder(counted["vae"], lambda shapes, half: _convolutions(shapes, half, ratio)),
    )


def workload(configs: ToyConfigs, r: ToyRequest) -> Workload:
    """The work of rendering a request."""
    ratio = configs.vae.spatial_compression_ratio
    tokens = r.num_frames * (r.height // ratio) * (r.width // ratio)
    return Workload(
        frames=r.num_frames,
        height=r.height,
        width=r.width,
        steps=r.steps,
        guided=r.is_guided,
        tokens=tokens,
        latents=tokens * configs.vae.latent_channels,
        latent_rows=r.height // ratio,
        latent_columns=r.width // ratio,
        frames_at_once=r.num_frames,
        batches=1,
        encoded_frames=1,
    )


def _convolutions(shapes: Shapes, half: str, ratio: int) -> Iterator[Convolution]:
    shape = shapes[f"{half}weight"]
    yield Convolution(shape[1], shape[0], (1, 1, 1), frames=1, pixels=1 / ratio)


COSTS = Costs(size, workload)
