"""Fields of rows that some families take, each declared once."""

from __future__ import annotations

from vidgen_dist.kinds import Whole
from vidgen_dist.request import Field

CLIP_SKIP = Field(Whole(0, 1000), "number of layers at the end of CLIP's text encoder that are skipped")

DECODE_CHUNK_SIZE = Field(
    Whole(),
    "number of frames that the autoencoder decodes at a time; changes pixels with Stable Video Diffusion, "
    "and only memory with the others",
)
