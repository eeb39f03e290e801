"""CogVideoX's autoencoder with its rows divided over ranks: the result of one rank, with less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.families import tiny
from tests.families.cogvideox.test_autoencoder import TINY
from tests.families.tiny import normal
from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX, CausalConv3d
from vidgen_dist.families.common.autoencoder_layers import FrameCache
from vidgen_dist.families.common.tiles import OverlappingTiles
from vidgen_dist.nn import cpu_graphs
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.spatial_split import SpatialSplit

TOLERANCE = 1e-5

SPLITS = [(5, 2), (5, 3), (5, 4), (2, 4)]
"""Rows of latents, ranks."""

QUANTIZING = {"latent_channels": 3, "use_quant_conv": True, "use_post_quant_conv": True}


@pytest.fixture(autouse=True, scope="module")
def cpu() -> None:
    nn.set_device("cpu")


def autoencoder(mesh: Mesh, changes: dict[str, Any]) -> AutoencoderKLCogVideoX:
    return tiny.randomised(tiny.made(AutoencoderKLCogVideoX, {**TINY, **changes}, mesh))


def encode(mesh: Mesh, video: np.ndarray, changes: dict[str, Any], **settings: Any) -> np.ndarray:
    """Moments (B, 2 Z, t, h, w)."""
    vae = set_up(autoencoder(mesh, changes), **settings)
    return np.concatenate([nn.to_numpy(part) for part in vae.encode(nn.from_numpy(video))], axis=1)


def decode(mesh: Mesh, latents: np.ndarray, changes: dict[str, Any], **settings: Any) -> np.ndarray:
    return nn.to_numpy(set_up(autoencoder(mesh, changes), **settings).decode(nn.from_numpy(latents)))


def set_up(
    vae: AutoencoderKLCogVideoX, slicing: bool = False, tiling: bool = False
) -> AutoencoderKLCogVideoX:
    vae.use_slicing = slicing
    if tiling:
        vae.tiles = OverlappingTiles(16, 16, 0.25, 0.25)
        vae.enable_tiling()
    return vae


def check_moments(told: list[np.ndarray], expected: np.ndarray) -> None:
    for moments in told:
        np.testing.assert_array_equal(moments, told[0])
    np.testing.assert_allclose(told[0], expected, atol=TOLERANCE)


def check_frames(told: list[np.ndarray], expected: np.ndarray) -> None:
    np.testing.assert_allclose(told[0], expected, atol=TOLERANCE)
    for others in told[1:]:
        assert others.shape == (*expected.shape[:3], 0, expected.shape[4])


@pytest.mark.parametrize(("rows", "size"), SPLITS)
def test_encode(ranks: Ranks, rows: int, size: int) -> None:
    # 4 pixels per latent, and 3 rows of pixels more. Batches of 9 and 8 frames.
    video = normal(1, 3, 17, 4 * rows + 3, 12)
    check_moments(ranks.run(encode, video, {}, degrees=Degrees(size)), encode(alone(), video, {}))


@pytest.mark.parametrize(("rows", "size"), SPLITS)
def test_decode(ranks: Ranks, rows: int, size: int) -> None:
    latents = normal(1, 4, 5, rows, 3)
    check_frames(ranks.run(decode, latents, {}, degrees=Degrees(size)), decode(alone(), latents, {}))


def test_videos_one_by_one_and_quantizing_convolutions(ranks: Ranks) -> None:
    degrees, slicing = Degrees(ulysses=1, ring=1, cfg=2), {"slicing": True}
    video, latents = normal(2, 3, 9, 20, 12), normal(2, 3, 3, 5, 3)
    check_moments(
        ranks.run(sliced_encode, video, QUANTIZING, degrees=degrees),
        encode(alone(), video, QUANTIZING, **slicing),
    )
    check_frames(
        ranks.run(sliced_decode, latents, QUANTIZING, degrees=degrees),
        decode(alone(), latents, QUANTIZING, **slicing),
    )


def sliced_encode(mesh: Mesh, video: np.ndarray, changes: dict[str, Any]) -> np.ndarray:
    return encode(mesh, video, changes, slicing=True)


def sliced_decode(mesh: Mesh, latents: np.ndarray, changes: dict[str, Any]) -> np.ndarray:
    return decode(mesh, latents, changes, slicing=True)


def test_tiles_are_not_split(ranks: Ranks) -> None:
    video, latents = normal(1, 3, 9, 24, 24), normal(1, 4, 3, 6, 6)
    moments, frames = encode(alone(), video, {}, tiling=True), decode(alone(), latents, {}, tiling=True)
    check_moments(ranks.run(tiled_encode, video, degrees=Degrees(2)), moments)
    check_frames(ranks.run(tiled_decode, latents, degrees=Degrees(2)), frames)
    assert np.abs(frames - decode(alone(), latents, {})).max() > 1e-3


def tiled_encode(mesh: Mesh, video: np.ndarray) -> np.ndarray:
    return encode(mesh, video, {}, tiling=True)


def tiled_decode(mesh: Mesh, latents: np.ndarray) -> np.ndarray:
    return decode(mesh, latents, {}, tiling=True)


def convolve_batches(mesh: Mesh, x: np.ndarray, batches: list[int]) -> tuple[np.ndarray, int]:
    conv = tiny.randomised(CausalConv3d(3, 5))
    split = SpatialSplit.divide(mesh.gang, x.shape[3])
    cache = FrameCache(split)
    parts = [
        conv(split.take(nn.from_numpy(part)), cache) for part in np.split(x, np.cumsum(batches)[:-1], axis=2)
    ]
    return nn.to_numpy(nn.cat(parts, axis=2)), mesh.traffic.sent["halo"]


@pytest.mark.parametrize("batches", [[7], [4, 3], [3, 1, 1, 2]])
def test_frames_of_the_batch_before_are_not_exchanged_again(ranks: Ranks, batches: list[int]) -> None:
    x = normal(1, 3, 7, 5, 4)
    told = ranks.run(convolve_batches, x, batches, degrees=Degrees(2))
    expected, _ = convolve_batches(alone(), x, [7])
    np.testing.assert_allclose(np.concatenate([part for part, _ in told], axis=3), expected, atol=TOLERANCE)
    assert [sent for _, sent in told] == [3 * 7 * 4 * 4] * 2


# Memory. ----------------------------------------------------------------------------------------

LARGE = {
    "block_out_channels": [16, 32, 64],
    "down_block_types": ["CogVideoXDownBlock3D"] * 3,
    "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def decoding_memory(mesh: Mesh, latents: np.ndarray) -> int:
    """The most bytes that this process uses while it decodes, above those that it had before.

    With little that compiled graphs keep: that has a limit of its own.
    """
    cpu_graphs._SHAPED_BYTES = 2**26
    vae = tiny.randomised(tiny.made(AutoencoderKLCogVideoX, LARGE, mesh))
    vae.decode(nn.from_numpy(latents[..., :16, :8]))  # loads OpenVINO
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = resident("VmRSS")
    vae.decode(nn.from_numpy(latents))
    return resident("VmHWM") - before


def resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{key} is not in /proc/self/status")


def test_memory_of_a_rank_falls_with_their_number() -> None:
    latents = normal(1, 4, 2, 64, 40)
    peaks = []
    for size in (1, 2):
        # New processes: they might reuse, unseen, what an earlier decoding freed.
        processes = Ranks()
        try:
            peaks.append(max(processes.run(decoding_memory, latents, degrees=Degrees(size))))
        finally:
            processes.close()
    megabytes = [peak / 2**20 for peak in peaks]
    print(f"8 frames of 256x160: {megabytes[0]:.0f} MB on one rank, {megabytes[1]:.0f} MB on each of two")
    assert peaks[1] < 0.75 * peaks[0]
