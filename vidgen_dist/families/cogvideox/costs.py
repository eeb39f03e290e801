"""CogVideoX as a plan sees it: what its parameters do, and what a request makes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from vidgen_dist.families.cogvideox.rules import Geometry, Trained, steps_taken
from vidgen_dist.families.common.costs import Convolution, ModelSize, Stack, Workload
from vidgen_dist.families.common.counting import Shapes, component, count, linear_weights
from vidgen_dist.families.common.encoder_costs import t5_encoder
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, VIDEO_TO_VIDEO
from vidgen_dist.families.rules import Rules
from vidgen_dist.request import RenderRequest
from vidgen_dist.weights.checkpoint import Checkpoint

# The fullest moment of a block: the streams of tokens, their normed sum, queries, keys and values, what they
# are turned with and in, and their copies in the layout of the attention. Measured on CPU: 15.4.
_ALIVE = 16
_OPERATORS = 50


def model_size(checkpoint: Checkpoint, rules: Rules) -> ModelSize:
    """A checkpoint's size, counted from its models without weights.

    Raises:
        Refused: A config that cannot be.
    """
    transformer = count(checkpoint, "transformer")
    vae = count(checkpoint, "vae")
    config = checkpoint.config("transformer")
    heads = config.get("num_attention_heads", 30)
    dit = Stack(
        heads=heads,
        width=heads * config.get("attention_head_dim", 64),
        # The norms' maps take one vector of time, not the tokens.
        linear=linear_weights(
            transformer, "transformer_blocks.0", leave_out=("norm1.linear", "norm2.linear")
        ),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    levels = len(checkpoint.config("vae").get("block_out_channels", (128, 256, 256, 512)))
    halvings = int(math.log2(Geometry.of(config, checkpoint.config("vae")).temporal))
    return ModelSize(
        model=checkpoint.model,
        family=rules.family,
        transformer=component("transformer", transformer, dit),
        text_encoder=t5_encoder(checkpoint),
        vae=component(
            "vae",
            vae,
            encoder=_convolutions(vae.shapes, "encoder.", levels, halvings),
            decoder=_convolutions(vae.shapes, "decoder.", levels, halvings),
        ),
    )


def workload(checkpoint: Checkpoint, rules: Rules, request: RenderRequest) -> Workload:
    """What a request asks of the model.

    Args:
        request: With every default filled in. A clip that is to say how many frames there are is taken for as
            long as the model's own videos.
    """
    # Loads MindSpore.
    from vidgen_dist.families.cogvideox.autoencoder import LATENT_FRAMES_AT_ONCE

    config = checkpoint.config("transformer")
    geometry = Geometry.of(config, checkpoint.config("vae"))
    assert request.height is not None
    assert request.width is not None
    assert request.guidance_scale is not None
    assert request.max_sequence_length is not None
    asked = request.num_frames or config.get("sample_frames", Trained.sample_frames)
    decoded = geometry.latent_frames(asked)
    denoised = decoded + geometry.padding_frames(decoded)
    rows, columns = request.height // geometry.spatial, request.width // geometry.spatial
    patches = (rows // geometry.patch_size) * (columns // geometry.patch_size)
    batches = max(decoded // LATENT_FRAMES_AT_ONCE, 1)
    # The first batch also has the remainder.
    largest = min(decoded, LATENT_FRAMES_AT_ONCE + decoded % LATENT_FRAMES_AT_ONCE)
    return Workload(
        frames=geometry.decoded_frames(decoded),
        height=request.height,
        width=request.width,
        steps=steps_taken(request),
        guided=request.guidance_scale > 1,
        tokens=denoised // (geometry.patch_size_t or 1) * patches,
        text_tokens=request.max_sequence_length,
        latents=denoised * geometry.latent_channels * rows * columns,
        latent_rows=rows,
        frames_at_once=geometry.decoded_frames(largest),
        batches=batches,
        encoded_frames={VIDEO_TO_VIDEO: asked, IMAGE_TO_VIDEO: 1}.get(rules.task, 0),
    )


def _convolutions(shapes: Shapes, prefix: str, levels: int, halvings: int) -> tuple[Convolution, ...]:
    """The convolutions of one half of the autoencoder that are larger than a pixel or see every pixel.

    Those of the norms, a pixel large, see the few latents alone and are left out.

    Args:
        prefix: `encoder.` or `decoder.`.
        levels: Sizes of the image that it goes through, each half of the one before.
        halvings: How many of the steps between them halve the frames too.
    """
    return tuple(_each_convolution(shapes, prefix, levels - 1, halvings))


def _each_convolution(
    shapes: Mapping[str, tuple[int, ...]], prefix: str, deepest: int, halvings: int
) -> Iterator[Convolution]:
    for name, shape in shapes.items():
        if not name.startswith(prefix) or len(shape) < 4 or re.search(r"\.conv_[yb]\.", name):
            continue
        depth = _depth(name, prefix, deepest)
        # Frames change last in an upsampler and first in a downsampler: its image's size is one step ahead.
        resampled = "samplers." in name
        image = depth - 1 if "upsamplers." in name else depth + 1 if resampled else depth
        frames = depth + 1 if "downsamplers." in name else depth
        yield Convolution(
            inputs=shape[1],
            outputs=shape[0],
            kernel=(shape[-3] if len(shape) == 5 else 1, shape[-2], shape[-1]),
            frames=_frames_share(frames, deepest, halvings, decoding=prefix == "decoder."),
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
    """Frames at a depth for each frame of video.

    The encoder halves them in its first steps; the decoder doubles them in its own, at the small sizes.
    """
    halved = min(max(halvings - (deepest - depth), 0), halvings) if decoding else min(depth, halvings)
    return 1 / 2**halved
