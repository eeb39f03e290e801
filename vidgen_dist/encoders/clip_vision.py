"""CLIP's image encoder: one vector per image, in the space of the prompts' vectors.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020). Names and numbers are those of transformers' `CLIPVisionModelWithProjection`.

Letters: B batch, S side of an image in pixels, L tokens, D model width, E width of an embedding.
"""

from __future__ import annotations

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPLayers
from vidgen_dist.encoders.config import ClipImageProcessorConfig, ClipVisionConfig


def normalised(image: np.ndarray, processor: ClipImageProcessorConfig) -> np.ndarray:
    """An image as the encoder takes it: colours minus their mean, divided by their standard deviation.

    Args:
        image: (S, S, 3) in [0, 1].
        processor: Has mean and standard deviation.

    Returns:
        float32 (1, 3, S, S).
    """
    mean, std = (np.array(value, np.float32) for value in (processor.image_mean, processor.image_std))
    scaled = (image.astype(np.float32) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


class CLIPVisionModelWithProjection(nn.Module):
    """Images to one vector each.

    Args:
        config: `image_encoder/config.json`.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("vision_model.encoder.layers",)

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`."""
        # A table of integers that older releases stored.
        return None if key == "vision_model.embeddings.position_ids" else key

    def construct(self, images: nn.Tensor) -> nn.Tensor:
        """(B, 3, S, S), `normalised`, S the config's `image_size`, to (B, E)."""
        return self.visual_projection(self.vision_model(images))


class VisionTransformer(nn.Module):
    """Patches and a token for the whole image attend to each other; that token gives the output."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        # The checkpoint has this spelling.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = CLIPLayers(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def construct(self, images: nn.Tensor) -> nn.Tensor:
        """(B, 3, S, S) to (B, D)."""
        hidden = self.encoder(self.pre_layrnorm(self.embeddings(images)), None)
        return self.post_layernorm(hidden[:, 0])


class VisionEmbeddings(nn.Module):
    """Embeddings of patches and their positions, preceded by a token for the whole image."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.class_embedding = nn.empty_parameter((config.hidden_size,), "class_embedding")
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(1 + config.patches, config.hidden_size)

    def construct(self, images: nn.Tensor) -> nn.Tensor:
        """(B, 3, S, S) to (B, L, D)."""
        seen = self.patch_embedding(images)
        batch, width = seen.shape[:2]
        patches = nn.reshape(seen, (batch, width, -1)).permute(0, 2, 1)
        whole = nn.reshape(self.class_embedding, (1, 1, width))
        tokens = nn.cat([nn.cat([whole] * batch, 0), patches], 1)
        return nn.add(tokens, self.position_embedding.weight)
