"""`KEY=VALUE` texts of a command line: dotted keys of a run spec, and fields of its mappings.

Values are read as YAML. Where only a text is allowed, what YAML takes for a number or a boolean stays a text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vidgen_dist.errors import Refused, shortened
from vidgen_dist.spec import COMMAND_LINE, RunSpec
from vidgen_dist.spec.option import declared_options, plain_types
from vidgen_dist.yaml_core import read_value

if TYPE_CHECKING:
    from vidgen_dist.request import Field

SAMPLING = "sampling"
"""The key of the spec's mapping of fields of rows."""

KEY_VALUE = "KEY=VALUE"
"""What help calls the value of a flag that takes an assignment."""

_EXAMPLES = {
    "--option": "topology.replicas=16",
    "--set": "num_frames=49",
    "--grid": "guidance_scale=4,6,8",
}


def read_pair(flag: str, text: str) -> tuple[str, str]:
    """Key and value of a `KEY=VALUE`.

    Args:
        flag: The flag that has it.
        text: What follows it.

    Raises:
        Refused: The text is not `KEY=VALUE`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        such = f", such as {flag} {_EXAMPLES[flag]}" if flag in _EXAMPLES else ""
        raise Refused(f"{COMMAND_LINE}: {flag} {shortened(text, 100)}: is not KEY=VALUE{such}")
    return key.strip(), value


def read_options(texts: Iterable[str], flag: str = "--option") -> dict[str, Any]:
    """Dotted keys of a spec -> values.

    Args:
        texts: What follows each `--option`.
        flag: What messages call the flag.

    Raises:
        Refused: A text is not `KEY=VALUE`.
    """
    pairs = (read_pair(flag, text) for text in texts)
    return {key: _read(key, value) for key, value in pairs}


def read_mapping(key: str, texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Dotted keys of a spec -> values, for the keys of one of its mappings.

    Args:
        key: The mapping's own key, such as `sampling`.
        texts: What follows each of its flags: `num_frames=49`.
        flag: The flag, `--set`.

    Raises:
        Refused: A text is not `KEY=VALUE`, or names a key of the spec instead of a field.
    """
    settings = {}
    for name, value in (read_pair(flag, text) for text in texts):
        if key == SAMPLING and is_key_of_spec(name):
            raise Refused(
                f"{COMMAND_LINE}: {flag} {name}: not a field of rows; give a key of the run spec with "
                f"--option {name}={shortened(value, 100)}"
            )
        settings[f"{key}.{name}"] = _read(f"{key}.{name}", value)
    return settings


def read_lists(texts: Iterable[str], flag: str) -> dict[str, list[Any]]:
    """Fields of rows, or other names -> several values for each: `guidance_scale=4,6`, or a YAML list.

    Args:
        texts: What follows each of its flags.
        flag: The flag.

    Raises:
        Refused: A text is not `KEY=VALUE`, or gives a name twice.
    """
    lists: dict[str, list[Any]] = {}
    for name, text in (read_pair(flag, text) for text in texts):
        if name in lists:
            raise Refused(f"{COMMAND_LINE}: {flag} {name} is given twice")
        if text.lstrip().startswith("["):
            value = read_value(text)
            lists[name] = value if isinstance(value, list) else [value]
        else:
            texts_of_name = [each.strip() for each in text.split(",")]
            of_field = _field(name) is not None
            lists[name] = [_read(f"{SAMPLING}.{name}", t) if of_field else t for t in texts_of_name]
    return lists


def is_key_of_spec(name: str) -> bool:
    """Whether a name is a key of a spec, or meant as one, such as `topology.replica`; no field of rows is."""
    # `seed` is both: the run's, and every row's.
    return name.partition(".")[0] in RunSpec.model_fields and name != "seed"


def _read(key: str, text: str) -> Any:
    section, _, name = key.partition(".")
    if section == SAMPLING and name and _is_text_field(name):
        return text
    value = read_value(text)
    # The revision 12345e67 is not a number.
    return value if value is None or key not in _TEXTS or isinstance(value, str) else text


_TEXTS = frozenset(
    known.key
    for known in declared_options(RunSpec)
    if plain_types(known.field.annotation) <= {str, type(None)}
)
"""The keys whose values are texts."""


def _is_text_field(name: str) -> bool:
    """Whether that is a field of rows whose values are texts."""
    field = _field(name)
    return field is not None and field.kind.is_text


def _field(name: str) -> Field | None:
    from vidgen_dist.families import fields_named

    return fields_named([name]).get(name)
