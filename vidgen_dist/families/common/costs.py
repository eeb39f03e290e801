"""What a plan needs to know of a model and of a video, as plain numbers that no family's name is tied to."""

from __future__ import annotations

from dataclasses import dataclass

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
        stack: What running the blocks takes.
        encoder, decoder: An autoencoder's convolutions.
    """

    name: str
    blocks: tuple[int, ...]
    tables: int
    rest: int
    stack: Stack | None = None
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


@dataclass(frozen=True)
class ModelSize:
    """A checkpoint as a plan sees it.

    Args:
        model: Hub id or folder.
        family: Name of the model family.
        transformer, text_encoder, vae: Its components.
        others: Components that are in memory too, and take next to no time.
    """

    model: str
    family: str
    transformer: Component
    text_encoder: Component
    vae: Component
    others: tuple[Component, ...] = ()

    @property
    def components(self) -> tuple[Component, ...]:
        """All that have weights."""
        return self.transformer, self.text_encoder, *self.others, self.vae


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
        text_tokens: Tokens of the prompt.
        latents: Numbers of a sample's latents.
        latent_rows: Rows of a latent frame, which a gang divides for the autoencoder.
        frames_at_once: Frames of the largest batch that goes through the autoencoder.
        batches: Of such batches in a video.
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
    text_tokens: int
    latents: int
    latent_rows: int
    frames_at_once: int
    batches: int
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
