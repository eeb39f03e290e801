"""Spatial split: rows of images divided over ranks, compared with one rank or with NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.neighbours import merge_moments
from vidgen_dist.parallel.spatial_split import SpatialSplit, SpatialSplitGroupNorm, join_bands

SPLITS = [(5, 2), (5, 3), (5, 4), (2, 4)]
"""Rows where the image is smallest, ranks."""


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def together(parts: list[Any]) -> np.ndarray:
    return np.concatenate([part for part in parts if part is not None], axis=3)


def convolved(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution of x (B, I, T, H, W), already padded, in float64."""
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), weight.shape[2:], axis=(2, 3, 4))
    return np.einsum("bithwklm,oiklm->bothw", windows[:, :, :, ::stride, ::stride], weight)


# Convolutions. ----------------------------------------------------------------------------------


def convolve(mesh: Mesh, x: np.ndarray, weight: np.ndarray, total: int) -> np.ndarray | None:
    edge = weight.shape[3] // 2
    split = SpatialSplit.divide(mesh.gang, total, at_least=max(edge, 1))
    if not split.holds:
        return None
    part = split.take(nn.from_numpy(x), x.shape[3] // total)
    padding = (0, split.padding(edge), edge)
    return nn.to_numpy(nn.conv3d(split.extend(part, edge, edge), nn.from_numpy(weight), padding=padding))


@pytest.mark.parametrize(("total", "size"), SPLITS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution(ranks: Ranks, total: int, size: int, kernel: int) -> None:
    x, weight = normal(2, 3, 2, 2 * total, 5), normal(4, 3, 1, kernel, kernel, seed=1)
    edge = kernel // 2
    expected = convolved(np.pad(x, [(0, 0)] * 3 + [(edge, edge)] * 2), weight)
    ours = together(ranks.run(convolve, x, weight, total, degrees=Degrees(size)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def pad_and_convolve(
    mesh: Mesh,
    x: np.ndarray,
    weight: np.ndarray,
    total: int,
    widths: tuple[int, ...],
    mode: Literal["constant", "replicate"],
    stride: int,
) -> np.ndarray | None:
    split = SpatialSplit.divide(mesh.gang, total)
    if not split.holds:
        return None
    padded = split.pad(split.take(nn.from_numpy(x), x.shape[3] // total), widths, mode)
    return nn.to_numpy(nn.conv3d(padded, nn.from_numpy(weight), stride=(1, stride, stride)))


@pytest.mark.parametrize(("total", "size"), SPLITS)
@pytest.mark.parametrize(
    ("widths", "mode", "stride"),
    [
        ((0, 1, 0, 1, 2, 0), "constant", 2),
        ((1, 1, 1, 1, 2, 0), "replicate", 1),
        ((2, 0, 2, 0), "replicate", 1),
    ],
)
def test_padding(
    ranks: Ranks,
    total: int,
    size: int,
    widths: tuple[int, ...],
    mode: Literal["constant", "replicate"],
    stride: int,
) -> None:
    # One row more than the last rank's share of pairs: that rank has it.
    x, weight = normal(1, 3, 3, 2 * total + 1, 6), normal(4, 3, 3, 3, 3, seed=1)
    pairs = [(0, 0)] * 5
    for i in range(len(widths) // 2):
        pairs[-1 - i] = (widths[2 * i], widths[2 * i + 1])
    expected = convolved(np.pad(x, pairs, "edge" if mode == "replicate" else "constant"), weight, stride)
    ours = together(
        ranks.run(pad_and_convolve, x, weight, total, widths, mode, stride, degrees=Degrees(size))
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def halo_bytes(mesh: Mesh, above: int, below: int) -> int:
    split = SpatialSplit.divide(mesh.gang, 5, at_least=2)
    if split.holds:
        split.around(nn.ones((2, 3, 4, split.sizes[mesh.rank], 7)), above, below)
    return mesh.traffic.sent["halo"]


@pytest.mark.parametrize(("above", "below"), [(1, 1), (2, 1), (0, 1), (0, 0)])
def test_a_halo_sends_its_rows_to_the_neighbours(ranks: Ranks, above: int, below: int) -> None:
    row = 2 * 3 * 4 * 7 * 4
    # Two ranks have 3 and 2 rows, the third none: 1 row would be narrower than the halo.
    told = ranks.run(halo_bytes, above, below, degrees=Degrees(3))
    assert told == [above * row, below * row, 0]


def too_wide(mesh: Mesh) -> str:
    split = SpatialSplit.divide(mesh.gang, 2)
    with pytest.raises(ValueError, match="a halo of 2") as error:
        split.around(nn.ones((1, 1, 1, 1, 1)), 2, 2)
    return str(error.value)


def test_a_halo_that_does_not_end_at_the_neighbour_is_told(ranks: Ranks) -> None:
    assert all("a rank has 1 along axis 3" in told for told in ranks.run(too_wide, degrees=Degrees(2)))


def test_frames_of_several_bands_are_joined() -> None:
    first = (normal(2, 3, 2, 4, 5),)
    second = tuple(normal(2, 3, 3, height, 5, seed=height) for height in (1, 2, 1))
    expected = np.concatenate([first[0], np.concatenate(second, axis=3)], axis=2)
    ours = join_bands([tuple(nn.from_numpy(band) for band in bands) for bands in (first, second)])
    np.testing.assert_array_equal(nn.to_numpy(ours), expected)


# Statistics. ------------------------------------------------------------------------------------


def test_merged_moments_are_those_of_the_whole() -> None:
    x = normal(9, 2, 3).astype(np.float64) + 1e4
    parts = np.split(x, [2, 3])
    counts = np.stack([np.full((2, 3), len(part)) for part in parts])
    means = np.stack([part.mean(0) for part in parts])
    mean, variance = merge_moments(counts, means, np.stack([part.var(0) for part in parts]))
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-9)


def normalise(mesh: Mesh, x: np.ndarray, total: int) -> tuple[np.ndarray, int] | None:
    split = SpatialSplit.divide(mesh.gang, total)
    if not split.holds:
        return None
    norm = SpatialSplitGroupNorm(3, 6)
    norm.weight.set_data(nn.from_numpy(normal(6, seed=1)))
    norm.bias.set_data(nn.from_numpy(normal(6, seed=2)))
    part = split.take(nn.from_numpy(x), x.shape[3] // total)
    return nn.to_numpy(norm(part, split)), mesh.traffic.sent["norm"]


@pytest.mark.parametrize(("total", "size"), SPLITS)
def test_group_norm(ranks: Ranks, total: int, size: int) -> None:
    # Rows with very different values: the parts' own moments would give another result.
    x = normal(2, 6, 3, 2 * total, 5) + np.arange(2 * total, dtype=np.float32)[:, None]
    x[:, :, :, ::2] = x[:, :, :, :1]
    told = [t for t in ranks.run(normalise, x, total, degrees=Degrees(size)) if t is not None]
    ours = together([part for part, _ in told])
    expected = nn.group_norm(
        nn.from_numpy(x), 3, nn.from_numpy(normal(6, seed=1)), nn.from_numpy(normal(6, seed=2)), 1e-5
    )
    np.testing.assert_allclose(ours, nn.to_numpy(expected), atol=1e-5)
    # Every other row is the same, and so are all ranks' moments, bit for bit.
    np.testing.assert_array_equal(
        ours[:, :, :, ::2], np.broadcast_to(ours[:, :, :, :1], ours[:, :, :, ::2].shape)
    )
    # Count, mean and variance of 2 x 3 groups to every other rank.
    assert [sent for _, sent in told] == [3 * 6 * 4 * (len(told) - 1)] * len(told)


# Attention. -------------------------------------------------------------------------------------


def attend(mesh: Mesh, qkv: np.ndarray, total: int, causal: bool) -> np.ndarray | None:
    split = SpatialSplit.divide(mesh.gang, total)
    if not split.holds:
        return None
    at = slice(sum(split.sizes[: mesh.rank]) * 2, sum(split.sizes[: mesh.rank + 1]) * 2)
    q, k, v = (nn.from_numpy(x[:, :, :, at]) for x in qkv)
    return nn.to_numpy(split.attention(q, k, v, causal=causal))


@pytest.mark.parametrize(("total", "size"), SPLITS)
@pytest.mark.parametrize("causal", [False, True])
def test_attention(ranks: Ranks, total: int, size: int, causal: bool) -> None:
    frames, height, width = 3, 2 * total, 4
    qkv = normal(3, 2, 2, frames, height, width, 8)
    frame = np.repeat(np.arange(frames), height * width)
    mask = nn.from_numpy(frame[:, None] >= frame[None, :]) if causal else None
    flat = (nn.from_numpy(x.reshape(2, 2, -1, 8)) for x in qkv)
    expected = nn.to_numpy(nn.attention(*flat, mask=mask)).reshape(qkv[0].shape)
    ours = together(ranks.run(attend, qkv, total, causal, degrees=Degrees(size)))
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    alone = SpatialSplit().attention(*(nn.from_numpy(x) for x in qkv), causal=causal)
    np.testing.assert_allclose(nn.to_numpy(alone), expected, atol=1e-5)


# Ends. ------------------------------------------------------------------------------------------


def divide_and_gather(mesh: Mesh, x: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray, int]:
    split = SpatialSplit.divide(mesh.gang, total)
    part = split.take(nn.from_numpy(x), 2) if split.holds else None
    everywhere = nn.to_numpy(split.gather(part, nn.float32))
    mesh.traffic.clear()
    return everywhere, nn.to_numpy(split.gather_at_first(part, nn.float32)), mesh.traffic.sent["rows"]


@pytest.mark.parametrize(("total", "size"), SPLITS)
def test_rows_are_gathered(ranks: Ranks, total: int, size: int) -> None:
    x = normal(2, 3, 2, 2 * total + 1, 4)
    told = ranks.run(divide_and_gather, x, total, degrees=Degrees(size))
    for rank, (everywhere, at_first, _) in enumerate(told):
        np.testing.assert_array_equal(everywhere, x)
        np.testing.assert_array_equal(at_first, x if rank == 0 else x[:, :, :, :0])
    # Every rank but the first sends its rows once, and all send their shapes.
    shapes = size * (size - 1) * 5 * 8
    assert (
        sum(sent for *_, sent in told)
        == x.nbytes - rows_of_the_first(total, size) * x[:, :, :, :1].nbytes + shapes
    )


def rows_of_the_first(total: int, size: int) -> int:
    """Rows that the first rank already has."""
    return 2 * -(-total // min(total, size))


def test_few_rows_go_to_the_first_ranks() -> None:
    gang = Group(ranks=(0, 1, 2, 3))
    assert SpatialSplit.divide(gang, 10).sizes == (3, 3, 2, 2)
    assert SpatialSplit.divide(gang, 3).sizes == (1, 1, 1, 0)
    assert SpatialSplit.divide(gang, 7, at_least=3).sizes == (4, 3, 0, 0)
    assert SpatialSplit.divide(gang, 2, at_least=3).sizes == (2, 0, 0, 0)
    assert SpatialSplit.of_first(gang, 7).sizes == (7, 0, 0, 0)
    assert SpatialSplit.of_first(gang, 7).whole


def test_one_rank_works_on_what_it_is_given() -> None:
    rows, x = SpatialSplit(), nn.ones((1, 2, 3, 4, 5))
    assert rows.whole
    assert rows.holds
    assert rows.padding(1) == 1
    for same in (rows.take(x, 2), *rows.around(x, 1, 1), rows.extend(x, 1, 1), rows.gather(x, x.dtype)):
        assert same is x
