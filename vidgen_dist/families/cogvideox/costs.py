"""The costs of CogVideoX: the size of a checkpoint, and the work of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from vidgen_dist.families.cogvideox.config import LATENT_FRAMES_AT_ONCE, CogVideoXConfigs, VaeConfig
from vidgen_dist.families.cogvideox.rules import CogVideoXRequest, ImageToVideoRequest, VideoToVideoRequest
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
from vidgen_dist.families.common.encoder_costs import t5_encoder

# When a block needs most: the streams of tokens, their normed concatenation, queries, keys and values, before
# and after rotation, and their copies in attention's layout. Measured on CPU: 15.4.
_ALIVE = 16
_OPERATORS = 50


def size(configs: CogVideoXConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size."""
    transformer = counted["transformer"]
    dit = BlockStack(
        heads=configs.transformer.num_attention_heads,
        width=configs.transformer.inner_dim,
        # The norms' maps take one vector of time, not the tokens.
        linear=linear_weights(
            transformer, "transformer_blocks.0", leave_out=("norm1.linear", "norm2.linear")
        ),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    return ModelSize(
        denoisers=(network("transformer", transformer, dit),),
        text_encoder=t5_encoder(configs.text_encoder, counted["text_encoder"]),
        vae=autoencoder(counted["vae"], partial(_convolutions, config=configs.vae)),
    )


def workload(configs: CogVideoXConfigs, r: CogVideoXRequest) -> Workload:
    """The work of rendering a request.

    A clip that decides the number of frames is assumed to be as long as the model's own videos.
    """
    vae, transformer = configs.vae, configs.transformer
    asked = r.num_frames or transformer.sample_frames
    decoded = vae.latent_frames(asked)
    denoised, channels, rows, columns = configs.latent_size(asked, r.height, r.width)
    patches = (rows // transformer.patch_size) * (columns // transformer.patch_size)
    batches = max(decoded // LATENT_FRAMES_AT_ONCE, 1)
    # The first batch also has the remainder.
    largest = min(decoded, LATENT_FRAMES_AT_ONCE + decoded % LATENT_FRAMES_AT_ONCE)
    return Workload(
        frames=vae.decoded_frames(decoded),
        height=r.height,
        width=r.width,
        steps=r.steps,
        guided=r.is_guided,
        tokens=denoised // transformer.frames_per_patch * patches,
        text_tokens=r.max_sequence_length,
        latents=denoised * channels * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=vae.decoded_frames(largest),
        batches=batches,
        encoded_frames=_encoded_frames(r, asked),
    )


COSTS = Costs(size, workload)


def _encoded_frames(r: CogVideoXRequest, asked: int) -> int:
    if isinstance(r, VideoToVideoRequest):
        return asked
    return 1 if isinstance(r, ImageToVideoRequest) else 0


def _convolutions(shapes: Shapes, prefix: str, config: VaeConfig) -> Iterator[Convolution]:
    """The convolutions of an autoencoder's half, `encoder.` or `decoder.`, that are larger than a pixel or
    see every pixel.

    Those in norms, of one pixel, see only the few latents and are left out.
    """
    deepest = len(config.block_out_channels) - 1
    for name, shape in shapes.items():
        if not name.startswith(prefix) or len(shape) < 4 or re.search(r"\.conv_[yb]\.", name):
            continue
        depth = _depth(name, prefix, deepest)
        # Frames change at the end of an upsampler and at the start of a downsampler: the image's size is one
        # step ahead.
        resampled = "samplers." in name
        image = depth - 1 if "upsamplers." in name else depth + 1 if resampled else depth
        frames = depth + 1 if "downsamplers." in name else depth
        yield Convolution(
            inputs=shape[1],
            outputs=shape[0],
            kernel=(shape[-3] if len(shape) == 5 else 1, shape[-2], shape[-1]),
            frames=_frames_share(frames, deepest, config.temporal_levels, decoding=prefix == "decoder."),
            pixels=1 / 2**image,
        )


def _depth(name: str, prefix: str, deepest: int) -> int:
    """How often the image was halved where a parameter is used."""
    block = re.match(r"(down|up)_blocks\.(\d+)\.", name.removeprefix(prefix))
    if block:
        return int(block[2]) if block[1] == "down" else deepest - int(block[2])
    whole = "conv_in" if prefix == "encoder." else "conv_out"
    return 0 if name.startswith(prefix + whole) else deepest


def _frames_share(depth: int, deepest: int, halvings: int, *, decoding: bool) -> float:
    """Frames at a depth per frame of the video.

    The encoder halves them in its first steps; the decoder doubles them in its first steps, at the small
    sizes.
    """
    halved = min(max(halvings - (deepest - depth), 0), halvings) if decoding else min(depth, halvings)
    return 1 / 2**halved
