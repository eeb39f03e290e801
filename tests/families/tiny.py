"""Tiny models for tests, with a reference's weights or with random ones; their inputs and outputs."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.references import Case, check_close, largest_difference
from vidgen_dist import load_pipeline, nn
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_kl import ImageAutoencoder
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.weights.load import load_weights


def made(kind: type, raw: Mapping[str, Any], mesh: Mesh | None = None) -> Any:
    """The model of a config.json with these keys; the constructor determines the class that reads them."""
    config = typing.get_type_hints(kind.__init__)["config"].read(raw)
    return kind(config) if mesh is None else kind(config, mesh)


def pipeline(case: Case, mesh: Mesh | None = None) -> AnyPipeline:
    """The pipeline of a case's checkpoint, with the dtype of its frames."""
    return load_pipeline(str(case.checkpoint), **case.options, mesh=mesh)


def loaded(kind: type, case: Case, component: str) -> Any:
    """The model of a case's component, with its weights."""
    return loaded_from(kind, case.checkpoint / component, case.variant)


def loaded_from(kind: type, folder: Path, variant: str | None = None) -> Any:
    """The model of a component's folder, with its weights."""
    model = made(kind, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    load_weights(model, folder, variant=variant, rename=getattr(model, "own_key", None))
    return model


def randomised(model: Any, scale: float | None = None) -> Any:
    """The model with normally distributed weights, times `scale`, or by default with variance 1 / fan-in."""
    rng = np.random.default_rng(0)
    for parameter in nn.named_parameters(model).values():
        times = scale or max(1, np.prod(parameter.shape[1:])) ** -0.5
        values = times * rng.standard_normal(parameter.shape)
        parameter.set_data(nn.from_numpy(values.astype(np.float32)))
    return model


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def denoiser_inputs(
    rng: np.random.Generator, text: int, frames: int, height: int, width: int, tokens: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Random inputs of a denoiser, as the references name them.

    Args:
        rng: Draws them.
        text: Width of the encoded text.
        frames: Frames of three channels.
        height: Their rows.
        width: Their columns.
        tokens: Each sample's tokens, of six.
    """
    batch, length = len(tokens), 6
    return {
        "hidden_states": rng.standard_normal((batch, 3, frames, height, width)).astype(np.float32),
        "timestep": np.linspace(900, 30, batch),
        "encoder_hidden_states": rng.standard_normal((batch, length, text)).astype(np.float32),
        "encoder_attention_mask": np.arange(length) < np.array(tokens)[:, None],
    }


def pieces_of(case: Case, prefix: str) -> dict[str, np.ndarray]:
    """The case's arrays `prefix.…`, by the rest of their names."""
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in case.pieces.items() if key.startswith(start)}


def part(pieces: Mapping[str, np.ndarray], samples: Any) -> dict[str, np.ndarray]:
    """Some samples of a batch, by an index of NumPy."""
    return {key: value[samples] for key, value in pieces.items()}


def recordings(cases: list[Case], half: str) -> list[tuple[str, str]]:
    """Names of the cases and their VAE's arrays for "encode" or "decode", tiled ones included."""
    keys = [(case.name, *key.split(".")) for case in cases for key in case.pieces if key.startswith("vae.")]
    return [(name, piece) for name, _, piece, *part in keys if half in piece and part == ["input"]]


def encode(vae: VideoAutoencoder | ImageAutoencoder, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, logvar = vae.encode(nn.from_numpy(video))
    return nn.to_numpy(mean), nn.to_numpy(logvar)


def decode(vae: VideoAutoencoder | ImageAutoencoder, latents: np.ndarray, *how: Any) -> np.ndarray:
    return nn.to_numpy(vae.decode(nn.from_numpy(latents), *how))


def check_encoding(
    what: str,
    vae: VideoAutoencoder | ImageAutoencoder,
    recorded: Mapping[str, np.ndarray],
    tolerance: float,
) -> None:
    """The moments of a recording's video are those of the recording."""
    for name, moment in zip(("mean", "logvar"), encode(vae, recorded["input"]), strict=True):
        check_close(f"{what}, {name}", moment, recorded[name], tolerance)


def check_decoding(
    what: str,
    vae: VideoAutoencoder | ImageAutoencoder,
    recorded: Mapping[str, np.ndarray],
    tolerance: float,
) -> None:
    """The video of a recording's latents is that of the recording."""
    check_close(what, decode(vae, recorded["input"]), recorded["output"], tolerance)


def without_effect(model: Any, runs: Mapping[str, Callable[[], np.ndarray]]) -> list[str]:
    """Keys of the parameters that can be changed, one at a time, without any effect.

    Args:
        model: The model.
        runs: The beginning of keys -> a function that computes the output that these parameters affect;
            parameters with other beginnings are left out.
    """
    # Not the weights of `randomised`: a norm may cancel weights that are larger by a factor.
    rng = np.random.default_rng(1)
    before = {prefix: run() for prefix, run in runs.items()}
    unseen = []
    for key, parameter in nn.named_parameters(model).items():
        for prefix in (prefix for prefix in runs if key.startswith(prefix)):
            kept = nn.to_numpy(parameter).copy()
            # Each value differently: norms cancel an offset that all channels share.
            parameter.set_data(nn.from_numpy(kept + rng.standard_normal(kept.shape).astype(np.float32)))
            if not largest_difference(runs[prefix](), before[prefix]) > 1e-4:
                unseen.append(key)
            parameter.set_data(nn.from_numpy(kept))
    for prefix, run in runs.items():
        np.testing.assert_array_equal(run(), before[prefix])
    return unseen
