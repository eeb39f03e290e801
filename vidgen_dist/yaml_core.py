"""YAML with the numbers of YAML 1.2's core schema, which is how people write numbers.

PyYAML reads numbers as in YAML 1.1, where `1e3` is a text, `0123` is 83 and `1:30` is 90.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import yaml

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# Section 10.3.2 of YAML 1.2.2.
_NUMBERS = (
    (_INT, re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z"), "-+0123456789"),
    (
        _FLOAT,
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z"
            r"|[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z"
        ),
        "-+.0123456789",
    ),
)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except for numbers."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        first: [(tag, pattern) for tag, pattern in known if tag not in (_INT, _FLOAT)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version would take for numbers, such as the revision `12345e67`."""


for _tag, _pattern, _first in _NUMBERS:
    Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))


def _whole_number(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


Loader.add_constructor(_INT, _whole_number)


def read_value(text: str) -> Any:
    """A value from a command line; a text that is not YAML is that text."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def write(data: Any) -> str:
    """YAML that any reader reads back, with the keys in the order of the mappings."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def in_line(value: Any) -> str:
    """A value as YAML in one line, as it stands behind a key."""
    text = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.strip()[1:-1]
