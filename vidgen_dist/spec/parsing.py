"""Read a run.yaml. Nothing here opens a file: `parse_spec` takes a text and the name to call it by."""

from __future__ import annotations

import io
from collections.abc import Iterator

import yaml

from vidgen_dist import yaml_core
from vidgen_dist.errors import Refused
from vidgen_dist.spec.explanations import dotted
from vidgen_dist.spec.run import RunSpec, make_spec


def parse_spec(text: str | bytes, name: str) -> RunSpec:
    """Read a spec from YAML.

    Args:
        text: The content of a run.yaml, UTF-8 where it is bytes.
        name: What errors call it: the file's path or URI.

    Raises:
        Refused: Names the file, the line and the key, and says what is allowed.
    """
    try:
        stream = io.StringIO(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
        node = yaml.compose(stream, yaml_core.Loader)
        lines = dict(_lines(node, name)) if node else {}
        stream.seek(0)
        data = yaml.load(stream, yaml_core.Loader)
    except UnicodeDecodeError as error:
        raise Refused(
            f"{name}: not a run file, which `vidgen init` makes: no YAML text in UTF-8 "
            f"({error.reason} at byte {error.start})"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Refused(f"{name}, line {line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refused(f"{name}: not YAML: {error}") from None
    if not isinstance(data, dict):
        allowed = ", ".join(RunSpec.model_fields)
        raise Refused(f"{name}: a run spec is a mapping with the keys {allowed}; see `vidgen render --help`")
    return make_spec(data, name, lines)


def _lines(node: yaml.Node, name: str, path: tuple = ()) -> Iterator[tuple[tuple, int]]:
    """Path of keys -> line, for every key of a YAML document; a key given twice is refused."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, name, (*path, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise Refused(f"{name}, line {line}: a key must be a text; put a value with braces in quotes")
        if key.value in seen:
            raise Refused(f"{name}, line {line}: {dotted((*path, key.value))} is given twice")
        seen.add(key.value)
        inner = dict(_lines(value, name, (*path, key.value)))
        yield from {**inner, (*path, key.value): line}.items()
