"""The costs of UNets over frames, and of image autoencoders, computed from the shapes of their parameters.

A family's `costs.py` passes these shapes, with diffusers' parameter names, and gets values of `common.costs`:

    denoisers=(unet("unet", counted["unet"], groups=configs.unet.norm_num_groups),),
    vae=autoencoder(counted["vae"], image_convolutions, divides="frames"),

Frames are divided over `ulysses` ranks (`parallel.frame_split`); a layer that works on one frame at a time
needs nothing from other ranks. The bytes that a rank sends in a step are the mean over all P ranks of a
sequence, of which p = min(P, F) have frames, each f of the F frames of B samples, at N places of an image:

- `frames`: between two all-to-alls a rank has all F frames of n of the N places. Each layer over time (a
  motion module or a temporal transformer as a whole; in SVD each temporal block) sends
  B * C * sum over ranks of (f * (N - n) + n * (F - f)) numbers, where C are the channels of its input.
- `halo`: for a convolution over frames, neighbours exchange a frame of its input: all ranks together send
  B * C * N * 2 * (p - 1) numbers.
- `norm`: for a norm over a clip, count, mean and variance of each group are sent to p - 1 others, in float32.
- `gather`: the predictions, as `tokens` in other families; `cfg` and `weights` are as in all families.

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

# Operators per weight of two dimensions or more: itself, a norm or activation, a sum or a copy.
_OPERATORS_OF_WEIGHT = 3
# Tensors of all places in memory when a UNet needs most, which is within a feed-forward: the value and the
# gate, each four times as wide, as computed, their copies and the result, and residuals. Measured on CPU with
# AnimateDiff's UNet: 33.
_HELD_IN_FEED_FORWARD = 33
# Bytes that a rank sends for each group of a norm: count, mean and variance.
_MOMENTS = 3 * 4

# A network's blocks in the order in which they run; I2VGen-XL's first ones process the image's latents.
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
# Modules that run where a rank has all frames of a place.
_OVER_TIME = re.compile(
    r"image_latents_temporal_encoder|transformer_in|motion_modules|temp_attentions|temporal_transformer_blocks"
)
# Linear maps of one vector per sample or frame, not of every place.
_OF_TIME = re.compile(r"time_emb_proj|time_pos_embed")
_ATTENTION = re.compile(r"\.(attn[12])\.to_(q|k|v|out)\b")
# In these, both attentions are between frames.
_SELF_TWICE = re.compile(r"transformer_in|motion_modules|temp_attentions")
# Marks a layer over time that does not begin with a map of its own: SVD's, and that of I2VGen-XL's image.
_FIRST_OVER_TIME = re.compile(
    r"(temporal_transformer_blocks\.\d+|image_latents_temporal_encoder)\.attn1\.to_q\.weight$"
)
_FEED_FORWARD = re.compile(r"\.ff(_in)?\.net\.0\.proj\.weight$")
# The layers whose results are skip connections.
_RESNET = re.compile(r"\.resnets\.\d+\.(spatial_res_block\.)?conv1\.weight$")
_DOWNSAMPLER = re.compile(r"\.downsamplers\.\d+\.conv\.weight$")


@dataclass(frozen=True)
class LayerCounts:
    """What some layers do at one size of the image. Weights multiply every place, unless noted otherwise.

    Args:
        convolved: Weights of convolutions.
        linear: Weights of linear maps.
        attending: Sum of the widths of attention between places.
        text: Weights that multiply the text's tokens.
        reading: Sum of the widths of attention to the text.
        temporal: Weights of linear maps that run where a rank has all frames of a place.
        over_time: Sum of the widths of attention between frames.
        trips: How often a rank exchanges its frames for all frames of some places, and back.
        trip_channels: Sum of the channels exchanged there.
        halos: Number of convolutions over frames.
        halo_channels: Sum of their input channels.
        norms: Number of group norms over the whole clip.
        operators: Number of operators.
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
    """A block of a UNet: layers that run one after another.

    Args:
        name: Its attribute path.
        parameters: Number of parameters in all its layers.
        levels: How often the image was halved -> what its layers do at that size.
        held: Likewise -> channels of the tensors in memory when a layer needs most.
        kept: Likewise -> channels of the skip connections in memory while it runs.
        shared: Sharded parameters.
        ahead: How many of these are the first of each list, and cannot be gathered ahead.
        gathered: Parameters that a rank of a gang has whole at a time: in each list the layer that runs and
            the next one.
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
        """Parameters that a rank of a gang has whole at a time, in the largest block."""
        return max(block.gathered for block in self.levels)

    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """The frames are divided over `ulysses` ranks; ranks without frames only send weights."""
        part = _RankShare(work, degrees, item, self.groups)
        return Step(
            tuple(part.segment(block) for block in self.levels),
            prediction_ends(work, degrees, item, "gather"),
            gathered_bytes(sum(self.blocks) * item, degrees.size),
        )

    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """Skip connections and a layer's tensors, in the block that needs most."""
        part = _RankShare(work, degrees, item, self.groups)
        return max(part.held(block) for block in self.levels)

    def most_ulysses(self, work: Workload, cfg: int) -> int:  # noqa: ARG002
        """As many as there are frames."""
        return work.frames


