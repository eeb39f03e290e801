"""UNets over frames, and autoencoders of images, as a plan sees them: read off their parameters.

A family's `costs.py` hands in what was counted, with diffusers' parameter names, and gets the values of
`common.costs`:

    denoisers=(unet("unet", counted["unet"], groups=configs.unet.norm_num_groups),),
    vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),

Frames are divided over `ulysses` ranks (`parallel.frames`); a layer that sees one frame at a time needs
nothing of others. Bytes that a rank sends in a step, the mean of all P ranks of a sequence, of which
p = min(P, F) have frames, f of F each, of B samples, at N places of an image:

- `frames`: behind one all-to-all and before another a rank has all F frames of n of the N places. Each layer
  over time (a motion module or temporal transformer whole; of SVD each temporal block) sends
  B * C * sum over ranks of (f * (N - n) + n * (F - f)) numbers, C the channels that it is given.
- `halo`: a convolution over frames gives its neighbours one frame of what it is given, B * C * N * 2 * (p - 1)
  numbers of all ranks together.
- `norm`: a norm over a clip tells p - 1 others count, mean and variance of each group, in float32.
- `gather`: what was predicted, as others' `tokens`; `cfg` and `weights` are those of all families.

Left out are the embeddings of time and text, and what I2VGen-XL makes of its image before the first block:
less than a hundredth of the operations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace

from vidgen_dist.families.common.costs import (
    GATHERED_BLOCKS,
    Convolution,
    Counted,
    Denoiser,
    Shapes,
    Workload,
    prediction_ends,
    shared_lists,
    shared_out,
)
from vidgen_dist.families.common.steps import Exchange, Step, Stretch, gathered_bytes
from vidgen_dist.parallel.degrees import Degrees, shares

# Operators that go with each weight of two dimensions or more: itself, a norm or activation, a sum or a copy.
_OPERATORS_OF_WEIGHT = 3
# Bytes that a rank tells of each group of a norm: count, mean and variance.
_MOMENTS = 3 * 4

_BLOCK = re.compile(r"(conv_in|transformer_in|down_blocks\.\d+|mid_block|up_blocks\.\d+|conv_out)\.")
# Modules that run where all frames of a place are.
_OVER_TIME = re.compile(r"transformer_in|motion_modules|temp_attentions|temporal_transformer_blocks")
# Linear maps of one vector for each sample or frame, not of every place.
_OF_TIME = re.compile(r"time_emb_proj|time_pos_embed")


@dataclass(frozen=True)
class Counts:
    """What some layers do at one size of the image. Weights multiply every place, where nothing else is said.

    Args:
        convolved: Weights of convolutions.
        linear: Weights of linear maps.
        attending: Widths of attention from place to place, together.
        text: Weights that multiply the text's tokens.
        reading: Widths of attention to the text, together.
        temporal: Weights of linear maps that run where all frames of a place are.
        over_time: Widths of attention from frame to frame, together.
        trips: How often a rank exchanges its frames for all frames of some places, and back.
        trip_channels: Channels that travel on these, together.
        halos: Convolutions over frames.
        halo_channels: Channels that these are given, together.
        norms: Group norms over the whole clip.
        operators: Operators.
    """

    convolved: int = 0
    linear: int = 0
    attending: int = 0
    text: int = 0
    reading: int = 0
    temporal: int = 0
    over_time: int = 0
    trips: int = 0
    trip_channels: int = 0
    halos: int = 0
    halo_channels: int = 0
    norms: int = 0
    operators: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Block:
    """A block of a UNet: layers that run one after the other.

    Args:
        name: Its attribute path.
        parameters: Of all its layers.
        levels: How often the image was halved -> what its layers do at that size.
        held: Likewise -> channels of the tensors in memory at once at the fullest moment of a layer.
        kept: Likewise -> channels that wait in memory for the way up while it runs.
        shared: Parameters that a gang shares out.
        ahead: Of those, what is first in its list, which does not travel ahead.
        gathered: Parameters that a rank of a gang has whole at once: of each list the layer that runs and the
            next one.
    """

    name: str
    parameters: int
    levels: Mapping[int, Counts]
    held: Mapping[int, float]
    kept: Mapping[int, int]
    shared: int
    ahead: int
    gathered: int


@dataclass(frozen=True, kw_only=True)
class UNet(Denoiser):
    """A UNet over frames.

    Args:
        levels: Its blocks, in the order in which they run.
        groups: Groups of a norm over the whole clip.
    """

    levels: tuple[Block, ...]
    groups: int

    @property
    def gathered(self) -> int:
        """Parameters that a rank of a gang has whole at once, in the largest block."""
        return max(block.gathered for block in self.levels)

    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """The frames are divided over `ulysses` ranks; those without frames only hand on weights."""
        part = _Part(work, degrees, item, self.groups)
        return Step(
            tuple(part.stretch(block) for block in self.levels),
            prediction_ends(work, degrees, item, "gather"),
            gathered_bytes(sum(self.blocks) * item, degrees.size),
        )

    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """What waits for the way up, and what a layer holds, at the fullest block."""
        part = _Part(work, degrees, item, self.groups)
        return max(part.held(block) for block in self.levels)

    def most_ulysses(self, work: Workload, cfg: int) -> int:  # noqa: ARG002
        """As many as there are frames."""
        return work.frames


def unet(name: str, counted: Counted, *, groups: int) -> UNet:
    """A component of those parameters that is a UNet over frames, with diffusers' names.

    Args:
        name: The component's.
        counted: Its parameters; lists of layers may be shared out (`down_blocks.0.resnets`), or of blocks.
        groups: Groups of a norm over the whole clip (`norm_num_groups`).

    Raises:
        ValueError: A parameter of a block that is none of the kinds known.
    """
    raise NotImplementedError


def image_convolutions(shapes: Shapes, prefix: str) -> Iterator[Convolution]:
    """The convolutions of one half of an autoencoder of images, `encoder.` or `decoder.`, and the linear maps
    that are convolutions of single places; for `common.costs.autoencoder`.

    Decoders with convolutions over frames (SVD's) are among them.
    """
    raise NotImplementedError
