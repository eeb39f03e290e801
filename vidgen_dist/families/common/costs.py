"""What the planner needs to know of a model and a video, as plain numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from vidgen_dist.families.common.step_costs import (
    Exchange,
    Segment,
    Step,
    gathered_bytes,
    ring_bytes,
    ulysses_bytes,
)
from vidgen_dist.families.common.tasks import R
from vidgen_dist.parallel.degrees import Degrees

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by dtype."""

GATHERED_BLOCKS = 2
"""Whole blocks that a rank of a gang holds at once: the one that runs and the next one."""


@dataclass(frozen=True)
class BlockStack:
    """The work of running a component's blocks, each of which is attention and a feed-forward.

    Args:
        heads: Attention heads.
        width: Width of all heads together, D.
        linear: Weights of a block that every token is multiplied by.
        alive: Tensors of (tokens, D) in memory when a block needs most.
        operators: Operators in a block.
        blocks: How many of the component's blocks see all tokens; the others see few, and cost almost
            nothing. None: all do.
        waiting: Tensors of (tokens, D) for each further sample of a step, if a block runs samples one after
            another. None: it runs them together.
    """

    heads: int
    width: int
    linear: int
    alive: float
    operators: int
    blocks: int | None = None
    waiting: float | None = None


@dataclass(frozen=True)
class Convolution:
    """One convolution of an autoencoder, and its place in it.

    Args:
        inputs, outputs: Channels.
        kernel: Frames, rows, columns.
        frames: Frames that it makes per frame of the video: at most 1.
        pixels: Rows that it makes per row of the video, and columns per column: at most 1.
    """

    inputs: int
    outputs: int
    kernel: tuple[int, int, int]
    frames: float
    pixels: float

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        frames, rows, columns = self.kernel
        return self.inputs * self.outputs * frames * rows * columns


