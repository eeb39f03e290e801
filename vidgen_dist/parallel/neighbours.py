"""Exchanges between ranks with neighbouring parts of a video: edges, and the moments of norms."""

from __future__ import annotations

import numpy as np

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group


def exchange_edges(
    group: Group, x: nn.Tensor, axis: int, before: int, after: int
) -> tuple[nn.Tensor | None, nn.Tensor | None]:
    """The rows or frames next to this rank's part: those before it from the rank before, those after it from
    the rank after.

    Args:
        group: The ranks, in the order of their parts; all of them call this together.
        x: This rank's part, along the axis at least as long as `before` and `after`.
        axis: The axis that is divided.
        before, after: How much is wanted.

    Returns:
        Tensors of x's shape but for the axis's length; None at the video's border, and if none is wanted.

    Raises:
        ValueError: The part is too short.
    """
    length = x.shape[axis]
    if length < max(before, after):
        raise ValueError(
            f"a rank has {length} along axis {axis}; a halo of {max(before, after)} needs as many"
        )
    nothing = nn.zeros((0,), x.dtype)
    pieces = [nothing] * group.size
    shapes: list[tuple[int, ...]] = [(0,)] * group.size
    previous, following = group.index - 1, group.index + 1
    # The rank before needs the beginning of this rank's part, and the rank after needs its end.
    if previous >= 0:
        pieces[previous] = part(x, axis, 0, after)
        shapes[previous] = with_length(x, axis, before)
    if following < group.size:
        pieces[following] = part(x, axis, length - before, before)
        shapes[following] = with_length(x, axis, after)
    given = group.all_to_all(pieces, shapes, what="halo").wait()
    return (
        given[previous] if before and previous >= 0 else None,
        given[following] if after and following < group.size else None,
    )


def group_norm_of_all(
    group: Group,
    x: nn.Tensor,
    held: int,
    num_groups: int,
    weight: nn.Tensor | None,
    bias: nn.Tensor | None,
    eps: float,
    silu: bool,
) -> nn.Tensor:
    """`nn.group_norm` of this rank's part x (B, C, ...), with the moments of all parts.

    Args:
        group: The ranks that have parts.
        x: This rank's part.
        held: Its length along the axis that is divided.
        num_groups, weight, bias, eps, silu: As in `nn.group_norm`.
    """
    moments = [nn.to_numpy(moment) for moment in nn.group_moments(x, num_groups)]
    count = np.full_like(moments[0], held)
    own = nn.from_numpy(np.stack([count, *moments])[None])
    gathered = nn.to_numpy(group.all_gather(own, [1] * group.size, what="norm").wait())
    mean, variance = merge_moments(*gathered.astype(np.float64).swapaxes(0, 1))
    return nn.group_norm_with(
        x,
        num_groups,
        nn.from_numpy(mean.astype(np.float32)),
        nn.from_numpy(variance.astype(np.float32)),
        weight,
        bias,
        eps,
        silu,
    )


def merge_moments(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (...) of a whole, from the counts, means and variances (P, ...) of its P parts.

    Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances",
    for all parts at once.
    """
    weights = counts / counts.sum(0)
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


def part(x: nn.Tensor, axis: int, start: int, length: int) -> nn.Tensor:
    """A copy of `length` elements of x along an axis, from `start` on."""
    return nn.copy(x[(*(slice(None),) * axis, slice(start, start + length))])


def with_length(x: nn.Tensor, axis: int, length: int) -> tuple[int, ...]:
    """x's shape with another length along an axis."""
    return (*x.shape[:axis], length, *x.shape[axis + 1 :])
