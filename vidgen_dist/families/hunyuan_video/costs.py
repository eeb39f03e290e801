"""The costs of HunyuanVideo: the size of a checkpoint, and the work of a request."""

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
    component_size,
    linear_weights,
    network,
)
from vidgen_dist.families.common.encoder_costs import llama_encoder
from vidgen_dist.families.hunyuan_video.config import (
    FRAMES_OF_A_TILE,
    FRAMES_TO_THE_NEXT,
    HunyuanVideoConfigs,
    VaeConfig,
)
from vidgen_dist.families.hunyuan_video.rules import HunyuanVideoRequest

# When a single-stream block needs most: the tokens, normed, attention's result, and the feed-forward's
# tensors, four times as wide, with a copy beside attention's. Measured on CPU: 16.1; 9.9 in a dual-stream
# block. A second sample, which goes through a block after the first, holds 4.1 more.
_ALIVE = 17
_WAITING = 4
_OPERATORS = 50


def size(configs: HunyuanVideoConfigs, counted: Mapping[str, ParameterShapes], _task: str) -> ModelSize:
    """A checkpoint's size."""
    config, transformer = configs.transformer, counted["transformer"]
    dit = BlockStack(
        heads=config.num_attention_heads,
        width=config.inner_dim,
        # In dual-stream blocks equally many multiply a token of either stream.
        linear=linear_weights(transformer, "single_transformer_blocks.0", leave_out=("norm.linear",)),
        alive=_ALIVE,
        operators=_OPERATORS,
        # Without the refiner's, which see the text.
        blocks=config.num_layers + config.num_single_layers,
        waiting=_WAITING,
    )
    return ModelSize(
        denoisers=(network("transformer", transformer, dit),),
        text_encoder=llama_encoder(configs.text_encoder, counted["text_encoder"]),
        others=(component_size("text_encoder_2", counted["text_encoder_2"]),),
        vae=autoencoder(counted["vae"], partial(_convolutions, config=configs.vae)),
    )


def workload(configs: HunyuanVideoConfigs, r: HunyuanVideoRequest) -> Workload:
    """The work of rendering a request, with a prompt of the greatest length."""
    channels, latent_frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    frames_of_a_token, rows_of_a_token, columns_of_a_token = configs.transformer.patch
    patches = (rows // rows_of_a_token) * (columns // columns_of_a_token)
    frames = configs.vae.decoded_frames(latent_frames)
    # A tile has one frame more, the one before it; a last tile with nothing else is left out.
    starts = range(0, frames - 1, FRAMES_TO_THE_NEXT) if frames > FRAMES_OF_A_TILE else range(1)
    made = sum(min(FRAMES_OF_A_TILE + 1, frames - start) for start in starts)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=r.num_inference_steps,
        guided=r.is_guided,
        tokens=latent_frames // frames_of_a_token * patches,
        text_tokens=r.max_sequence_length,
        latents=latent_frames * channels * rows * columns,
        latent_rows=rows,
        latent_columns=columns,
        frames_at_once=min(FRAMES_OF_A_TILE + 1, frames),
        batches=len(starts),
        repeated_frames=made - frames,
    )


COSTS = Costs(size, workload)


def _convolutions(shapes: Shapes, prefix: str, config: VaeConfig) -> Iterator[Convolution]:
    """The convolutions of an autoencoder's half, `encoder.` or `decoder.`."""
    # How many frames, and rows, at one end become one after a number of blocks.
    behind = [(1, 1)]
    for level in range(len(config.block_out_channels)):
        time, space, _ = config.strides(level) or (1, 1, 1)
        behind.append((behind[-1][0] * time, behind[-1][1] * space))
    for name, shape in shapes.items():
        if not name.startswith(prefix) or len(shape) < 5:
            continue
        frames, rows = behind[_blocks_before(name, len(config.block_out_channels))]
        if prefix == "decoder.":
            frames, rows = behind[-1][0] // frames, behind[-1][1] // rows
        kernel = (shape[2], shape[3], shape[4])
        yield Convolution(shape[1], shape[0], kernel, frames=1 / frames, pixels=1 / rows)


def _blocks_before(name: str, blocks: int) -> int:
    """How many of its half's blocks come before a convolution; resizing ones come after their own."""
    found = re.search(r"_blocks\.(\d+)\.(\w+)\.", name)
    if found:
        return int(found[1]) + found[2].endswith("samplers")
    return 0 if re.match(r"encoder\.conv_in|decoder\.(conv_in|mid_block)", name) else blocks
