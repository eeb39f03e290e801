"""LTX-Video's autoencoder with its rows divided over ranks: the result of one rank, with injected noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.ltx.test_autoencoder import SHUFFLING, TOLD, randomised, seeded
from tests.families.tiny import normal
from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.families.common.tiles import StridedTiles
from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone

TOLERANCE = 1e-5

SPLITS = [(5, 2), (5, 3), (2, 4)]
"""Rows of latents, ranks."""


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def autoencoder(mesh: Mesh, changes: dict[str, Any]) -> AutoencoderKLLTXVideo:
    return randomised(mesh, **changes)


def encode(mesh: Mesh, video: np.ndarray, changes: dict[str, Any]) -> np.ndarray:
    """Moments (B, 2 Z, t, h, w)."""
    moments = autoencoder(mesh, changes).encode(nn.from_numpy(video))
    return np.concatenate([nn.to_numpy(part) for part in moments], axis=1)


def decode(mesh: Mesh, latents: np.ndarray, changes: dict[str, Any]) -> np.ndarray:
    timestep = np.array([0.2], np.float32)
    return nn.to_numpy(autoencoder(mesh, changes).decode(nn.from_numpy(latents), timestep, seeded()))


@pytest.mark.parametrize("changes", [{}, SHUFFLING], ids=["0.9.0", "0.9.5"])
@pytest.mark.parametrize(("rows", "size"), SPLITS)
def test_encode(ranks: Ranks, rows: int, size: int, changes: dict[str, Any]) -> None:
    video = normal(1, 3, 5, 4 * rows, 12)
    told = ranks.run(encode, video, changes, degrees=Degrees(size))
    for moments in told:
        np.testing.assert_array_equal(moments, told[0])
    np.testing.assert_allclose(told[0], encode(alone(), video, changes), atol=TOLERANCE)


@pytest.mark.parametrize("changes", [{}, TOLD], ids=["0.9.0", "0.9.1"])
@pytest.mark.parametrize(("rows", "size"), SPLITS)
def test_decode(ranks: Ranks, rows: int, size: int, changes: dict[str, Any]) -> None:
    latents = normal(1, 4, 2, rows, 3)
    told = ranks.run(decode, latents, changes, degrees=Degrees(size))
    expected = decode(alone(), latents, changes)
    np.testing.assert_allclose(told[0], expected, atol=TOLERANCE)
    for others in told[1:]:
        assert others.shape == (*expected.shape[:3], 0, expected.shape[4])


def decode_tiles(mesh: Mesh, latents: np.ndarray) -> np.ndarray:
    vae = autoencoder(mesh, TOLD)
    vae.tiles = StridedTiles(24, 16, 16, 8)
    vae.enable_tiling()
    return nn.to_numpy(vae.decode(nn.from_numpy(latents), np.array([0.2], np.float32), seeded()))


def test_tiles_are_not_split(ranks: Ranks) -> None:
    latents = normal(1, 4, 1, 7, 5)
    told = ranks.run(decode_tiles, latents, degrees=Degrees(2))
    np.testing.assert_allclose(told[0], decode_tiles(alone(), latents), atol=TOLERANCE)
    assert told[1].shape[3] == 0