def unet(name: str, counted: ParameterShapes, *, groups: int) -> UNet:
    """The costs of a UNet over frames with these parameters, which have diffusers' names.

    Args:
        name: The component's name.
        counted: Its parameters; lists of layers (`down_blocks.0.resnets`) or of blocks may be sharded.
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
    """The convolutions of an image autoencoder's half, `encoder.` or `decoder.`, and the linear maps that are
    convolutions of single places; for `common.costs.autoencoder`.

    Decoders with convolutions over frames (SVD's) are supported. Attention between places is left out.
    """
    sizes = _Sizes.of(shapes, prefix)
    for name, shape in shapes.items():
        if name.startswith(prefix) and len(shape) > 1:
            # Frames, rows and columns; convolutions of images have no frames, linear maps have none of these.
            frames, rows, columns = (1, 1, 1, *shape[2:])[-3:]
            yield Convolution(
                shape[1], shape[0], (frames, rows, columns), frames=1, pixels=1 / 2 ** sizes.level(name)
            )


@dataclass(frozen=True)
class _Sizes:
    """How often the image was halved at each layer of a network.

    Args:
        prefix: What its parameters' names begin with.
        halving, doubling: Numbers of the blocks at whose end the image is halved, and doubled.
        first, last: How often it was halved at the network's beginning, and at its end.
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
        """How often the image was halved at a layer's output."""
        own = name.removeprefix(self.prefix)
        block = re.match(r"(down|up)_blocks\.(\d+)\.(down|up)?", own)
        smallest = max(len(self.halving), len(self.doubling))
        if block is None:
            if own.startswith("mid_block."):
                return smallest
            return self.last if "_out." in own else self.first
        # The layer that changes the size comes after the others of its block.
        before = int(block[2]) + (1 if block[3] else 0)
        if block[1] == "down":
            return sum(number < before for number in self.halving)
        return smallest - sum(number < before for number in self.doubling)


def _place(block: str) -> tuple[int, int]:
    """A block's position in the order of blocks."""
    name, _, number = block.partition(".")
    return _ORDER.index(name), int(number or 0)


def _kept(shapes: Mapping[str, Shapes], sizes: _Sizes) -> dict[str, dict[int, int]]:
    """The skip connections in memory while each block runs: how often the image was halved -> channels.

    Args:
        shapes: Each block's parameters, in the order in which the blocks run.
        sizes: The sizes of the image in the network.
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
    """Sum of channels by how often the image was halved."""
    return {level: sum(width for at, width in pairs if at == level) for level, _ in pairs}


def _block(
    name: str, shapes: Shapes, sizes: _Sizes, kept: Mapping[int, int], lists: Mapping[str, Mapping[str, int]]
) -> UNetBlock:
    """A block with these parameters; `lists` is the result of `shared_lists`."""
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
    """What a parameter contributes."""
    if not name.endswith(".weight") or len(shape) < 2 or _OF_TIME.search(name):
        return LayerCounts()
    if len(shape) == 2:
        return _counts_of_linear(name, *shape)
    # Before each convolution over frames is a norm over the clip.
    over_frames = int(len(shape) == 5 and shape[2] > 1)
    return LayerCounts(
        convolved=math.prod(shape),
        halos=over_frames,
        halo_channels=over_frames * shape[1],
        norms=over_frames,
        operators=_OPERATORS_OF_WEIGHT,
    )


def _counts_of_linear(name: str, outputs: int, inputs: int) -> LayerCounts:
    """What the weight of a linear map contributes."""
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
        # A layer that is over time as a whole, after a norm over the clip.
        here = replace(here, trips=1, trip_channels=inputs, norms=1)
    if _FIRST_OVER_TIME.search(name):
        here = replace(here, trips=1, trip_channels=inputs)
    return here


def _held(name: str, shape: tuple[int, ...]) -> int:
    """Channels of the tensors in memory around a layer: its input, its output, and what follows."""
    if len(shape) < 2 or _OF_TIME.search(name):
        return 0
    outputs, inputs = shape[:2]
    if _ATTENTION.search(name):
        # Tokens and their norm; queries, keys and values, their copies by head, and the result.
        return 2 * inputs + 8 * outputs
    if _FEED_FORWARD.search(name):
        return _HELD_IN_FEED_FORWARD * inputs
    return 2 * (inputs + outputs)


@dataclass(frozen=True)
class _RankShare:
    """A rank's share of a video, in a gang with these degrees."""

    work: Workload
    degrees: Degrees
    item: int
    groups: int

    @property
    def _samples(self) -> int:
        return self.work.samples_of_rank(self.degrees)

    @property
    def _frames(self) -> tuple[int, ...]:
        """Number of frames of each rank that has some; the first has most."""
        return tuple(size for size in shares(self.work.frames, self.degrees.ulysses) if size)

    def _places(self, level: int) -> int:
        """Number of places in an image that was halved so often."""
        rows, columns = (-(-n // 2**level) for n in (self.work.latent_rows, self.work.latent_columns))
        return rows * columns

    def segment(self, block: UNetBlock) -> Segment:
        """A block's part of a step."""
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
        """Operations of products and of convolutions at one size of the image, on the rank with most
        frames."""
        images, text = self._samples * self._frames[0], self.work.text_tokens
        # For layers over time, this rank has its share of the places.
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
        """A block's exchanges, those with the same purpose combined; see this module's docstring."""
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
        """Number of places, summed over frames, that all ranks send in one trip, there and back."""
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
