"""UNets over frames, and autoencoders of images, as a plan sees them: read off their parameters.

A family's `costs.py` hands in what was counted, with diffusers' parameter names, and gets the values of
`common.costs`:

    denoisers=(unet("unet", counted["unet"], groups=configs.unet.norm_num_groups),),
    vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),

Frames are divided over `ulysses` ranks (`parallel.frame_split`); a layer that sees one frame at a time needs
nothing of others. Bytes that a rank sends in a step, the mean of all P ranks of a sequence, of which
p = min(P, F) have frames, f of F each, of B samples, at N places of an image:

- `frames`: behind one all-to-all and before another a rank has all F frames of n of the N places. Each layer
  over time (a motion module or temporal transformer whole; of SVD each temporal block) sends
  B * C * sum over ranks of (f * (N - n) + n * (F - f)) numbers, C the channels that it is given.
- `halo`: for a convolution over frames neighbours give each other a frame of what it is given: of all ranks
  together B * C * N * 2 * (p - 1) numbers.
- `norm`: a norm over a clip tells p - 1 others count, mean and variance of each group, in float32.
- `gather`: what was predicted, as others' `tokens`; `cfg` and `weights` are those of all families.

The embeddings of time, text and image are left out: less than a thousandth of the operations. Attention to
SVD's one token, which is the same for all places, is counted as the reference computes it: our code saves
these 4 % of the operations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace

from vidgen_dist.families.common.costs import (
    GATHERED_BLOCKS,
    Convolution,
    Denoiser,
    ParameterShapes,
    Shapes,
    Workload,
    prediction_ends,
    shared_lists,
    shared_out,
)
from vidgen_dist.families.common.step_costs import Exchange, Segment, Step, gathered_bytes
from vidgen_dist.parallel.degrees import Degrees, shares

# Operators that go with each weight of two dimensions or more: itself, a norm or activation, a sum or a copy.
_OPERATORS_OF_WEIGHT = 3
# Tensors of all places that are in memory at once at the fullest moment of a UNet, within a feed-forward: the
# value and the gate, each four times as wide, as they were made, their copies and what comes of them, beside
# residuals. Measured on CPU, of AnimateDiff's UNet: 33.
_HELD_IN_FEED_FORWARD = 33
# Bytes that a rank tells of each group of a norm: count, mean and variance.
_MOMENTS = 3 * 4

# A network's blocks in the order in which they run; I2VGen-XL's begins with what stands beside its latents.
_ORDER = (
    "image_latents_proj_in",
    "image_latents_temporal_encoder",
    "conv_in",
    "transformer_in",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "conv_out",
)
_BLOCK = re.compile(rf"({'|'.join(_ORDER)})(?:(?<=_blocks)\.\d+)?(?=\.)")
# Modules that run where all frames of a place are.
_OVER_TIME = re.compile(
    r"image_latents_temporal_encoder|transformer_in|motion_modules|temp_attentions|temporal_transformer_blocks"
)
# Linear maps of one vector for each sample or frame, not of every place.
_OF_TIME = re.compile(r"time_emb_proj|time_pos_embed")
_ATTENTION = re.compile(r"\.(attn[12])\.to_(q|k|v|out)\b")
# Both attentions of these are from frame to frame.
_SELF_TWICE = re.compile(r"transformer_in|motion_modules|temp_attentions")
# Stands for a layer over time that has no map of its own in front: SVD's, and that of I2VGen-XL's image.
_FIRST_OVER_TIME = re.compile(
    r"(temporal_transformer_blocks\.\d+|image_latents_temporal_encoder)\.attn1\.to_q\.weight$"
)
_FEED_FORWARD = re.compile(r"\.ff(_in)?\.net\.0\.proj\.weight$")
# What gives a layer's result to the way up.
_RESNET = re.compile(r"\.resnets\.\d+\.(spatial_res_block\.)?conv1\.weight$")
_DOWNSAMPLER = re.compile(r"\.downsamplers\.\d+\.conv\.weight$")


@dataclass(frozen=True)
class LayerCounts:
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

    def __add__(self, other: LayerCounts) -> LayerCounts:
        return LayerCounts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class UNetBlock:
    """A block of a UNet: layers that run one after the other.

    Args:
        name: Its attribute path.
        parameters: Of all its layers.
        levels: How often the image was halved -> what its layers do at that size.
        held: Likewise -> channels of the tensors in memory at once at the fullest moment of a layer.
        kept: Likewise -> channels that wait in memory for the way up while it runs.
        shared: Parameters that a gang shares out.
        ahead: Of those, the first of each list, which do not travel ahead.
        gathered: Parameters that a rank of a gang has whole at once: of each list the layer that runs and the
            next one.
    """

    name: str
    parameters: int
    levels: Mapping[int, LayerCounts]
    held: Mapping[int, int]
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

    levels: tuple[UNetBlock, ...]
    groups: int

    @property
    def gathered(self) -> int:
        """Parameters that a rank of a gang has whole at once, in the largest block."""
        return max(block.gathered for block in self.levels)

    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """The frames are divided over `ulysses` ranks; those without frames only hand on weights."""
        part = _RankShare(work, degrees, item, self.groups)
        return Step(
            tuple(part.segment(block) for block in self.levels),
            prediction_ends(work, degrees, item, "gather"),
            gathered_bytes(sum(self.blocks) * item, degrees.size),
        )

    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """What waits for the way up, and what a layer holds, at the fullest block."""
        part = _RankShare(work, degrees, item, self.groups)
        return max(part.held(block) for block in self.levels)

    def most_ulysses(self, work: Workload, cfg: int) -> int:  # noqa: ARG002
        """As many as there are frames."""
        return work.frames


def unet(name: str, counted: ParameterShapes, *, groups: int) -> UNet:
    """A component of those parameters that is a UNet over frames, with diffusers' names.

    Args:
        name: The component's.
        counted: Its parameters; lists of layers may be shared out (`down_blocks.0.resnets`), or of blocks.
        groups: Groups of a norm over the whole clip (`norm_num_groups`).
    """
    names = {match[0]: None for key in counted.shapes if (match := _BLOCK.match(key))}
    order = sorted(names, key=_place)
    sizes, lists = _Sizes.of(counted.shapes), shared_lists(counted)
    shapes = {
        block: {key: shape for key, shape in counted.shapes.items() if key.startswith(f"{block}.")}
        for block in order
    }
    kept = _kept(shapes, sizes)
    blocks = tuple(_block(block, shapes[block], sizes, kept[block], lists) for block in order)
    return UNet(name, *shared_out(counted), levels=blocks, groups=groups)


def image_convolutions(shapes: Shapes, prefix: str) -> Iterator[Convolution]:
    """The convolutions of one half of an autoencoder of images, `encoder.` or `decoder.`, and the linear maps
    that are convolutions of single places; for `common.costs.autoencoder`.

    Decoders with convolutions over frames (SVD's) are among them. Attention from place to place is left out.
    """
    sizes = _Sizes.of(shapes, prefix)
    for name, shape in shapes.items():
        if name.startswith(prefix) and len(shape) > 1:
            # Of frames, rows and columns; images have no frames, linear maps none of these.
            frames, rows, columns = (1, 1, 1, *shape[2:])[-3:]
            yield Convolution(
                shape[1], shape[0], (frames, rows, columns), frames=1, pixels=1 / 2 ** sizes.level(name)
            )


@dataclass(frozen=True)
class _Sizes:
    """How often the image was halved at each layer of a network.

    Args:
        prefix: What its names begin with.
        halving, doubling: Numbers of the blocks behind which the image is halved, and doubled.
        first, last: How often it was where the network begins, and where it ends.
    """

    prefix: str
    halving: frozenset[int]
    doubling: frozenset[int]
    first: int
    last: int

    @classmethod
    def of(cls, shapes: Shapes, prefix: str = "") -> _Sizes:
        """The sizes in a network whose parameters' names begin with `prefix`."""

        def numbers(pattern: str) -> frozenset[int]:
            found = (re.match(re.escape(prefix) + pattern, key) for key in shapes)
            return frozenset(int(match[1]) for match in found if match)

        halving = numbers(r"down_blocks\.(\d+)\.downsamplers\.")
        doubling = numbers(r"up_blocks\.(\d+)\.upsamplers\.")
        goes_down, goes_up = (bool(numbers(rf"{way}_blocks\.(\d+)\.")) for way in ("down", "up"))
        return cls(
            prefix,
            halving,
            doubling,
            first=0 if goes_down else len(doubling),
            last=0 if goes_up else len(halving),
        )

    def level(self, name: str) -> int:
        """How often the image was halved where a layer's result is."""
        own = name.removeprefix(self.prefix)
        block = re.match(r"(down|up)_blocks\.(\d+)\.(down|up)?", own)
        smallest = max(len(self.halving), len(self.doubling))
        if block is None:
            if own.startswith("mid_block."):
                return smallest
            return self.last if "_out." in own else self.first
        # What changes the size is behind the others of its block.
        before = int(block[2]) + (1 if block[3] else 0)
        if block[1] == "down":
            return sum(number < before for number in self.halving)
        return smallest - sum(number < before for number in self.doubling)


def _place(block: str) -> tuple[int, int]:
    """Where a block stands among others."""
    name, _, number = block.partition(".")
    return _ORDER.index(name), int(number or 0)


def _kept(shapes: Mapping[str, Shapes], sizes: _Sizes) -> dict[str, dict[int, int]]:
    """What waits for the way up while a block runs: how often the image was halved -> channels.

    Args:
        shapes: Each block's, in the order in which they run.
        sizes: Of the network.
    """
    left: list[tuple[int, int]] = []
    kept = {}
    for block, of_block in shapes.items():
        results = [
            (sizes.level(key), shape[0])
            for pattern in (_RESNET, _DOWNSAMPLER)
            for key, shape in of_block.items()
            if pattern.search(key)
        ]
        if block == "conv_in":
            left.append((0, of_block["conv_in.weight"][0]))
        if block.startswith("down_blocks."):
            left += results
        kept[block] = _together(left)
        if block.startswith("up_blocks."):
            del left[len(left) - len(results) :]
    return kept


def _together(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Channels by how often the image was halved."""
    return {level: sum(width for at, width in pairs if at == level) for level, _ in pairs}


def _block(
    name: str, shapes: Shapes, sizes: _Sizes, kept: Mapping[int, int], lists: Mapping[str, Mapping[str, int]]
) -> UNetBlock:
    """A block of those parameters; `lists` as `shared_lists` has them."""
    levels: dict[int, LayerCounts] = {}
    held: dict[int, int] = {}
    for key, shape in shapes.items():
        level = sizes.level(key)
        levels[level] = levels.get(level, LayerCounts()) + _counts(key, shape)
        held[level] = max(held.get(level, 0), _held(key, shape))
    shared = ahead = gathered = 0
    for of_list in lists.values():
        own = [size for path, size in of_list.items() if f"{path}.".startswith(f"{name}.")]
        if own:
            shared += sum(own)
            gathered += min(GATHERED_BLOCKS, len(of_list)) * max(of_list.values())
            ahead += next(iter(of_list.values())) if f"{next(iter(of_list))}.".startswith(f"{name}.") else 0
    parameters = sum(map(math.prod, shapes.values()))
    return UNetBlock(name, parameters, levels, held, kept, shared, ahead, gathered)


def _counts(name: str, shape: tuple[int, ...]) -> LayerCounts:
    """What a parameter does."""
    if not name.endswith(".weight") or len(shape) < 2 or _OF_TIME.search(name):
        return LayerCounts()
    if len(shape) == 2:
        return _counts_of_linear(name, *shape)
    # Each convolution over frames is behind a norm over the clip.
    over_frames = int(len(shape) == 5 and shape[2] > 1)
    return LayerCounts(
        convolved=math.prod(shape),
        halos=over_frames,
        halo_channels=over_frames * shape[1],
        norms=over_frames,
        operators=_OPERATORS_OF_WEIGHT,
    )


def _counts_of_linear(name: str, outputs: int, inputs: int) -> LayerCounts:
    """What the weight of a linear map does."""
    over_time, attention = bool(_OVER_TIME.search(name)), _ATTENTION.search(name)
    crosses = attention is not None and attention[1] == "attn2" and not _SELF_TWICE.search(name)
    here = LayerCounts(operators=_OPERATORS_OF_WEIGHT)
    if crosses and attention is not None and attention[2] in "kv":
        # Over time every place sees one token, SVD's image.
        return here if over_time else replace(here, text=outputs * inputs)
    here = replace(here, **{"temporal" if over_time else "linear": outputs * inputs})
    if attention is not None and attention[2] == "q":
        if not over_time:
            here = replace(here, **{"reading" if crosses else "attending": outputs})
        elif not crosses:
            here = replace(here, over_time=outputs)
    if over_time and name.endswith(".proj_in.weight"):
        # Of a layer that is over time whole, behind a norm over the clip.
        here = replace(here, trips=1, trip_channels=inputs, norms=1)
    if _FIRST_OVER_TIME.search(name):
        here = replace(here, trips=1, trip_channels=inputs)
    return here


def _held(name: str, shape: tuple[int, ...]) -> int:
    """Channels of the tensors in memory around a layer: what it is given and makes, and what follows."""
    if len(shape) < 2 or _OF_TIME.search(name):
        return 0
    outputs, inputs = shape[:2]
    if _ATTENTION.search(name):
        # Tokens and their norm; queries, keys and values, their copies head by head, and what comes of them.
        return 2 * inputs + 8 * outputs
    if _FEED_FORWARD.search(name):
        return _HELD_IN_FEED_FORWARD * inputs
    return 2 * (inputs + outputs)


@dataclass(frozen=True)
class _RankShare:
    """What a rank has of a video, in a gang of those degrees."""

    work: Workload
    degrees: Degrees
    item: int
    groups: int

    @property
    def _samples(self) -> int:
        return self.work.samples_of_rank(self.degrees)

    @property
    def _frames(self) -> tuple[int, ...]:
        """Frames of each rank that has some, the fullest first."""
        return tuple(size for size in shares(self.work.frames, self.degrees.ulysses) if size)

    def _places(self, level: int) -> int:
        """Places of an image that was halved so often."""
        rows, columns = (-(-n // 2**level) for n in (self.work.latent_rows, self.work.latent_columns))
        return rows * columns

    def segment(self, block: UNetBlock) -> Segment:
        """A block of a step."""
        sums = [self._operations(self._places(level), counts) for level, counts in block.levels.items()]
        gathered, ahead = (
            gathered_bytes(weights * self.item, self.degrees.size) for weights in (block.shared, block.ahead)
        )
        return Segment(
            products=tuple(products for products, _ in sums),
            convolved=sum(convolved for _, convolved in sums),
            read=block.parameters * self.item,
            operators=sum(counts.operators for counts in block.levels.values()),
            exchanges=tuple(self._exchanges(block)),
            gathered=gathered,
            ahead=ahead,
        )

    def _operations(self, places: int, counts: LayerCounts) -> tuple[int, int]:
        """Of products and of convolutions, at one size of the image, of the rank with most frames."""
        images, text = self._samples * self._frames[0], self.work.text_tokens
        # Where all frames of a place are, this rank has its share of the places.
        moved = self._samples * -(-places // len(self._frames))
        frames = self.work.frames
        products = (
            2 * counts.linear * places * images
            + 4 * counts.attending * places**2 * images
            + 2 * counts.text * text * self._samples
            + 4 * counts.reading * places * text * images
            + 2 * counts.temporal * frames * moved
            + 4 * counts.over_time * frames**2 * moved
        )
        return products, 2 * counts.convolved * places * images

    def _exchanges(self, block: UNetBlock) -> Iterator[Exchange]:
        """All of a block that have a purpose in one; see this module's text."""
        ranks, holders = self.degrees.ulysses, len(self._frames)
        counts = sum(block.levels.values(), LayerCounts())
        tripped = edges = 0
        for level, of_level in block.levels.items():
            places = self._places(level)
            tripped += of_level.trip_channels * self._tripped(places)
            edges += of_level.halo_channels * places * 2 * (holders - 1)
        numbers = self._samples * self.item
        told = holders * (holders - 1) * counts.norms * self._samples * self.groups * _MOMENTS
        if counts.trips:
            yield Exchange("frames", numbers * tripped // ranks, holders, times=2 * counts.trips)
        if counts.halos:
            yield Exchange("halo", numbers * edges // ranks, holders, times=counts.halos, way="next")
        if counts.norms:
            yield Exchange("norm", told // ranks, holders, times=counts.norms)

    def _tripped(self, places: int) -> int:
        """Frames of single places that all ranks send to where all frames of a place are, and back."""
        parts = shares(places, len(self._frames))
        return sum(
            own * (places - part) + part * (self.work.frames - own)
            for own, part in zip(self._frames, parts, strict=True)
        )

    def held(self, block: UNetBlock) -> int:
        """Bytes of activations while a block runs."""
        kept = sum(width * self._places(level) for level, width in block.kept.items())
        most = max(width * self._places(level) for level, width in block.held.items())
        return self._samples * self._frames[0] * (kept + most) * self.item
