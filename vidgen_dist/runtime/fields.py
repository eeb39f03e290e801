"""Which fields rows may have: of all models, and of one."""

from __future__ import annotations

from collections.abc import Mapping

from vidgen_dist.families.rules import Rules
from vidgen_dist.request import FIELDS, Field


def known_fields() -> Mapping[str, Field]:
    """The fields of all families, by name: where no model is known."""
    return FIELDS


def fields_of(_rules: Rules) -> Mapping[str, Field]:
    """The fields that rows of a model's manifest may have: the common ones and its family's."""
    return FIELDS


def ignored_fields(rules: Rules) -> tuple[str, ...]:
    """Those of them that the model does not take, and ignores where a manifest has them."""
    return tuple(
        name for name, field in fields_of(rules).items() if field.may_be_ignored and name not in rules.fields
    )


def required_columns(rules: Rules | None) -> tuple[str, ...]:
    """Those that every manifest needs; where no model is known, as most models have it."""
    needed = ("prompt",)
    return needed if rules is None else tuple(name for name in needed if name in rules.fields)
