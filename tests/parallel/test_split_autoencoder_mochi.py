"""Mochi's autoencoder with its rows divided over ranks: the result of one rank."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.mochi.test_autoencoder import randomised
from tests.families.tiny import normal
from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.families.common.tiles import StridedTiles
from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone

TOLERANCE = 2e-5

SPLITS = [(5, 4, 2, False), (2, 3, 4, False), (2, 2, 2, True)]
"""Rows of latents, ranks, pixels of a latent, whether in tiles."""


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def autoencoder(mesh: Mesh, ratio: int, tiling: bool) -> AutoencoderKLMochi:
    vae = randomised(mesh, spatial_expansions=[ratio])
    if tiling:
        vae.tiles = StridedTiles(4, 4, 2, 2)
        vae.enable_tiling()
    return vae


def encode(mesh: Mesh, video: np.ndarray, ratio: int, tiling: bool) -> np.ndarray:
    """Moments (B, 2 Z, t, h, w)."""
    moments = autoencoder(mesh, ratio, tiling).encode(nn.from_numpy(video))
    return np.concatenate([nn.to_numpy(moment) for moment in moments], axis=1)


def decode(mesh: Mesh, latents: np.ndarray, ratio: int, tiling: bool) -> np.ndarray:
    return nn.to_numpy(autoencoder(mesh, ratio, tiling).decode(nn.from_numpy(latents)))


@pytest.mark.parametrize(("rows", "size", "ratio", "tiling"), SPLITS)
def test_rows_make_what_one_rank_makes(ranks: Ranks, rows: int, size: int, ratio: int, tiling: bool) -> None:
    # Two batches of latent frames.
    video, latents = normal(1, 3, 5, ratio * rows, 4 * ratio), normal(1, 2, 4, rows, 4)
    degrees = Degrees(ulysses=size)
    expected = encode(alone(), video, ratio, tiling)
    for moments in ranks.run(encode, video, ratio, tiling, degrees=degrees):
        np.testing.assert_allclose(moments, expected, atol=TOLERANCE)
    frames, *others = ranks.run(decode, latents, ratio, tiling, degrees=degrees)
    np.testing.assert_allclose(frames, decode(alone(), latents, ratio, tiling), atol=TOLERANCE)
    assert all(other.shape == (1, 3, 10, 0, 4 * ratio) for other in others)
