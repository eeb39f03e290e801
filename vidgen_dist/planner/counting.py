"""Counts the parameters of a checkpoint's models, which are built without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.families.common.costs import ParameterShapes, VaeTiles
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class ModelCounts:
    """Parameters and tiles of a checkpoint's models.

    Args:
        counted: Component's name -> its parameters.
        vae_tiles: The VAE's tiles; None if it processes whole frames.
    """

    counted: Mapping[str, ParameterShapes]
    vae_tiles: VaeTiles | None


def count_models(checkpoint: Checkpoint, options: ModelOptions) -> ModelCounts:
    """Build a checkpoint's models and count their parameters, which take no memory.

    Raises:
        Refused: A config that is not allowed, or that an option does not work with.
    """
    # Imports MindSpore.
    from vidgen_dist import nn
    from vidgen_dist.families.common.autoencoder import TiledAutoencoder
    from vidgen_dist.families.loader import build_models
    from vidgen_dist.parallel.sharding import sharded_paths

    counted, tiles = {}, None
    for name, model in build_models(checkpoint, options).items():
        shapes = {key: tuple(value.shape) for key, value in nn.named_parameters(model).items()}
        counted[name] = ParameterShapes(shapes, tuple(sharded_paths(model)))
        if isinstance(model, TiledAutoencoder) and model.use_tiling:
            rows, columns = model.tiles.cut(model.spatial_compression_ratio, decoding=False)
            tiles = VaeTiles(rows.size, columns.size, rows.step, columns.step)
    return ModelCounts(counted, tiles)
