"""Which settings of two runs differ, in a form for others: local places by their last names alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vidgen_dist.maintenance.report.cards import shown_lora
from vidgen_dist.maintenance.report.pairs import Difference
from vidgen_dist.provenance import shown_model
from vidgen_dist.spec import RunSpec
from vidgen_dist.spec.option import declared_options

_PLACES = {"manifest.uri", "output.uri", "topology.address", "model.prompt_cache"}
"""Where things are is not how videos are made, and is nobody's business."""

_MOST = 200


def differing_settings(a: RunSpec, b: RunSpec) -> list[Difference]:
    """The settings that differ, in the order of the run file; each key of a mapping for itself."""
    one, other = (dict(_settings(spec)) for spec in (a, b))
    found = []
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            shown = [_shown(key, settings) for settings in (one, other)]
            if shown[0] == shown[1]:
                shown[1] += " (another one)"
            found.append(Difference(key, *shown))
    return found


def _settings(spec: RunSpec) -> Iterator[tuple[str, Any]]:
    values = spec.model_dump(mode="json")
    for option in declared_options(RunSpec):
        value: Any = values
        for part in option.key.split("."):
            value = value[part]
        if option.key in _PLACES:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{option.key}.{name}", each) for name, each in value.items())
        else:
            yield option.key, value


def _shown(key: str, settings: Mapping[str, Any]) -> str:
    value = settings.get(key)
    if value is None:
        return "–"
    if key == "model.loras":
        return ", ".join(map(shown_lora, value)) or "–"
    if key in ("model.id", "model.adapter"):
        revision = settings.get("model.revision" if key == "model.id" else "model.adapter_revision")
        return shown_model(value, revision)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or "–"
    text = str(value)
    # An image or a clip.
    if text.startswith(("/", "./", "../", "~")) or "://" in text:
        text = shown_model(text, None)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
