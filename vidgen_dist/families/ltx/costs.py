"""The costs of LTX-Video: the size of a checkpoint, and the work of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

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
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from vidgen_dist.families.ltx.config import LTXConfigs, Stride, VaeConfig
from vidgen_dist.families.ltx.rules import LTXImageRequest, LTXRequest

# When a block needs most: the tokens, queries, keys and values, before and after rotation, and their copies
# in attention's layout. With an image, whose tokens have another time, every token has its own shift, scale
# and gate. Measured on CPU: 15.3 and 21.2.
_ALIVE = {TEXT_TO_VIDEO: 16, IMAGE_TO_VIDEO: 22}
_OPERATORS = 50

# Parts of a block that do not multiply every token of the video: the text has few keys and values.
_OF_TIME_OR_TEXT = ("attn2.to_k", "attn2.to_v", "scale_shift_table")


def size(configs: LTXConfigs, counted: Mapping[str, ParameterShapes], task: str) -> ModelSize:
    """A checkpoint's size."""
    transformer = counted["transformer"]
    dit = BlockStack(
        heads=configs.transformer.num_attention_heads,
        width=configs.transformer.inner_dim,
        linear=linear_weights(transformer, "transformer_blocks.0", leave_out=_OF_TIME_OR_TEXT),
        alive=_ALIVE[task],
        operators=_OPERATORS,
    )
    return ModelSize(
        denoisers=(network("transformer", transformer, dit),),
        text_encoder=t5_encoder(configs.text_encoder, counted["text_encoder"]),
        vae=autoencoder(counted["vae"], partial(_convolutions, scales=_scales(configs.vae))),
    )


def workload(configs: LTXConfigs, r: LTXRequest) -> Workload:
    """The work of rendering a request."""
    channels, latent_frames, rows, columns = configs.latent_size(r.num_frames, r.height, r.width)
    tokens = latent_frames * rows * columns
    frames = configs.vae.decoded_frames(latent_frames)
    return Workload(
        frames=frames,
        height=r.height,
        width=r.width,
        steps=r.num_inference_steps,
        guided=r.is_guided,
        tokens=tokens,
        text_tokens=r.max_sequence_length,
        latents=tokens * channels,
        latent_rows=rows,
        latent_columns=columns,
        # All at once: the decoder sees later frames.
        frames_at_once=frames,
        batches=1,
        encoded_frames=1 if isinstance(r, LTXImageRequest) else 0,
        text_joins=False,
    )


COSTS = Costs(size, workload)


class _Scale(NamedTuple):
    """Frames per frame of the video, and rows per row."""

    frames: float
    pixels: float

    def fewer(self, stride: Stride) -> _Scale:
        """The scale after `stride` frames, rows and columns have become one."""
        return _Scale(self.frames / stride[0], self.pixels / stride[1])


def _scales(config: VaeConfig) -> list[tuple[str, _Scale]]:
    """The scale at a convolution of the VAE, by the beginning of its name; the first match counts."""
    pixels = _Scale(1 / config.patch_size_t, 1 / config.patch_size)
    scales = [("encoder.conv_in.", pixels)]
    scale = pixels
    for i, down in enumerate(config.down_stages):
        before, scale = scale, scale.fewer(down.stride)
        block = f"encoder.down_blocks.{i}."
        # Pixels are moved after the convolution, which computes all of them.
        scales += [(f"{block}resnets.", before), (f"{block}downsamplers.", before if down.shuffle else scale)]
        scales.append((block, scale))
    scales.append(("encoder.", scale))
    scale = pixels
    scales.append(("decoder.conv_out.", scale))
    for i, up in reversed(list(enumerate(config.up_stages))):
        block = f"decoder.up_blocks.{i}."
        scales.append((f"{block}resnets.", scale))
        scale = scale.fewer(up.stride)
        scales.append((block, scale))
    return [*scales, ("decoder.", scale)]


def _convolutions(shapes: Shapes, prefix: str, scales: list[tuple[str, _Scale]]) -> tuple[Convolution, ...]:
    """The convolutions of an autoencoder's half."""
    found = []
    for name, shape in shapes.items():
        if name.startswith(prefix) and re.search(r"\.conv\.weight$", name):
            scale = next(scale for start, scale in scales if name.startswith(start))
            kernel = (shape[2], shape[3], shape[4])
            found.append(Convolution(shape[1], shape[0], kernel, scale.frames, scale.pixels))
    return tuple(found)
