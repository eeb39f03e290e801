"""The sampling defaults of a run: what is allowed under `sampling`, and what rows get from there."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.families import fields_named, known_fields
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.inline import is_inline
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.request import FPS, Field, RequestError, sources_of, with_sources
from vidgen_dist.spec import RunSpec


def check_sampling(spec: RunSpec) -> None:
    """Refuse a sampling default that is not a field of rows, or has a value that is not allowed."""
    fields = fields_named(spec.sampling)
    for name, value in spec.sampling.items():
        field = fields.get(name)
        # Whether `fps` is allowed, the model's rules know.
        if field is None or (field.not_sampling and name != FPS):
            raise Refused(_describe_not_sampling(name, field))
        try:
            if value is not None:
                field.parse(name, value)
        except RequestError as error:
            raise Refused(f"sampling.{error}") from None
    for name, text in sampling_media(spec).items():
        if is_inline(text):
            raise Refused(
                f"sampling.{name}: {text[:30]!r}… ({len(text):,} characters) would go into {RUN_FILE}; "
                "save it as a file and give its path, or write it into the manifest's rows"
            )


def _describe_not_sampling(name: str, field: Field | None) -> str:
    allowed = [known for known, other in known_fields().items() if not other.not_sampling]
    if field is not None:
        return f"sampling.{name}: {field.not_sampling}; allowed under sampling: {', '.join(allowed)}"
    near = difflib.get_close_matches(name, allowed, 1)
    hint = f"did you mean sampling.{near[0]}? " if near else ""
    return f"sampling.{name}: unknown field; {hint}allowed: {', '.join(allowed)}"


def sampling_defaults(spec: RunSpec, rules: Rules[Any] | None) -> dict[str, Any]:
    """Values for the fields that a row leaves out.

    Args:
        spec: What the run is.
        rules: What the model takes, where it is known.
    """
    given = {name: value for name, value in spec.sampling.items() if value is not None}
    if spec.output.fps is None:
        return given
    return {**given, FPS if rules is None else rules.of_task.file_fps: spec.output.fps}


def sampling_media(spec: RunSpec) -> dict[str, str]:
    """Paths and URIs of the images and clips under `sampling`, by name."""
    sources = sources_of(spec.sampling, fields_named(spec.sampling))
    return {name: source.value for name, source in sources.items() if isinstance(source.value, str)}


def change_sampling_media(spec: RunSpec, change: Callable[[str], str]) -> dict[str, Any]:
    """Keys under `sampling` that have paths or URIs, with changed values, for `RunSpec.override`."""
    changed = {name: change(uri) for name, uri in sampling_media(spec).items()}
    fields = with_sources(spec.sampling, changed, fields_named(spec.sampling))
    return {f"sampling.{name}": value for name, value in fields.items()}
