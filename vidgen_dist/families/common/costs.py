"""What a plan needs to know of a model and of a video, as plain numbers without a family's name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from vidgen_dist.families.common.tasks import R

ITEM_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number by dtype."""


@dataclass(frozen=True)
class Stack:
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
class Component:
    """A component with weights.

    Args:
        name: As in `model_index.json`.
        blocks: Parameters of each block that a gang shares out and gathers to run it.
        tables: Parameters of tables that a gang shares out and never gathers: rows that are asked for travel.
        rest: Parameters that every rank has.
        encoder, decoder: An autoencoder's convolutions.
    """

    name: str
    blocks: tuple[int, ...]
    tables: int
    rest: int
    encoder: tuple[Convolution, ...] = ()
    decoder: tuple[Convolution, ...] = ()

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.blocks) + self.tables + self.rest

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block."""
        return max(self.blocks, default=0)


@dataclass(frozen=True, kw_only=True)
class Network(Component):
    """A component that is a stack of blocks.

    Args:
        stack: What running the blocks takes.
    """

    stack: Stack


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A checkpoint as a plan sees it.

    Args:
        denoisers: The networks of which each denoising step runs one, the one that costs most first.
        vae: The autoencoder.
        text_encoder: What encodes prompts; None where there is none, or where encoding takes almost no time.
        others: Components that are in memory too, and take almost no time.
    """

    denoisers: tuple[Network, ...]
    vae: Component
    text_encoder: Network | None = None
    others: tuple[Component, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        """All that have weights."""
        texts = () if self.text_encoder is None else (self.text_encoder,)
        return *self.denoisers, *texts, *self.others, self.vae

    @property
    def denoiser(self) -> Network:
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
        latent_rows: Rows of a latent frame, which a gang divides for the autoencoder.
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


Shapes = Mapping[str, tuple[int, ...]]
"""A parameter's shape by its name."""


@dataclass(frozen=True)
class Counted:
    """A component's parameters.

    Args:
        shapes: Of all of them.
        sharded: Attribute paths of the lists of blocks and of the tables that a gang shares out, as the
            model's class declares them (`parallel.sharding`).
    """

    shapes: Shapes
    sharded: tuple[str, ...]


def component(name: str, counted: Counted) -> Component:
    """A component of those parameters."""
    return Component(name, *_shared_out(counted))


def autoencoder(
    counted: Counted, convolutions: Callable[[Shapes, str], Iterable[Convolution]], name: str = "vae"
) -> Component:
    """A component of those parameters that is an autoencoder.

    Args:
        counted: Its parameters.
        convolutions: The parameters' shapes and `encoder.` or `decoder.` to the convolutions of that half.
        name: The component's.
    """
    halves = (tuple(convolutions(counted.shapes, prefix)) for prefix in ("encoder.", "decoder."))
    return Component(name, *_shared_out(counted), *halves)


def network(name: str, counted: Counted, stack: Stack) -> Network:
    """A component of those parameters that is a stack of blocks."""
    return Network(name, *_shared_out(counted), stack=stack)


def _shared_out(counted: Counted) -> tuple[tuple[int, ...], int, int]:
    """Parameters of each block, of tables, and of what every rank has."""
    blocks: dict[str, int] = {}
    tables = rest = 0
    for key, shape in counted.shapes.items():
        path = next((path for path in counted.sharded if key.startswith(f"{path}.")), None)
        if path is None:
            rest += math.prod(shape)
            continue
        number = key.removeprefix(f"{path}.").partition(".")[0]
        if number.isdigit():
            block = f"{path}.{number}"
            blocks[block] = blocks.get(block, 0) + math.prod(shape)
        else:
            tables += math.prod(shape)
    return tuple(blocks.values()), tables, rest


def linear_weights(counted: Counted, block: str, leave_out: tuple[str, ...] = ()) -> int:
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

    size: Callable[[C, Mapping[str, Counted], str], ModelSize]
    workload: Callable[[C, R], Workload]
