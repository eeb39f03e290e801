"""Fingerprints: one digest of all that decides a row's pixels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vidgen_dist.bulk_digests import JsonTemplate, as_list, json_template
from vidgen_dist.engine import OpenedModel
from vidgen_dist.manifest import row_seeds
from vidgen_dist.request import FIELDS, Field, ResolvedRequest
from vidgen_dist.spec import RunSpec


@dataclass(frozen=True)
class PixelFields:
    """Which fields of a row decide its pixels.

    Args:
        fields: The declarations of all fields that a row may have.
        late: Defaults of fields that the model has taken only since there were ledgers of it. If a row has
            such a default, its digest omits the field, as digests of the time before did.
        ignored: Fields that the model's pixels do not depend on.
        loras: Digests of the LoRAs that rows name: they count by content.
    """

    fields: Mapping[str, Field] = dataclasses.field(default_factory=lambda: FIELDS)
    late: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    loras: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def select(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row that decide its pixels, without the content of its images and clips.

        Raises:
            KeyError: A name is not declared.
        """
        selected = dict.fromkeys(self._always)
        for name, value in values.items():
            field = self.fields[name]
            if not field.counts or name in self.ignored:
                continue
            if field.kind.has_sources:
                value = field.kind.replace(value, dict.fromkeys(field.kind.sources(value)))
            if field.base or (value is not None and value != self.late.get(name)):
                selected[name] = value
        if (places := selected.get("lora")) is not None:
            scales: Iterable[float] = selected.pop("lora_scale", None) or (1.0,) * len(places)
            selected["lora"] = [
                [self.loras.get(place, place), scale] for place, scale in zip(places, scales, strict=True)
            ]
        return selected

    @functools.cached_property
    def _always(self) -> tuple[str, ...]:
        return tuple(name for name, field in self.fields.items() if field.base)


@dataclass(frozen=True)
class Identity:
    """What decides the pixels of every row of a run alike.

    Args:
        model: Digest of the checkpoint.
        task: The task.
        dtype: The models' compute dtype.
        format: Format of the files.
        crf: Quality of mp4; None for other formats.
        options: The model's options that decide pixels and are set (`ModelOptions.pixel_options`), the
            scheduler's settings that a sampling contract gives, and the digests and scales of its LoRAs. They
            count even where they change nothing in a row. An option
            that is not set is omitted: rows of runs that do not use it keep the fingerprints that they had
            before the option existed.
        pixel_fields: Which fields of a row decide its pixels, too.
    """

    model: str
    task: str
    dtype: str
    format: str
    crf: int | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pixel_fields: PixelFields = dataclasses.field(default=PixelFields(), hash=False)

    def fingerprint(self, request: ResolvedRequest, media: Mapping[str, str]) -> str:
        """The digest of all that decides a row's pixels.

        Args:
            request: The row with every default and its seed filled in. Its id does not count.
            media: Name, as in `sources_of` -> digest of the content of that image or clip of the row.

        Returns:
            SHA-256, as hex.
        """
        return hashlib.sha256(self._text(request, media).encode()).hexdigest()

    def template(self, request: ResolvedRequest) -> JsonTemplate:
        """A template for requests without media that differ from this one in prompt and seed."""
        values = request.values()
        return json_template(self._text(request, {}), values.get("prompt"), values.get("seed"), ": ")

    def _text(self, request: ResolvedRequest, media: Mapping[str, str]) -> str:
        decides = self.pixel_fields.select(request.values())
        run = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "pixel_fields"}
        run.update(run.pop("options"))
        whole = {"run": run, "row": decides, "media": dict(media)}
        # JSON's repr of a float is exact, and with sorted keys equal values give equal texts.
        return json.dumps(whole, sort_keys=True, ensure_ascii=True, allow_nan=False)


def identity_of(model: OpenedModel, spec: RunSpec, row_loras: Mapping[str, str]) -> Identity:
    """What decides the pixels of every row of a run alike.

    Args:
        model: The run's model.
        spec: The run.
        row_loras: Digests of the LoRAs that rows name.
    """
    return Identity(
        model=model.whole_digest,
        task=model.rules.task,
        dtype=model.dtype,
        format=spec.output.format,
        crf=spec.output.crf if spec.output.format == "mp4" else None,
        options={
            **spec.model.pixel_options(),
            **({"scheduler": dict(model.scheduler)} if model.scheduler else {}),
            **({"loras": [[lora.digest, lora.scale] for lora in model.loras]} if model.loras else {}),
        },
        pixel_fields=PixelFields(
            model.rules.declared, model.rules.of_task.late, model.rules.of_task.memory_only, row_loras
        ),
    )


def fingerprints_of(
    template: JsonTemplate,
    count: int,
    prompts: pa.Array | None,
    seeds: pa.Array | int | None,
    ids: pa.Array | None,
    run_seed: int,
) -> pa.Array:
    """Fingerprints of rows that differ only in id, prompt and seed: strings (N,).

    Args:
        template: `Identity.template` of one of the rows.
        count: The number of rows, N.
        prompts: The rows' prompts (N,); None if they have none.
        seeds: The rows' seeds (N,), or one that they share; None if `row_seed` gives them.
        ids: The rows' ids (N,), if `seeds` is None.
        run_seed: See `row_seed`.
    """
    seed_list: list[int]
    if seeds is None:
        seed_list = row_seeds(run_seed, as_list(ids))
    else:
        seed_list = [seeds] * count if isinstance(seeds, int) else as_list(seeds)
    texts = None if prompts is None else as_list(prompts)
    return pa.array(template.digests(hashlib.sha256, count, texts, seed_list), pa.string())
