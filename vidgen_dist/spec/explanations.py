"""Say what is wrong with a spec: place, key, value, what is allowed and which known key is the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from vidgen_dist.errors import Refused, shortened
from vidgen_dist.spec.option import Part, plain_types
from vidgen_dist.spec.values import WHOLE_PART

# What pydantic calls by the names of Python's types.
_MESSAGES = {
    "tuple_type": "it should be a list, such as [a, b]",
    "dict_type": "it should be a mapping of keys to values",
    "model_type": "it should be a mapping of keys to values",
}


def refused(
    error: ValidationError,
    part: type[Part],
    name: str,
    lines: Mapping[tuple, int] | None = None,
    under: tuple = (),
) -> Refused:
    """All of pydantic's errors about a part, one a line.

    Args:
        error: What pydantic raised.
        part: The part that was checked.
        name: What messages call the place that the data comes from.
        lines: Path of keys -> line in that place.
        under: The part's own path in a spec.
    """
    explained = (_explain(detail, part, name, lines or {}, under) for detail in error.errors())
    return Refused("\n".join(dict.fromkeys(explained)))


def dotted(path: tuple) -> str:
    """A path of keys as messages have it: `topology.watchdog.denoise`."""
    return ".".join(str(step) for step in path)


def _explain(detail: Any, part: type[Part], name: str, lines: Mapping[tuple, int], under: tuple) -> str:
    """One of pydantic's errors as a person wants it: place, key, value, what is allowed."""
    path = (*under, *detail["loc"])
    # A union adds the name of its member to the path, which is not a key of the file.
    at = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = f"{name}, line {at}" if at is not None else name
    kind = detail["type"]
    if kind == "extra_forbidden":
        fields = _fields_at(part, detail["loc"][:-1])
        near = _nearest(part, detail["loc"], fields)
        hint = f"did you mean {dotted((*under, *near))}? " if near else ""
        return f"{place}: {dotted(path)}: unknown key; {hint}allowed: {', '.join(fields)}"
    if kind == "missing":
        return f"{place}: {dotted(path)} is missing"
    if kind == WHOLE_PART:
        return f"{place}: {dotted(path)}.{detail['msg']}"
    shown = shortened(repr(detail["input"]), 100)
    message = _MESSAGES.get(kind) or detail["msg"][:1].lower() + detail["msg"][1:]
    return f"{place}: {dotted(path)}: {shown} is not allowed; {message}"


def _nearest(part: type[Part], path: tuple, siblings: list[str]) -> tuple | None:
    """Path of the known key that is nearest to an unknown one: a key beside it, or the same key elsewhere."""
    unknown = str(path[-1])
    near = difflib.get_close_matches(unknown, siblings, 1)
    if near:
        return (*path[:-1], near[0])
    return next((known for known in _paths(part) if known[-1] == unknown), None)


def _paths(part: type[Part], under: tuple = ()) -> Iterator[tuple]:
    for name, field in part.model_fields.items():
        yield (*under, name)
        if (inner := _part_of(field.annotation)) is not None:
            yield from _paths(inner, (*under, name))


def _fields_at(part: type[Part], path: tuple) -> list[str]:
    """The known keys at a path."""
    found: type[Part] | None = part
    for step in path:
        if isinstance(step, int):
            continue
        field = found.model_fields.get(step) if found is not None else None
        found = _part_of(field.annotation) if field else None
    return list(found.model_fields) if found is not None else []


def _part_of(annotation: Any) -> type[Part] | None:
    """The part that a field holds, alone or in a list."""
    inner = get_args(annotation) if get_origin(annotation) is tuple else (annotation,)
    kinds = set[type]().union(*(plain_types(each) for each in inner if each is not Ellipsis))
    return next((kind for kind in kinds if issubclass(kind, Part)), None)
