"""The costs of Mochi: the size of a checkpoint, and the work of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

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
from vidgen_dist.families.mochi.config import LATENT_FRAMES_AT_ONCE, MochiConfigs, VaeConfig
from vidgen_dist.families.mochi.rules import MochiRequest

# When a block needs most: the tokens, each head's rotary tables, and the feed-forward's tensors, which are a
# third wider than its gate and value alone. Measured on CPU: 23.4 with one sample, and 25.5 in all with two,
# which go through a block one after another.
_ALIVE = 24
_WAITING = 2
_OPERATORS = 60

# Parts of a block that do not multiply every token of the video.
_OF_TIME_OR_TEXT = (
    "norm1.linear",
    "norm1_context",
    "attn1.add_q_proj",
    "attn1.add_k_proj",
    "attn1.add_v_proj",
    "attn1.to_add_out",
    "ff_context",
)


def size(configs: MochiConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size."""
    transformer = counted["transformer"]
    dit = BlockStack(
        heads=configs.transformer.num_attention_heads,
        width=configs.transformer.inner_dim,
        linear=linear_weights(transformer, "transformer_blocks.0", leave_out=_OF_TIME_OR_TEXT),
        alive=_ALIVE,
        operators=_OPERATORS,
        waiting=_WAITING,
    )
    return ModelSize(
        denoisers=(network("transformer", transformer, dit),),
        text_encoder=t5_encoder(configs.text_encoder, counted["text_encoder"]),
        vae=autoencoder(counted["vae"], partial(_convolutions, config=configs.vae)),
    )


def workload(configs: MochiConfigs, r: MochiRequest) -> Workload:
    """The work of rendering a request, with a prompt of the greatest length."""
    channels, latent_frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    patches = (rows // configs.transformer.patch_size) * (columns // configs.transformer.patch_size)
    # The first batch also has the remainder.
    batches = max(latent_frames // LATENT_FRAMES_AT_ONCE, 1)
    largest = latent_frames - (batches - 1) * LATENT_FRAMES_AT_ONCE
    decoded_temporal = configs.vae.temporal_compression_ratio
    return Workload(
        frames=configs.vae.decoded_frames(latent_frames),
        height=r.height,
        width=r.width,
        steps=r.num_inference_steps,
        guided=r.is_guided,
        tokens=latent_frames * patches,
        text_tokens=r.max_sequence_length,
        latents=latent_frames * channels * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=largest * decoded_temporal,
        batches=batches,
        # Those before the first frame.
        repeated_frames=decoded_temporal - 1,
    )


COSTS = Costs(size, workload)


def _convolutions(shapes: Shapes, prefix: str, config: VaeConfig) -> Iterator[Convolution]:
    """The convolutions of an autoencoder's half, `encoder.` or `decoder.`, and the linear maps that are
    convolutions of single places."""
    levels = len(config.temporal_expansions)
    # By how much frames, and rows, are fewer than the video's after a number of the encoder's blocks.
    fewer = [(1, 1)]
    for level in range(levels):
        time, space, _ = config.strides(level)
        fewer.append((fewer[-1][0] * time, fewer[-1][1] * space))
    for name, shape in shapes.items():
        if not name.startswith(prefix) or not re.search(r"(\.conv|conv_in|proj\w*)\.weight$", name):
            continue
        kernel = (shape[2], shape[3], shape[4]) if len(shape) == 5 else (1, 1, 1)
        frames, rows = fewer[_level(name, levels)]
        yield Convolution(shape[1], shape[0], kernel, frames=1 / frames, pixels=1 / rows)


def _level(name: str, levels: int) -> int:
    """After how many of the encoder's blocks the image has the size of a convolution's output."""
    block = re.search(r"(down|up)_blocks\.(\d+)\.", name)
    if block:
        # The encoder's blocks begin by reducing pixels; the decoder's end by making more from channels.
        return int(block[2]) + 1 if block[1] == "down" else levels - int(block[2])
    near_pixels = re.match(r"encoder\.(proj_in|block_in)|decoder\.(block_out|proj_out)", name)
    return 0 if near_pixels else levels
