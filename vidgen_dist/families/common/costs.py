"""What a plan needs to know of a model and of a video, as plain numbers without a family's name."""

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
    """What running a component's blocks takes, each of which is attention and a feed-forward.

    Args:
        heads: Attention heads.
        width: Their width together, D.
        linear: Weights of a block that multiply every token.
        alive: Tensors of (tokens, D) that are in memory at once at the block's fullest moment.
        operators: Operators of a block.
        blocks: How many of the component's blocks see all tokens; the others, which see few, cost next to
            nothing. None: all do.
        waiting: Tensors of (tokens, D) that each further sample of a step holds, where a block runs one after
            the other. None: it runs all at once.
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
    """One convolution of an autoencoder, and where in it.

    Args:
        inputs, outputs: Channels.
        kernel: Frames, rows, columns.
        frames: How many frames it makes for each frame of video: 1 at most.
        pixels: How many rows it makes for each row of the video, and how many columns: 1 at most.
    """

    inputs: int
    outputs: int
    kernel: tuple[int, int, int]
    frames: float
    pixels: float

    @property
    def weights(self) -> int:
        """Its weights, without the bias."""
        frames, rows, columns = self.kernel
        return self.inputs * self.outputs * frames * rows * columns


@dataclass(frozen=True)
class ComponentSize:
    """A component with weights.

    Args:
        name: As in `model_index.json`.
        blocks: Parameters of each block that a gang shares out and gathers to run it.
        tables: Parameters of tables that a gang shares out and never gathers: rows that are asked for travel.
        rest: Parameters that every rank has.
    """

    name: str
    blocks: tuple[int, ...]
    tables: int
    rest: int

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.blocks) + self.tables + self.rest

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block."""
        return max(self.blocks, default=0)

    @property
    def gathered(self) -> int:
        """Parameters of the blocks that a rank of a gang has whole at once, at most."""
        return min(GATHERED_BLOCKS, len(self.blocks)) * self.largest_block


@dataclass(frozen=True, kw_only=True)
class Autoencoder(ComponentSize):
    """A component that makes latents of frames, and frames of latents.

    Args:
        encoder, decoder: Its convolutions.
        divides: What of a video each rank of a gang puts through it: `rows` of every frame; `frames`, a batch
            of its own ones at a time; or its frames of each `batch`, in which they are not independent. Those
            that divide frames encode all of them on every rank.
    """

    encoder: tuple[Convolution, ...] = ()
    decoder: tuple[Convolution, ...] = ()
    divides: Literal["rows", "frames", "batch"] = "rows"


class Denoiser(ComponentSize, ABC):
    """A component that predicts, and says what a step of it takes.

    `item` is always the bytes of a number, of weights and activations.
    """

    @abstractmethod
    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """What a rank computes and sends in a step; of ranks that differ, the one that computes most."""

    @abstractmethod
    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """Bytes that a rank holds beside weights at the fullest moment of a step."""

    @abstractmethod
    def most_ulysses(self, work: Workload, cfg: int) -> int:
        """The largest degree `ulysses` at which every rank has something of its own to do."""


