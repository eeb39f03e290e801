"""Parameters, blocks and convolutions are those of the checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import references
from tests.planner import published
from tests.planner.reference_runs import reference_run
from vidgen_dist import nn
from vidgen_dist.families import find_family
from vidgen_dist.families.common.costs import Convolution
from vidgen_dist.families.common.tiles import in_tiles
from vidgen_dist.families.loader import build_models, weight_folders
from vidgen_dist.planner.counting import count_models
from vidgen_dist.planner.planned_run import PlannedRun
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.tensors import TensorFiles


@pytest.mark.parametrize(
    ("family", "name"),
    references.all_cases(),
)
def test_parameters_are_those_of_the_files(family: str, name: str) -> None:
    checkpoint, run = reference_run(name, family)
    models = build_models(checkpoint, ModelOptions(id=name))
    for part in run.size.components:
        folders = weight_folders(find_family(checkpoint), checkpoint, part.name)
        files = TensorFiles.open(*folders, variant=checkpoint.variant)
        # T5's token table is stored under two names; not all of LLaMA's blocks are run.
        rename = getattr(models[part.name], "own_key", str)
        stored = {rename(key): math.prod(files.shape(key)) for key in files.keys}
        assert part.parameters == sum(size for key, size in stored.items() if key is not None), part.name


@pytest.mark.parametrize(
    ("name", "transformer", "blocks"), [("2b", 1.69e9, 30), ("5b", 5.57e9, 42), ("1.5-5b", 5.57e9, 42)]
)
def test_published_sizes(run: Callable[..., PlannedRun], name: str, transformer: float, blocks: int) -> None:
    size = run(name).size
    assert size.denoiser.parameters == pytest.approx(transformer, rel=0.003)
    assert size.text_encoder is not None
    assert size.text_encoder.parameters == 4_762_310_656
    assert size.vae.parameters == 215_583_907
    assert (len(size.denoiser.blocks), len(size.text_encoder.blocks), len(size.vae.blocks)) == (
        blocks,
        24,
        0,
    )
    assert size.denoiser.rest < 0.01 * size.denoiser.parameters


def test_linear_weights_of_a_block(run: Callable[..., PlannedRun]) -> None:
    stack = run("5b").size.denoiser.stack
    assert (stack.heads, stack.width) == (48, 3072)
    # Queries, keys, values, the output map, and a feed-forward four times as wide; not the norms' time maps.
    assert stack.linear == 12 * 3072**2


def test_convolutions_are_where_the_image_has_their_size(run: Callable[..., PlannedRun]) -> None:
    vae = run("5b").size.vae
    assert _resamplers(vae.decoder) == [(512, 1 / 4, 1 / 4), (256, 1 / 2, 1 / 2), (256, 1, 1)]
    assert _resamplers(vae.encoder) == [(128, 1 / 2, 1 / 2), (256, 1 / 4, 1 / 4), (256, 1 / 4, 1 / 8)]
    first, last = _with_channels(vae.decoder, 16, 512), _with_channels(vae.decoder, 128, 3)
    assert (first.frames, first.pixels) == (1 / 4, 1 / 8)
    assert (last.frames, last.pixels) == (1, 1)
    first, last = _with_channels(vae.encoder, 3, 128), _with_channels(vae.encoder, 512, 32)
    assert (first.frames, first.pixels) == (1, 1)
    assert (last.frames, last.pixels) == (1 / 4, 1 / 8)
    # Three levels of four blocks besides the image's own, two convolutions each, and two blocks in the
    # middle.
    assert sum(conv.kernel == (3, 3, 3) for conv in vae.decoder) == 2 * (4 * 4 + 2) + 2


def _resamplers(convolutions: tuple[Convolution, ...]) -> list[tuple[int, float, float]]:
    return [(conv.inputs, conv.frames, conv.pixels) for conv in convolutions if conv.kernel == (1, 3, 3)]


def _with_channels(convolutions: tuple[Convolution, ...], inputs: int, outputs: int) -> Convolution:
    (found,) = [conv for conv in convolutions if (conv.inputs, conv.outputs) == (inputs, outputs)]
    return found


def test_a_video_in_tokens(run: Callable[..., PlannedRun]) -> None:
    work = run("5b").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (49, 480, 720, 50, True)
    assert work.tokens == 13 * 30 * 45
    assert work.latents == 13 * 16 * 60 * 90
    # Thirteen latent frames go through the autoencoder as three, then five times two.
    assert (work.frames_at_once, work.batches) == (9, 6)
    # 21 latent frames are padded to 22, and a token covers two.
    assert run("1.5-5b").work.tokens == 11 * 48 * 85


def test_sampling_decides_the_video() -> None:
    _, run = reference_run("5b", sampling__num_inference_steps=7, sampling__guidance_scale=1.0)
    assert (run.work.steps, run.work.guided, run.work.samples) == (7, False, 1)


def test_clip_and_image_are_encoded() -> None:
    _, clip = reference_run("v2v", sampling__num_frames=9, sampling__num_inference_steps=10)
    assert (clip.work.encoded_frames, clip.work.steps) == (9, 8)
    _, image = reference_run("i2v")
    assert image.work.encoded_frames == 1
    _, text = reference_run("5b")
    assert text.work.encoded_frames == 0


@pytest.mark.parametrize(
    ("name", "tiles"),
    [
        ("5b", (240, 360, 200, 288)),
        ("hunyuan-video", (256, 256, 192, 192)),
        ("ltx-0.9.0", (512, 512, 448, 448)),
        ("mochi", (256, 256, 192, 192)),
    ],
)
def test_tiles_are_those_that_a_frame_is_cut_into(tmp_path: Path, name: str, tiles: tuple[int, ...]) -> None:
    checkpoint = published.checkpoint(tmp_path, name)
    options = ModelOptions(id=name, vae_tiling=True)
    found = count_models(checkpoint, options).vae_tiles
    assert found is not None
    assert dataclasses.astuple(found) == tiles
    vae = build_models(checkpoint, options)["vae"]
    ratio = vae.spatial_compression_ratio
    seen: list[tuple[int, int]] = []

    def look(part: nn.Tensor) -> nn.Tensor:
        height, width = part.shape[3] * ratio, part.shape[4] * ratio
        seen.append((height, width))
        return nn.from_numpy(np.zeros((1, 1, 1, height, width), np.float32))

    for height, width in ((480, 832), (192, 640), (128, 128)):
        latents = nn.from_numpy(np.zeros((1, 1, 1, height // ratio, width // ratio), np.float32))
        seen.clear()
        in_tiles(latents, vae.tiles.cut(ratio, decoding=True), look)
        rows, columns = found.sizes(height, width)
        assert seen == [(of_band, of_tile) for of_band in rows for of_tile in columns]
