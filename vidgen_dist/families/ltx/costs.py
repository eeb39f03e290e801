"""LTX-Video as a plan sees it: what its parameters do, and what a request makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vidgen_dist.families.common.costs import Convolution, ModelSize, Stack, Workload
from vidgen_dist.families.common.counting import Shapes, component, count, linear_weights
from vidgen_dist.families.common.encoder_costs import t5_encoder
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO
from vidgen_dist.families.ltx.rules import Geometry
from vidgen_dist.families.rules import Rules
from vidgen_dist.request import RenderRequest
from vidgen_dist.weights.checkpoint import Checkpoint

# The fullest moment of a block: the tokens, queries, keys and values, what they are turned with and in, and
# their copies in the layout of the attention. Beside an image, whose tokens have another time, every token
# has its own shift, scale and gate. Measured on CPU: 15.3 and 21.2.
_ALIVE = {TEXT_TO_VIDEO: 16, IMAGE_TO_VIDEO: 22}
_OPERATORS = 50


def model_size(checkpoint: Checkpoint, rules: Rules) -> ModelSize:
    """A checkpoint's size, counted from its models without weights.

    Raises:
        Refused: A config that cannot be.
    """
    transformer, vae = count(checkpoint, "transformer"), count(checkpoint, "vae")
    config = checkpoint.config("transformer")
    heads = config.get("num_attention_heads", 32)
    dit = Stack(
        heads=heads,
        width=heads * config.get("attention_head_dim", 64),
        # The text's keys and values are of few tokens.
        linear=linear_weights(
            transformer,
            "transformer_blocks.0",
            leave_out=("attn2.to_k", "attn2.to_v", "scale_shift_table"),
        ),
        alive=_ALIVE[rules.task],
        operators=_OPERATORS,
    )
    scales = _scales(checkpoint.config("vae"))
    return ModelSize(
        model=checkpoint.model,
        family=rules.family,
        transformer=component("transformer", transformer, dit),
        text_encoder=t5_encoder(checkpoint),
        vae=component(
            "vae",
            vae,
            encoder=_convolutions(vae.shapes, "encoder.", scales),
            decoder=_convolutions(vae.shapes, "decoder.", scales),
        ),
    )


def workload(checkpoint: Checkpoint, rules: Rules, request: RenderRequest) -> Workload:
    """What a request, its defaults filled in, asks of the model."""
    geometry = Geometry.of(checkpoint.config("vae"))
    assert request.height is not None
    assert request.width is not None
    assert request.num_frames is not None
    assert request.num_inference_steps is not None
    assert request.guidance_scale is not None
    assert request.max_sequence_length is not None
    latent_frames = geometry.latent_frames(request.num_frames)
    rows, columns = request.height // geometry.spatial, request.width // geometry.spatial
    tokens = latent_frames * rows * columns
    frames = geometry.decoded_frames(latent_frames)
    return Workload(
        frames=frames,
        height=request.height,
        width=request.width,
        steps=request.num_inference_steps,
        guided=request.guidance_scale > 1,
        tokens=tokens,
        text_tokens=request.max_sequence_length,
        latents=tokens * geometry.latent_channels,
        latent_rows=rows,
        # All at once: the decoder sees frames to come.
        frames_at_once=frames,
        batches=1,
        encoded_frames=1 if rules.task == IMAGE_TO_VIDEO else 0,
        text_joins=False,
    )


class _Scale(NamedTuple):
    """How many frames there are for each frame of video, and how many rows for each row."""

    frames: float
    pixels: float


def _scales(config: Mapping[str, Any]) -> list[tuple[str, _Scale]]:
    """What a convolution of the VAE makes, by the beginning of its name; the first that fits."""
    # Loads MindSpore.
    from vidgen_dist.families.ltx.autoencoder import HALVED, AutoencoderConfig

    known = AutoencoderConfig.from_mapping(config)
    pixels = _Scale(1 / known.patch_size_t, 1 / known.patch_size)
    scales = [("encoder.conv_in.", pixels)]
    scale = pixels
    for i, down in enumerate(known.down_stages):
        before = scale
        stride = down.shuffle or (HALVED if down.halves else (1, 1, 1))
        scale = _Scale(scale.frames / stride[0], scale.pixels / stride[1])
        block = f"encoder.down_blocks.{i}."
        # Pixels are shuffled behind the convolution, which makes all of them.
        scales += [(f"{block}resnets.", before), (f"{block}downsamplers.", before if down.shuffle else scale)]
        scales.append((block, scale))
    scales.append(("encoder.", scale))
    scale = pixels
    scales.append(("decoder.conv_out.", scale))
    for i, up in reversed(list(enumerate(known.up_stages))):
        block = f"decoder.up_blocks.{i}."
        scales.append((f"{block}resnets.", scale))
        if up.doubles:
            scale = _Scale(scale.frames / 2, scale.pixels / 2)
        scales.append((block, scale))
    return [*scales, ("decoder.", scale)]


def _convolutions(shapes: Shapes, prefix: str, scales: list[tuple[str, _Scale]]) -> tuple[Convolution, ...]:
    """The convolutions of one half of the autoencoder."""
    found = []
    for name, shape in shapes.items():
        if name.startswith(prefix) and re.search(r"\.conv\.weight$", name):
            scale = next(scale for start, scale in scales if name.startswith(start))
            kernel = (shape[2], shape[3], shape[4])
            found.append(Convolution(shape[1], shape[0], kernel, scale.frames, scale.pixels))
    return tuple(found)
