"""A small picture."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.media.clips import smooth


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(smooth(1, 40, 60)[0])
