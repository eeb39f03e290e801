"""What keys the references' classes take in their configs: diffusers 0.35.2, transformers 4.57 and 5.

`reference_keys.json` beside this file holds them; `tests/references/make_config_keys.py` makes it.
"""

from __future__ import annotations

import collections
import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ReferenceKeys:
    """What a class takes.

    Args:
        defaults: Key -> its default in each release of the reference that takes it.
        aliases: Key -> the key that it is another name of.
        model_type: What transformers calls the model in configs; empty for classes of diffusers.
        part: The key of configs of several models under which this one's is; empty for none.
    """

    defaults: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    model_type: str = ""
    part: str = ""


_BASES = ("PreTrainedConfig", "GenerationConfig")
"""What configs of all models of transformers take beside their own keys."""


@functools.cache
def reference_keys(class_name: str) -> ReferenceKeys:
    """What a class of the references takes; nothing for a class that they do not have.

    Args:
        class_name: A model, scheduler or image processor; or `model_index.json`, for what is no component.
    """
    defaults: dict[str, tuple[Any, ...]] = {}
    aliases: dict[str, str] = {}
    model_type = part = ""
    for classes in _data().values():
        entry = classes.get(class_name, {})
        aliases |= entry.get("aliases", {})
        model_type, part = entry.get("model_type", model_type), entry.get("part", part)
        bases = [classes[name]["keys"] for name in _BASES] if "model_type" in entry else []
        keys = dict(collections.ChainMap(entry.get("keys", {}), *bases))
        for key, default in keys.items():
            defaults[key] = (*defaults.get(key, ()), default)
    return ReferenceKeys(defaults, aliases, model_type, part)


@functools.cache
def _data() -> Mapping[str, Mapping[str, Any]]:
    file = importlib.resources.files("vidgen_dist") / "reference_keys.json"
    data: Mapping[str, Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return data
