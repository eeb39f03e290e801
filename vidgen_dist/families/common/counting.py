"""Parameters of a checkpoint's models, counted on the models themselves, built without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.families.common.costs import Component, Convolution, Stack, VaeTiles
from vidgen_dist.weights.checkpoint import Checkpoint

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


def count(checkpoint: Checkpoint, name: str) -> Counted:
    """The parameters of a component; they take no memory.

    Raises:
        Refused: A config that cannot be.
    """
    # Loads MindSpore.
    from vidgen_dist import nn
    from vidgen_dist.families.loading import build_model

    model = build_model(checkpoint, name)
    shapes = {key: tuple(value.shape) for key, value in nn.named_parameters(model).items()}
    return Counted(shapes, getattr(model, "sharded", ()))


def vae_tiles(checkpoint: Checkpoint) -> VaeTiles:
    """The tiles in which the VAE works if it is told to.

    Raises:
        Refused: A config that cannot be, or of which no tiles can be made.
    """
    # Loads MindSpore.
    from vidgen_dist.families.common.autoencoder import VideoAutoencoder
    from vidgen_dist.families.loading import build_model

    vae = build_model(checkpoint, "vae")
    assert isinstance(vae, VideoAutoencoder)
    vae.enable_tiling()
    rows, columns = vae.tiles.cut(vae.spatial_compression_ratio, decoding=False)
    return VaeTiles(rows.size, columns.size, rows.step, columns.step)


def component(
    name: str,
    counted: Counted,
    stack: Stack | None = None,
    encoder: tuple[Convolution, ...] = (),
    decoder: tuple[Convolution, ...] = (),
) -> Component:
    """A component of those parameters."""
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
    return Component(name, tuple(blocks.values()), tables, rest, stack, encoder, decoder)


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
