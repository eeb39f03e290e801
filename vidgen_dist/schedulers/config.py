"""A `scheduler_config.json`, every key checked before a render."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vidgen_dist.errors import ConfigError

logger = logging.getLogger(__name__)


def known_values(name: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the keys that a scheduler knows.

    Args:
        name: The scheduler's class, for messages.
        config: The file's content; keys that begin with "_" are not looked at, unknown ones named in a
            warning.
        defaults: Every known key, and what stands for it where it is missing.
    """
    for key in config:
        if key not in defaults and not key.startswith("_"):
            logger.warning("config of %s: %s is not known and not used", name, key)
    return {key: config.get(key, default) for key, default in defaults.items()}


def require(name: str, values: Mapping[str, Any], key: str, right: bool, allowed: str) -> None:
    """Refuse a value that is not right.

    Raises:
        ConfigError: Names the scheduler, the key, its value and what is allowed.
    """
    if not right:
        raise ConfigError(f"{name}'s config: {key} {_shown(values[key])} is not allowed; {allowed}")


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number from `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
