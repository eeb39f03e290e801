"""Fields of rows that several families take and the others do not, each declared once."""

from __future__ import annotations

from vidgen_dist.kinds import Whole
from vidgen_dist.request import Field

CLIP_SKIP = Field(
    Whole(0, 1000), "layers at the end of CLIP's text encoder that the prompt does not go through"
)

DECODE_CHUNK_SIZE = Field(
    Whole(),
    "frames that the autoencoder decodes at a time; with Stable Video Diffusion it changes the pixels, with "
    "others memory alone",
)