@dataclass(frozen=True)
class ComponentSize:
    """The size of a component with weights.

    Args:
        name: Its name in `model_index.json`.
        blocks: Parameters of each block that is sharded, and gathered to run.
        tables: Parameters of tables that are sharded and never gathered: only the rows asked for are sent.
        rest: Parameters that every rank has.
    """

    name: str
    blocks: tuple[int, ...]
    tables: int
    rest: int

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return sum(self.blocks) + self.tables + self.rest

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block."""
        return max(self.blocks, default=0)

    @property
    def gathered(self) -> int:
        """Parameters of the blocks that a rank of a gang has whole at a time, at most."""
        return min(GATHERED_BLOCKS, len(self.blocks)) * self.largest_block


@dataclass(frozen=True, kw_only=True)
class Autoencoder(ComponentSize):
    """A component that encodes frames to latents, and decodes latents to frames.

    Args:
        encoder, decoder: Their convolutions.
        divides: What each rank of a gang puts through it: `rows` of every frame; `frames`, its own, one batch
            at a time; or its frames of each `batch`, within which frames depend on each other. With the
            latter two every rank encodes all frames.
    """

    encoder: tuple[Convolution, ...] = ()
    decoder: tuple[Convolution, ...] = ()
    divides: Literal["rows", "frames", "batch"] = "rows"


class Denoiser(ComponentSize, ABC):
    """A component that predicts, and knows the costs of a step.

    `item` is the size of a number in bytes, for weights and activations.
    """

    @abstractmethod
    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """What a rank computes and sends in a step; if ranks differ, for the rank that computes most."""

    @abstractmethod
    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """Bytes that a rank holds in addition to weights, when a step needs most."""

    @abstractmethod
    def most_ulysses(self, work: Workload, cfg: int) -> int:
        """The largest degree `ulysses` at which every rank has work of its own."""


@dataclass(frozen=True, kw_only=True)
class Network(Denoiser):
    """A component that is a stack of blocks with attention between tokens.

    Args:
        stack: The work of running the blocks.
    """

    stack: BlockStack

    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """The tokens are divided over `ulysses` times `ring` ranks; see `parallel.attention`."""
        blocks = self.stack.blocks or len(self.blocks)
        samples = work.samples_of_rank(degrees)
        weights = gathered_bytes(sum(self.blocks) * item, degrees.size)
        attention, linear = self._products(work, degrees)
        tokens, width = work.attending, self.stack.width
        segment = Segment(
            times=blocks,
            products=(*linear, attention),
            read=self.largest_block * item,
            operators=self.stack.operators,
            exchanges=(
                # Queries, keys and values together, and the results.
                Exchange(
                    "ulysses",
                    samples * ulysses_bytes(tokens, width, degrees, item),
                    ranks=degrees.ulysses,
                    times=2,
                ),
                Exchange(
                    "ring",
                    samples * ring_bytes(tokens, width, degrees, item),
                    ranks=degrees.ring,
                    stride=degrees.ulysses,
                    times=degrees.ring - 1,
                    way="next",
                    # The next keys and values are passed on while these are in use.
                    beside=attention,
                ),
            ),
            gathered=weights / blocks,
            ahead=weights / blocks,
        )
        return Step((segment,), prediction_ends(work, degrees, item, "tokens"), weights)

    def _products(self, work: Workload, degrees: Degrees) -> tuple[float, tuple[float, ...]]:
        """Operations of a block's attention, and of its linear maps, and of attention to a separate text."""
        stack, samples = self.stack, work.samples_of_rank(degrees)
        queries = -(-work.attending // degrees.ring)
        # The heads of all samples together are divided; all wait for the rank with most of them.
        pairs = samples * stack.heads
        heads = -(-pairs // degrees.ulysses) / pairs
        local = -(-work.attending // (degrees.ulysses * degrees.ring))
        attention = 4 * samples * queries * work.attending * stack.width * heads
        linear = 2 * samples * local * stack.linear
        if work.text_joins:
            return attention, (linear,)
        return attention, (linear, 4 * samples * local * work.text_tokens * stack.width)

    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """Tensors of (tokens, D), and the table of cosines and sines of positions, in float32."""
        tokens = -(-work.attending // (degrees.ulysses * degrees.ring))
        one = self.stack.alive + self._travelling(degrees)
        further = one if self.stack.waiting is None else self.stack.waiting
        held = one + (work.samples_of_rank(degrees) - 1) * further
        table = 8 * tokens * (self.stack.width // self.stack.heads)
        return int(tokens * self.stack.width * held) * item + table

    def most_ulysses(self, work: Workload, cfg: int) -> int:
        """As many as all samples together have heads."""
        return self.stack.heads * work.samples // cfg

    @staticmethod
    def _travelling(degrees: Degrees) -> int:
        """Tensors of (tokens, D) being sent: queries, keys, values; keys and values here and on their way."""
        return (3 if degrees.ulysses > 1 else 0) + (4 if degrees.ring > 1 else 0)


def prediction_ends(work: Workload, degrees: Degrees, item: int, purpose: str) -> tuple[Exchange, Exchange]:
    """Predictions are gathered (`purpose`), then the two halves of guidance are exchanged (`cfg`)."""
    sequence, latents = degrees.ulysses * degrees.ring, work.latents * item
    together = gathered_bytes(work.samples_of_rank(degrees) * latents, sequence)
    return (
        Exchange(purpose, together, ranks=sequence),
        Exchange("cfg", latents * (degrees.cfg - 1), ranks=degrees.cfg, stride=sequence),
    )


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A checkpoint's size.

    Args:
        denoisers: The networks of which each denoising step runs one; the most expensive one first.
        vae: The autoencoder.
        text_encoder: Encodes prompts; None if there is none, or if encoding takes almost no time.
        others: Components that are in memory too, and take almost no time.
    """

    denoisers: tuple[Denoiser, ...]
    vae: Autoencoder
    text_encoder: Network | None = None
    others: tuple[ComponentSize, ...] = ()

    @property
    def components(self) -> tuple[ComponentSize, ...]:
        """All components with weights."""
        texts = () if self.text_encoder is None else (self.text_encoder,)
        return *self.denoisers, *texts, *self.others, self.vae

    @property
    def denoiser(self) -> Denoiser:
        """The network for which the costs of a step are computed."""
        return self.denoisers[0]


@dataclass(frozen=True)
class VaeTiles:
    """Tiles of a frame that go through the autoencoder one after another.

    Args:
        height, width: Pixels of a tile.
        stride_height, stride_width: Pixels from one tile to the next.
    """

    height: int
    width: int
    stride_height: int
    stride_width: int

    def sizes(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """Rows of each band of a frame's tiles, and columns of each tile of a band."""
        if height <= self.height and width <= self.width:
            return [height], [width]
        return (
            [min(self.height, height - top) for top in range(0, height, self.stride_height)],
            [min(self.width, width - left) for left in range(0, width, self.stride_width)],
        )


@dataclass(frozen=True)
class Workload:
    """One video.

    Args:
        frames, height, width: The video's size.
        steps: Denoising steps.
        guided: Whether each step predicts twice, with the prompt and without.
        tokens: Video tokens of the transformer.
        latents: Numbers in a sample's latents.
        latent_rows, latent_columns: Size of a latent frame.
        frames_at_once: Frames of the largest batch that goes through the autoencoder.
        batches: Number of such batches in a video.
        text_tokens: Tokens of the prompt.
        encoded_frames: Frames of an image or clip that the autoencoder encodes first.
        repeated_frames: Further frames that the autoencoder makes: twice, where batches overlap, or to be
            dropped.
        text_joins: Whether text and video tokens attend to each other. Otherwise the video's tokens attend to
            the text's separately, and these neither change nor are sent.
        vae_tiles: The tiles of the autoencoder, on the first rank only; None: each rank takes its rows whole.
    """

    frames: int
    height: int
    width: int
    steps: int
    guided: bool
    tokens: int
    latents: int
    latent_rows: int
    latent_columns: int
    frames_at_once: int
    batches: int
    text_tokens: int = 0
    encoded_frames: int = 0
    repeated_frames: int = 0
    text_joins: bool = True
    vae_tiles: VaeTiles | None = None

    @property
    def attending(self) -> int:
        """Tokens of a sample that attend to each other."""
        return self.tokens + (self.text_tokens if self.text_joins else 0)

    @property
    def samples(self) -> int:
        """Samples of a step: 2 if guided."""
        return 2 if self.guided else 1

    def samples_of_rank(self, degrees: Degrees) -> int:
        """Samples of a step that one rank works on."""
        return -(-self.samples // degrees.cfg)


Shapes = Mapping[str, tuple[int, ...]]
"""Parameter's name -> shape."""


@dataclass(frozen=True)
class ParameterShapes:
    """The shapes of a component's parameters.

    Args:
        shapes: Every parameter's shape.
        sharded: Attribute paths of the sharded lists of blocks and tables, as the model's class declares them
            (`parallel.sharding`).
    """

    shapes: Shapes
    sharded: tuple[str, ...]


def component_size(name: str, counted: ParameterShapes) -> ComponentSize:
    """The size of a component with these parameters."""
    return ComponentSize(name, *shared_out(counted))


def autoencoder(
    counted: ParameterShapes,
    convolutions: Callable[[Shapes, str], Iterable[Convolution]],
    name: str = "vae",
    divides: Literal["rows", "frames", "batch"] = "rows",
) -> Autoencoder:
    """The size of an autoencoder with these parameters.

    Args:
        counted: Its parameters.
        convolutions: Takes the parameters' shapes and `encoder.` or `decoder.`, returns the convolutions
            there.
        name: The component's name.
        divides: As in `Autoencoder`.
    """
    encoder, decoder = (tuple(convolutions(counted.shapes, prefix)) for prefix in ("encoder.", "decoder."))
    return Autoencoder(name, *shared_out(counted), encoder=encoder, decoder=decoder, divides=divides)


def network(name: str, counted: ParameterShapes, stack: BlockStack) -> Network:
    """The size of a stack of transformer blocks.

    Args:
        name: The component's name.
        counted: Its parameters.
        stack: The cost of its blocks.
    """
    return Network(name, *shared_out(counted), stack=stack)


def shared_lists(counted: ParameterShapes) -> dict[str, dict[str, int]]:
    """Parameters of each sharded block: path of its list -> path of the block -> number, in order."""
    lists: dict[str, dict[str, int]] = {}
    for key, shape in counted.shapes.items():
        path = _sharded_path(counted, key)
        number = "" if path is None else key.removeprefix(f"{path}.").partition(".")[0]
        if path is not None and number.isdigit():
            blocks = lists.setdefault(path, {})
            block = f"{path}.{number}"
            blocks[block] = blocks.get(block, 0) + math.prod(shape)
    return lists


def shared_out(counted: ParameterShapes) -> tuple[tuple[int, ...], int, int]:
    """Number of parameters of each block, of tables, and of what every rank has."""
    blocks = [size for of_list in shared_lists(counted).values() for size in of_list.values()]
    shared = sum(
        math.prod(shape) for key, shape in counted.shapes.items() if _sharded_path(counted, key) is not None
    )
    total = sum(map(math.prod, counted.shapes.values()))
    return tuple(blocks), shared - sum(blocks), total - shared


def _sharded_path(counted: ParameterShapes, key: str) -> str | None:
    """The sharded list or table that a parameter belongs to."""
    return next((path for path in counted.sharded if key.startswith(f"{path}.")), None)


def linear_weights(counted: ParameterShapes, block: str, leave_out: tuple[str, ...] = ()) -> int:
    """Number of weights in a block's linear maps.

    Args:
        counted: The model's parameters.
        block: The block's attribute path.
        leave_out: Modules and parameters that not every token is multiplied by.
    """
    return sum(
        math.prod(shape)
        for key, shape in counted.shapes.items()
        if key.startswith(f"{block}.")
        and len(shape) == 2
        and not any(f"{name}." in f"{key}." for name in leave_out)
    )


C = TypeVar("C")
"""A family's configs."""


@dataclass(frozen=True)
class Costs(Generic[C, R]):
    """What a family tells the planner.

    Args:
        size: Takes the configs, each component's parameters by name, and the task, returns the sizes.
        workload: Takes the configs and a request, returns the work of rendering it.
    """

    size: Callable[[C, Mapping[str, ParameterShapes], str], ModelSize]
    workload: Callable[[C, R], Workload]
