"""The image autoencoder with its frames divided over ranks: the result of one rank."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families import tiny
from tests.families.common.test_autoencoder_kl import randomised
from tests.families.tiny import normal
from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone

TOLERANCE = 1e-5


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def encode_and_decode(
    mesh: Mesh, video: np.ndarray, latents: np.ndarray, chunk: int | None, tiling: bool
) -> list[np.ndarray]:
    vae = randomised(mesh, sample_size=8)
    if tiling:
        vae.enable_tiling()
    return [*tiny.encode(vae, video), tiny.decode(vae, latents, chunk)]


@pytest.mark.parametrize(
    ("frames", "size", "chunk", "tiling"),
    [(5, 2, None, False), (5, 3, 1, False), (2, 3, None, False), (3, 2, 2, True)],
)
def test_frames_over_ranks(ranks: Ranks, frames: int, size: int, chunk: int | None, tiling: bool) -> None:
    video, latents = normal(1, 3, 1, 12, 8), normal(2, 2, frames, 5, 4)
    work = (video, latents, chunk, tiling)
    first, *others = ranks.run(encode_and_decode, *work, degrees=Degrees(ulysses=size))
    mean, logvar, decoded = encode_and_decode(alone(), *work)
    for told in (first, *others):
        np.testing.assert_allclose(told[0], mean, atol=TOLERANCE)
        np.testing.assert_allclose(told[1], logvar, atol=TOLERANCE)
    np.testing.assert_allclose(first[2], decoded, atol=TOLERANCE)
    assert {told[2].shape for told in others} == {(2, 3, frames, 0, 8)}
