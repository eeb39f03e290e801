"""HunyuanVideo's autoencoder with its rows divided over ranks: the result of one rank."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families import tiny
from tests.families.hunyuan_video.test_autoencoder import TINY
from tests.families.tiny import normal
from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo, FrameTiles
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone

TOLERANCE = 1e-5

SPLITS = [(5, 4, False), (2, 3, False), (2, 2, True)]
"""Rows of latents, ranks, whether in tiles."""


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def autoencoder(mesh: Mesh, tiling: bool) -> AutoencoderKLHunyuanVideo:
    vae = tiny.randomised(tiny.made(AutoencoderKLHunyuanVideo, TINY, mesh))
    if tiling:
        vae.tiles = FrameTiles(16, 16, 8, 8, 8, 4)
        vae.enable_tiling()
    return vae


def encode(mesh: Mesh, video: np.ndarray, tiling: bool) -> np.ndarray:
    """Moments (B, 2 Z, t, h, w)."""
    moments = autoencoder(mesh, tiling).encode(nn.from_numpy(video))
    return np.concatenate([nn.to_numpy(moment) for moment in moments], axis=1)


def decode(mesh: Mesh, latents: np.ndarray, tiling: bool) -> np.ndarray:
    return nn.to_numpy(autoencoder(mesh, tiling).decode(nn.from_numpy(latents)))


@pytest.mark.parametrize(("rows", "size", "tiling"), SPLITS)
def test_rows_make_what_one_rank_makes(ranks: Ranks, rows: int, size: int, tiling: bool) -> None:
    # Two tiles of frames each way, and rows beyond the last whole latent.
    video, latents = normal(1, 3, 18, 8 * rows + 3, 16), normal(1, 2, 6, rows, 2)
    degrees = Degrees(ulysses=size)
    expected = encode(alone(), video, tiling)
    for moments in ranks.run(encode, video, tiling, degrees=degrees):
        np.testing.assert_allclose(moments, expected, atol=TOLERANCE)
    frames, *others = ranks.run(decode, latents, tiling, degrees=degrees)
    np.testing.assert_allclose(frames, decode(alone(), latents, tiling), atol=TOLERANCE)
    assert all(other.shape == (1, 3, 21, 0, 16) for other in others)
