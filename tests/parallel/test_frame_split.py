"""Frames of a clip divided over ranks, compared with one rank."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.frame_split import FrameSplit, FrameSplitGroupNorm, TemporalConv
from vidgen_dist.parallel.mesh import Mesh, alone

SPLITS = [(5, 2), (5, 3), (3, 3), (2, 3), (1, 2)]
"""Frames, ranks; also more ranks than frames."""


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mixed(mesh: Mesh, x: np.ndarray, weights: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A small network over x (B, C, F, H, W) that mixes frames in each way, on all ranks and on one."""
    split = FrameSplit.divide(mesh.sequence, x.shape[2])
    conv, norm = TemporalConv(4, 4), FrameSplitGroupNorm(2, 4)
    conv.weight, conv.bias = (nn.from_numpy(weights[key]) for key in ("conv", "bias"))
    norm.weight, norm.bias = (nn.from_numpy(weights[key]) for key in ("scale", "bias"))
    own = split.take(nn.from_numpy(x))
    assert own.shape[2] == split.held
    own = norm(conv(own, split), split)
    batch, channels, frames, rows, columns = own.shape
    places = nn.reshape(own.permute(0, 2, 3, 4, 1), (batch, frames, rows * columns, channels))
    places = split.over_time(places, lambda x: nn.from_numpy(np.cumsum(nn.to_numpy(x), 1)))
    whole = split.gather(places, 1)
    return nn.to_numpy(whole), nn.to_numpy(split.gather_at_first(places, 1))


@pytest.mark.parametrize(("frames", "size"), SPLITS)
@pytest.mark.parametrize("width", [2, 1])
def test_mixed_as_on_one_rank(ranks: Ranks, frames: int, size: int, width: int) -> None:
    # One place is on one rank only.
    x = normal(2, 4, frames, 1, width)
    weights = {"conv": normal(4, 4, 3, 1, 1, seed=1), "scale": normal(4, seed=2), "bias": normal(4, seed=3)}
    expected, _ = mixed(alone(), x, weights)
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])
    taps = [
        np.einsum("bifhw,oi->bofhw", padded[:, :, t : t + frames], weights["conv"][:, :, t, 0, 0])
        for t in range(3)
    ]
    convolved = sum(taps) + weights["bias"].reshape(-1, 1, 1, 1)
    groups = convolved.reshape(2, 2, -1)
    normed = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    normed = normed.reshape(x.shape) * weights["scale"].reshape(-1, 1, 1, 1) + weights["bias"].reshape(
        -1, 1, 1, 1
    )
    by_hand = np.cumsum(normed.transpose(0, 2, 3, 4, 1).reshape(2, frames, width, 4), 1)
    np.testing.assert_allclose(expected, by_hand, atol=1e-4)

    told = ranks.run(mixed, x, weights, degrees=Degrees(size))
    for whole, _ in told:
        np.testing.assert_allclose(whole, expected, atol=1e-5)
    first, *others = [at_first for _, at_first in told]
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert all(other.shape == (2, 0, width, 4) for other in others)


def sent(mesh: Mesh, x: np.ndarray) -> dict[str, int]:
    split = FrameSplit.divide(mesh.sequence, x.shape[1])
    split.gather(split.over_time(split.take(nn.from_numpy(x), 1), lambda y: y), 1)
    return dict(mesh.traffic.sent)


def test_bytes_sent(ranks: Ranks) -> None:
    # 6 frames of 8 places of 5 numbers on 2 ranks: each sends half of its places, and gets them back.
    half = 1 * 3 * 4 * 5 * 4
    assert (
        ranks.run(sent, normal(1, 6, 8, 5), degrees=Degrees(2))
        == [{"frames": 2 * half, "gather": 3 * 8 * 5 * 4}] * 2
    )


def test_a_rank_without_frames_talks_to_nobody(ranks: Ranks) -> None:
    *_, idle = ranks.run(sent, normal(1, 2, 8, 5), degrees=Degrees(3))
    assert idle == {"gather": 0}
