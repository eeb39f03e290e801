"""Fingerprints: what decides the pixels of a row, as one digest; and seeds of rows that bring none."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import JsonTemplate, as_list, json_template
from vidgen_dist.engine import OpenedModel
from vidgen_dist.request import FIELDS, Field, ResolvedRequest
from vidgen_dist.spec import RunSpec


@dataclass(frozen=True)
class Counting:
    """Which fields of a row decide its pixels.

    Args:
        fields: The declarations of all that it may have.
        late: Defaults of fields that the model takes only since there are ledgers of it. Where a row has such
            a default its digest leaves the field out, as digests of the time before did.
        left_out: Fields that the model's pixels do not depend on.
    """

    fields: Mapping[str, Field] = dataclasses.field(default_factory=lambda: FIELDS)
    late: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What counts of a row's values, beside the content of its images and clips.

        Raises:
            KeyError: A name that is not declared.
        """
        counted = dict.fromkeys(self._always)
        for name, value in values.items():
            field = self.fields[name]
            if not field.counts or name in self.left_out:
                continue
            if field.kind.has_sources:
                value = field.kind.replace(value, dict.fromkeys(field.kind.sources(value)))
            if field.base or (value is not None and value != self.late.get(name)):
                counted[name] = value
        return counted

    @functools.cached_property
    def _always(self) -> tuple[str, ...]:
        return tuple(name for name, field in self.fields.items() if field.base)


@dataclass(frozen=True)
class Identity:
    """What decides the pixels of every row of a run alike.

    Args:
        model: Digest of the checkpoint.
        task: The task.
        dtype: What the models compute in.
        format: Format of the files.
        crf: Quality of mp4; other formats do not know it.
        options: The model's options that decide pixels and are set (`ModelOptions.pixel_options`). They count
            also where they change nothing of a row. An option that is not set is left out: rows of runs that
            do not use it keep the fingerprints that they had before the option existed.
        counting: Which fields of a row decide its pixels beside.
    """

    model: str
    task: str
    dtype: str
    format: str
    crf: int | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counting: Counting = dataclasses.field(default=Counting(), hash=False)

    def fingerprint(self, request: ResolvedRequest, media: Mapping[str, str]) -> str:
        """The digest of all that decides a row's pixels.

        Args:
            request: The row with every default filled in, its seed too. Its id is no part of the digest.
            media: Name, as `sources_of` has it -> digest of the content of that image or clip of the row.

        Returns:
            SHA-256, as hex.
        """
        return hashlib.sha256(self._text(request, media).encode()).hexdigest()

    def template(self, request: ResolvedRequest) -> JsonTemplate:
        """For the fingerprints of requests that differ from this one, without media, in prompt and seed."""
        values = request.values()
        return json_template(self._text(request, {}), values.get("prompt"), values.get("seed"), ": ")

    def _text(self, request: ResolvedRequest, media: Mapping[str, str]) -> str:
        decides = self.counting.of(request.values())
        run = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "counting"}
        run.update(run.pop("options"))
        whole = {"run": run, "row": decides, "media": dict(media)}
        # repr of a float in JSON is exact, and sorted keys make the text one for one meaning.
        return json.dumps(whole, sort_keys=True, ensure_ascii=True, allow_nan=False)


def identity_of(model: OpenedModel, spec: RunSpec) -> Identity:
    """What decides the pixels of every row of a run alike.

    Args:
        model: What is known of its model.
        spec: What it is.
    """
    return Identity(
        model=model.whole_digest,
        task=model.rules.task,
        dtype=model.dtype,
        format=spec.output.format,
        crf=spec.output.crf if spec.output.format == "mp4" else None,
        options=spec.model.pixel_options(),
        counting=Counting(model.rules.declared, model.rules.of_task.late, model.rules.of_task.memory_only),
    )


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
    count: int,
    prompts: pa.Array | None,
    seeds: pa.Array | int | None,
    ids: pa.Array | None,
    run_seed: int,
) -> pa.Array:
    """Fingerprints of rows that differ in id, prompt and seed alone: strings (N,).

    Args:
        template: Made by `Identity.template` of one of them.
        count: Their number, N.
        prompts: Theirs (N,); None if they have none.
        seeds: Theirs (N,), or the one that they share; None for those that `row_seed` gives.
        ids: Theirs (N,), if seeds are None.
        run_seed: See `row_seed`.
    """
    each: list[int]
    if seeds is None:
        each = row_seeds(run_seed, as_list(ids))
    else:
        each = [seeds] * count if isinstance(seeds, int) else as_list(seeds)
    texts = None if prompts is None else as_list(prompts)
    return pa.array(template.digests(hashlib.sha256, count, texts, each), pa.string())
