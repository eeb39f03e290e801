"""Parameters of a checkpoint's models, counted on the models themselves, built without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vidgen_dist.sizing.model import Component, Convolution, Stack
from vidgen_dist.weights.checkpoint import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]
"""A parameter's shape by its name."""


def parameter_shapes(checkpoint: Checkpoint, name: str) -> Shapes:
    """The shapes of a component's parameters; they take no memory.

    Raises:
        Refused: A config that cannot be.
    """
    # Loads MindSpore.
    from vidgen_dist import nn
    from vidgen_dist.pipelines.loading import MODELS

    model = MODELS[checkpoint.class_name(name)](checkpoint.config(name))
    return {key: tuple(value.shape) for key, value in nn.named_parameters(model).items()}


def component(
    name: str,
    shapes: Shapes,
    blocks: str | None = None,
    stack: Stack | None = None,
    encoder: tuple[Convolution, ...] = (),
    decoder: tuple[Convolution, ...] = (),
) -> Component:
    """A component of those parameters.

    Args:
        blocks: What the names of the blocks' parameters begin with, up to the block's number.
    """
    counts: dict[str, int] = {}
    rest = 0
    for key, shape in shapes.items():
        if blocks is not None and key.startswith(blocks):
            number = key.removeprefix(blocks).partition(".")[0]
            counts[number] = counts.get(number, 0) + math.prod(shape)
        else:
            rest += math.prod(shape)
    return Component(name, tuple(counts.values()), rest, stack, encoder, decoder)


def linear_weights(shapes: Shapes, block: str, leave_out: tuple[str, ...] = ()) -> int:
    """Weights of a block's linear maps.

    Args:
        block: What the names of the block's parameters begin with.
        leave_out: Modules that do not multiply every token.
    """
    return sum(
        math.prod(shape)
        for key, shape in shapes.items()
        if key.startswith(block) and len(shape) == 2 and not any(f"{name}." in key for name in leave_out)
    )
