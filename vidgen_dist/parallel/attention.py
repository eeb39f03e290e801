"""Attention over tokens that are divided over ranks: Ulysses, ring, or both.

Ulysses (Jacobs et al. 2023, arXiv:2309.14509): an all-to-all gives every rank all tokens of some heads, and
another all-to-all brings the results back. Ring (Liu et al. 2023, arXiv:2310.01889): every rank keeps its
queries, while keys and values are passed around. Both (Fang and Zhao 2024, arXiv:2405.07719): Ulysses among
neighbouring ranks, and the keys and values that they gathered go around the ring.

Pairs of sample and head are divided, not heads alone: 30 heads of 2 samples divide evenly over 4 ranks. Any
number of tokens and heads works on any number of ranks; if there are very few heads, some ranks have none.

Letters: B samples, n this rank's tokens, N tokens of several ranks, H heads, P pairs of sample and head, D
    head
size.
"""

from __future__ import annotations

from collections.abc import Sequence

from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group, MappedResult, PendingResult
from vidgen_dist.parallel.degrees import shares
from vidgen_dist.parallel.token_split import TokenSplit, part_bounds


def attention(
    q: nn.Tensor,
    k: nn.Tensor,
    v: nn.Tensor,
    split: TokenSplit,
    *,
    scale: float | None = None,
) -> nn.Tensor:
    """Softmax attention of this rank's queries to the keys of all ranks that share the sequence.

    Args:
        q, k, v: (B, n, H, D), of this rank's tokens.
        split: How the tokens are divided.
        scale: Factor of q·k; 1 / sqrt(D) by default.

    Returns:
        (B, n, H, D).
    """
    mesh, lengths = split.mesh, split.lengths
    if mesh.sequence.size == 1:
        return _swapped(nn.attention(*(_swapped(x) for x in (q, k, v)), scale=scale))
    batch, n, heads, size = q.shape
    ulysses, ring = mesh.ulysses, mesh.ring
    rows = [lengths[i * ulysses.size : (i + 1) * ulysses.size] for i in range(ring.size)]
    pairs = shares(batch * heads, ulysses.size)
    packed = _to_heads([_pairs(x) for x in (q, k, v)], ulysses, rows[ring.index], pairs)
    mixed = _ring_attention(packed, ring, [sum(row) for row in rows], scale)
    mixed = _to_tokens(mixed, ulysses, rows[ring.index], pairs)
    return nn.reshape(mixed, (n, batch, heads, size)).permute(1, 0, 2, 3)


def _swapped(x: nn.Tensor) -> nn.Tensor:
    """(B, n, H, D) to (B, H, n, D), and back."""
    return x.permute(0, 2, 1, 3)


def _pairs(x: nn.Tensor) -> nn.Tensor:
    """(B, n, H, D) to (n, P, D), with P = B * H."""
    batch, n, heads, size = x.shape
    return nn.cat([x[i] for i in range(batch)], 1) if batch > 1 else x.reshape(n, heads, size)


def _to_heads(
    parts: Sequence[nn.Tensor], group: Group, lengths: Sequence[int], pairs: Sequence[int]
) -> nn.Tensor:
    """Queries, keys and values of this rank's tokens (n, P, D) to those of its pairs (N, 3, P / ranks, D)."""
    pieces = [nn.stack([x[:, at] for x in parts], 1) for at in part_bounds(pairs)]
    if group.size == 1:
        return pieces[0]
    size = parts[0].shape[-1]
    shapes = [(n, len(parts), pairs[group.index], size) for n in lengths]
    return nn.cat(group.all_to_all(pieces, shapes, what="ulysses").wait(), 0)


def _to_tokens(mixed: nn.Tensor, group: Group, lengths: Sequence[int], pairs: Sequence[int]) -> nn.Tensor:
    """Results of this rank's pairs (N, P / ranks, D) to those of its tokens (n, P, D)."""
    if group.size == 1:
        return mixed
    pieces = [mixed[at] for at in part_bounds(lengths)]
    shapes = [(lengths[group.index], p, mixed.shape[-1]) for p in pairs]
    return nn.cat(group.all_to_all(pieces, shapes, what="ulysses").wait(), 1)


def _ring_attention(
    packed: nn.Tensor, group: Group, lengths: Sequence[int], scale: float | None
) -> nn.Tensor:
    """Attention of this rank's queries to the keys of all ranks of the ring.

    Args:
        packed: This rank's queries, keys and values: (N, 3, P, D).
        group: The ring.
        lengths: Each rank's N.
        scale: As in `attention`.

    Returns:
        (N, P, D).
    """
    n, _, pairs, size = packed.shape
    if not pairs:
        # This rank has no heads; nor have the others of its ring, which have the same pairs.
        return nn.zeros((n, 0, size), packed.dtype)
    q, keys_values = packed[:, 0], packed[:, 1:]
    if group.size == 1:
        return _tokens_first(
            nn.attention(*(_batch(x) for x in (q, keys_values[:, 0], keys_values[:, 1])), scale=scale)
        )
    merged = None
    for step in range(group.size):
        following: PendingResult[nn.Tensor] | None = None
        if step + 1 < group.size:
            sender = (group.index - step - 1) % group.size
            following = _pass_on(keys_values, group, (lengths[sender], 2, pairs, size))
        if keys_values.shape[0]:
            k, v = keys_values[:, 0], keys_values[:, 1]
            part = nn.attention_with_lse(*(_batch(x) for x in (q, k, v)), scale=scale)
            merged = part if merged is None else nn.merge_attention(*merged, *part)
        if following is not None:
            keys_values = following.wait()
    assert merged is not None, "a sequence has tokens"
    return _tokens_first(merged[0])


def _pass_on(x: nn.Tensor, group: Group, shape: tuple[int, ...]) -> PendingResult[nn.Tensor]:
    """Send x to the next rank, and receive a tensor of this shape from the rank before."""
    after, before = (group.index + 1) % group.size, (group.index - 1) % group.size
    nothing = nn.zeros((0,), x.dtype)
    pieces = [x if i == after else nothing for i in range(group.size)]
    shapes = [shape if i == before else (0,) for i in range(group.size)]
    return MappedResult(group.all_to_all(pieces, shapes, what="ring"), lambda pieces: pieces[before])


def _batch(x: nn.Tensor) -> nn.Tensor:
    """(N, P, D) to (1, P, N, D)."""
    return x.permute(1, 0, 2)[None]


def _tokens_first(x: nn.Tensor) -> nn.Tensor:
    """(1, P, N, D) to (N, P, D)."""
    return x[0].permute(1, 0, 2)
