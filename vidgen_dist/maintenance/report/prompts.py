"""Prompts of some rows, from a manifest of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.manifest import Manifest


def find_prompts(manifest: Manifest, ids: Sequence[str], default: str | None) -> dict[str, str]:
    """Id -> prompt, for the ids that are in the manifest and have one.

    Args:
        manifest: The manifest; it is read from its start until all ids are found.
        ids: The ids.
        default: The prompt of rows without one.

    Raises:
        OSError: The manifest cannot be read, or has changed.
    """
    found: dict[str, str] = {}
    missing = set(ids)
    wanted = np.sort(text_hashes(pa.array(list(ids), pa.string()))[:, 0])
    for batch in manifest.batches(extras=False):
        if not missing:
            break
        hashes = text_hashes(batch.ids)[:, 0]
        places = np.flatnonzero(np.isin(hashes, wanted))
        names = batch.ids.take(pa.array(places)).to_pylist()
        has_prompts = "prompt" in batch.fields
        prompts = batch.values_at("prompt", places).to_pylist() if has_prompts else [None] * len(places)
        for name, prompt in zip(names, prompts, strict=True):
            text = default if prompt is None else prompt
            if name in missing and isinstance(text, str):
                found[name] = text
            missing.discard(name)
    return found
