"""Fingerprints: what decides the pixels of a row, as one digest; and seeds of rows that bring none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.digests import JsonTemplate, as_list, json_template
from vidgen_dist.request import MEDIA_FIELDS, RenderRequest

_NOT_PIXELS = ("id", *MEDIA_FIELDS)
_LATER = frozenset(
    {"guidance_rescale", "true_cfg_scale", "frame_rate", "decode_timestep", "decode_noise_scale"}
)
"""Fields that requests were given after the first ledgers were written. A digest leaves them out where they
are empty: rows that do not use them keep the fingerprints under which ledgers know them."""


@dataclass(frozen=True)
class Identity:
    """What decides the pixels of every row of a run alike.

    Args:
        model: Digest of the checkpoint.
        task: The task.
        dtype: What the models compute in.
        format: Format of the files.
        crf: Quality of mp4; other formats do not know it.
        options: Options of the model that decide pixels and are set (`Model.pixel_options`). They count also
            where they change nothing of a row. One that is not set is left out: rows of runs that do not use
            it keep the fingerprints of before there was a choice.
    """

    model: str
    task: str
    dtype: str
    format: str
    crf: int | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self, request: RenderRequest, media: Mapping[str, str]) -> str:
        """The digest of all that decides a row's pixels.

        Args:
            request: The row with every default filled in, its seed too. Its id is no part of the digest.
            media: Field -> digest of the content of the row's image or clip.

        Returns:
            SHA-256, as hex.
        """
        return hashlib.sha256(self._text(request, media).encode()).hexdigest()

    def template(self, request: RenderRequest) -> JsonTemplate:
        """For the fingerprints of requests that differ from this one, without media, in prompt and seed."""
        return json_template(self._text(request, {}), request.prompt, request.seed, ": ")

    def _text(self, request: RenderRequest, media: Mapping[str, str]) -> str:
        fields = {f.name: getattr(request, f.name) for f in dataclasses.fields(request)}
        decides = {
            name: value
            for name, value in fields.items()
            if name not in _NOT_PIXELS and (value is not None or name not in _LATER)
        }
        run = dataclasses.asdict(self)
        run.update(run.pop("options"))
        whole = {"run": run, "row": decides, "media": dict(media)}
        # repr of a float in JSON is exact, and sorted keys make the text one for one meaning.
        return json.dumps(whole, sort_keys=True, ensure_ascii=True, allow_nan=False)


def row_seed(run_seed: int, row_id: str) -> int:
    """The seed of a row that brings none: 0 to 2**63 - 1, the same wherever and whenever it is asked."""
    return row_seeds(run_seed, [row_id])[0]


def row_seeds(run_seed: int, row_ids: Iterable[str]) -> list[int]:
    """`row_seed` of many rows."""
    copy = hashlib.sha256(f"{run_seed}/".encode()).copy
    digests = []
    for row_id in row_ids:
        digest = copy()
        digest.update(row_id.encode("utf-8", "surrogatepass"))
        digests.append(digest.digest())
    first = np.frombuffer(b"".join(digests), ">u8")[::4]
    seeds: list[int] = (first >> np.uint64(1)).tolist()
    return seeds


def fingerprints_of(
    template: JsonTemplate,
    prompts: pa.Array,
    seeds: pa.Array | int | None,
    ids: pa.Array | None,
    run_seed: int,
) -> pa.Array:
    """Fingerprints of rows that differ in id, prompt and seed alone: strings (N,).

    Args:
        template: Made by `Identity.template` of one of them.
        prompts: Theirs (N,).
        seeds: Theirs (N,), or the one that they share; None for those that `row_seed` gives.
        ids: Theirs (N,), if seeds are None.
        run_seed: See `row_seed`.
    """
    each: list[int]
    if seeds is None:
        each = row_seeds(run_seed, as_list(ids))
    else:
        each = [seeds] * len(prompts) if isinstance(seeds, int) else as_list(seeds)
    return pa.array(template.digests(hashlib.sha256, as_list(prompts), each), pa.string())