@dataclass(frozen=True, kw_only=True)
class Network(Denoiser):
    """A component that is a stack of blocks, each of which attends from token to token.

    Args:
        stack: What running the blocks takes.
    """

    stack: BlockStack

    def step(self, work: Workload, degrees: Degrees, item: int) -> Step:
        """Tokens are divided over `ulysses` times `ring` ranks; see `parallel.attention`."""
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
                # Queries, keys and values in one, and what comes of them.
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
                    # The next keys and values travel while these are worked on.
                    beside=attention,
                ),
            ),
            gathered=weights / blocks,
            ahead=weights / blocks,
        )
        return Step((segment,), prediction_ends(work, degrees, item, "tokens"), weights)

    def _products(self, work: Workload, degrees: Degrees) -> tuple[float, tuple[float, ...]]:
        """Operations of a block's attention, and of its linear maps, with attention to a text apart."""
        stack, samples = self.stack, work.samples_of_rank(degrees)
        queries = -(-work.attending // degrees.ring)
        # Heads of all samples together are divided; the fullest rank is waited for.
        pairs = samples * stack.heads
        heads = -(-pairs // degrees.ulysses) / pairs
        local = -(-work.attending // (degrees.ulysses * degrees.ring))
        attention = 4 * samples * queries * work.attending * stack.width * heads
        linear = 2 * samples * local * stack.linear
        if work.text_joins:
            return attention, (linear,)
        return attention, (linear, 4 * samples * local * work.text_tokens * stack.width)

    def activations(self, work: Workload, degrees: Degrees, item: int) -> int:
        """Tensors of (tokens, D), and the positions' table of cosines and sines, in float32."""
        tokens = -(-work.attending // (degrees.ulysses * degrees.ring))
        one = self.stack.alive + self._travelling(degrees)
        further = one if self.stack.waiting is None else self.stack.waiting
        held = one + (work.samples_of_rank(degrees) - 1) * further
        table = 8 * tokens * (self.stack.width // self.stack.heads)
        return int(tokens * self.stack.width * held) * item + table

    def most_ulysses(self, work: Workload, cfg: int) -> int:
        """As many as there are heads of all samples."""
        return self.stack.heads * work.samples // cfg

    @staticmethod
    def _travelling(degrees: Degrees) -> int:
        """Tensors of (tokens, D) that travel: queries, keys, values; keys and values here and on the way."""
        return (3 if degrees.ulysses > 1 else 0) + (4 if degrees.ring > 1 else 0)


def prediction_ends(work: Workload, degrees: Degrees, item: int, purpose: str) -> tuple[Exchange, Exchange]:
    """What was predicted is put together (`purpose`), then the halves of guidance change it (`cfg`)."""
    sequence, latents = degrees.ulysses * degrees.ring, work.latents * item
    together = gathered_bytes(work.samples_of_rank(degrees) * latents, sequence)
    return (
        Exchange(purpose, together, ranks=sequence),
        Exchange("cfg", latents * (degrees.cfg - 1), ranks=degrees.cfg, stride=sequence),
    )


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A checkpoint as a plan sees it.

    Args:
        denoisers: The networks of which each denoising step runs one, the one that costs most first.
        vae: The autoencoder.
        text_encoder: What encodes prompts; None where there is none, or where encoding takes almost no time.
        others: Components that are in memory too, and take almost no time.
    """

    denoisers: tuple[Denoiser, ...]
    vae: Autoencoder
    text_encoder: Network | None = None
    others: tuple[ComponentSize, ...] = ()

    @property
    def components(self) -> tuple[ComponentSize, ...]:
        """All that have weights."""
        texts = () if self.text_encoder is None else (self.text_encoder,)
        return *self.denoisers, *texts, *self.others, self.vae

    @property
    def denoiser(self) -> Denoiser:
        """The network that the costs of a step are computed for."""
        return self.denoisers[0]


@dataclass(frozen=True)
class VaeTiles:
    """Tiles of a frame that go through the autoencoder one after the other.

    Args:
        height, width: Pixels of each.
        stride_height, stride_width: Pixels from one to the next.
    """

    height: int
    width: int
    stride_height: int
    stride_width: int

    def sizes(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """Rows of each band of tiles of a frame, and columns of each tile of a band."""
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
        frames, height, width: Of the video.
        steps: Denoising steps.
        guided: Whether each step predicts twice, with the prompt and without.
        tokens: Video tokens of the transformer.
        latents: Numbers of a sample's latents.
        latent_rows, latent_columns: Of a latent frame.
        frames_at_once: Frames of the largest batch that goes through the autoencoder.
        batches: Number of such batches in a video.
        text_tokens: Tokens of the prompt.
        encoded_frames: Frames of an image or clip that the autoencoder encodes first.
        repeated_frames: Frames that the autoencoder makes beside those: twice, where batches overlap, or to
            drop them.
        text_joins: Whether text and video tokens attend to each other; else the video's attend to the text's
            apart, and these neither change nor travel.
        vae_tiles: What frames are cut into for the autoencoder, on the first rank alone; None: each rank
            takes its rows whole.
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
        """Samples of a step: 2 where guided."""
        return 2 if self.guided else 1

    def samples_of_rank(self, degrees: Degrees) -> int:
        """Samples of a step that one rank works on."""
        return -(-self.samples // degrees.cfg)


Shapes = Mapping[str, tuple[int, ...]]
"""A parameter's shape by its name."""


@dataclass(frozen=True)
class ParameterShapes:
    """A component's parameters.

    Args:
        shapes: Of all of them.
        sharded: Attribute paths of the lists of blocks and of the tables that a gang shares out, as the
            model's class declares them (`parallel.sharding`).
    """

    shapes: Shapes
    sharded: tuple[str, ...]


def component_size(name: str, counted: ParameterShapes) -> ComponentSize:
    """A component of those parameters."""
    return ComponentSize(name, *shared_out(counted))


def autoencoder(
    counted: ParameterShapes,
    convolutions: Callable[[Shapes, str], Iterable[Convolution]],
    name: str = "vae",
    divides: Literal["rows", "frames", "batch"] = "rows",
) -> Autoencoder:
    """A component of those parameters that is an autoencoder.

    Args:
        counted: Its parameters.
        convolutions: The parameters' shapes and `encoder.` or `decoder.` to the convolutions of that half.
        name: The component's.
        divides: As `Autoencoder` has it.
    """
    encoder, decoder = (tuple(convolutions(counted.shapes, prefix)) for prefix in ("encoder.", "decoder."))
    return Autoencoder(name, *shared_out(counted), encoder=encoder, decoder=decoder, divides=divides)


def network(name: str, counted: ParameterShapes, stack: BlockStack) -> Network:
    """A component of those parameters that is a stack of blocks."""
    return Network(name, *shared_out(counted), stack=stack)


def shared_lists(counted: ParameterShapes) -> dict[str, dict[str, int]]:
    """Parameters of each block that a gang shares out: by the path of its list, then by its own, in order."""
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
    """Parameters of each block, of tables, and of what every rank has."""
    blocks = [size for of_list in shared_lists(counted).values() for size in of_list.values()]
    shared = sum(
        math.prod(shape) for key, shape in counted.shapes.items() if _sharded_path(counted, key) is not None
    )
    total = sum(map(math.prod, counted.shapes.values()))
    return tuple(blocks), shared - sum(blocks), total - shared


def _sharded_path(counted: ParameterShapes, key: str) -> str | None:
    """The list or table that a gang shares out to which a parameter belongs."""
    return next((path for path in counted.sharded if key.startswith(f"{path}.")), None)


def linear_weights(counted: ParameterShapes, block: str, leave_out: tuple[str, ...] = ()) -> int:
    """Weights of a block's linear maps.

    Args:
        block: The block's attribute path.
        leave_out: Modules and parameters that do not multiply every token.
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
    """What a family tells a plan.

    Args:
        size: Configs, each model's parameters by its component's name, and the task, to what they weigh.
        workload: Configs and a request to what that asks of the models.
    """

    size: Callable[[C, Mapping[str, ParameterShapes], str], ModelSize]
    workload: Callable[[C, R], Workload]
