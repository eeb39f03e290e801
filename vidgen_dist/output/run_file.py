"""`run.yaml`: the spec of a run, given by a user or stored in an output."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.ledger import part_names
from vidgen_dist.output.status_file import read_status_file
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.spec import RunSpec, parse_spec
from vidgen_dist.storage.clients import WEB, is_same_place
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.uris import absolute, redact, scheme_of, split


def load_spec(uri: str) -> RunSpec:
    """Read a run.yaml from a path or URI.

    Raises:
        Refused: It is not there, or wrong: names the file, the line and the key.
    """
    try:
        text = read_bytes(uri)
    except OSError as error:
        raise Refused(str(error)) from None
    return parse_spec(text, redact(uri))


def load_run(uri: str, options: Mapping[str, Any]) -> RunSpec:
    """Read the run.yaml of a run to be rendered.

    The run.yaml in an output names the output's place. If the output was moved or copied, that is the old
    place, where the run would render all rows again, or go on with the output that is still there. The user
    must say which place is meant.

    Args:
        uri: Its path or URI.
        options: Dotted keys of the spec that override the file.

    Raises:
        Refused: See `load_spec`; or the file is in an output and names another one, and no option names one.
    """
    spec = load_spec(uri)
    section = options.get("output")
    if "output.uri" not in options and not (isinstance(section, Mapping) and "uri" in section):
        _check_not_moved(uri, spec.output.uri)
    return spec.override(options)


def _check_not_moved(uri: str, output: str) -> None:
    folder, name = split(uri)
    # Nothing can be rendered to the web: such a folder only shows an output that is stored elsewhere.
    if name != RUN_FILE or scheme_of(folder) in WEB:
        return
    if _is_output(folder) and not _is_same_place(folder, output):
        here, there = redact(folder), redact(absolute(output))
        raise Refused(
            f"{redact(uri)}: is in an output, but its output.uri is another place, {there}: was the output "
            "moved or copied? Give the output to render to after the run file, or as --option "
            f"output.uri=OUTPUT: {here} to go on with this one, or {there} for the other"
        )


def _is_output(uri: str) -> bool:
    """Whether runs have rendered to a folder; False if it is none, or its content cannot be read."""
    with suppress(OSError, Refused):
        return _has_rendered(open_storage(uri))
    return False


def _has_rendered(output: Storage) -> bool:
    """Whether runs have rendered to an output."""
    return read_status_file(output) is not None or bool(part_names(output))


def _is_same_place(folder: str, output: str) -> bool:
    """Whether a folder is the output; False if the output cannot be opened from here, as the folder can."""
    with suppress(Refused):
        return is_same_place(folder, output)
    return False


def read_run_file(output: Storage) -> RunSpec | None:
    """The spec of an output's run; None if it has no `run.yaml`.

    Raises:
        Refused: The file is wrong; or no run has written it: a user's own file of that name is not replaced.
        OSError: The storage failed.
    """
    if not output.exists(RUN_FILE):
        return None
    spec = load_spec(output.uri(RUN_FILE))
    # A run that has not got further than its run.yaml has written down which model it is of.
    recorded = spec.model.digest is not None or spec.model.revision is not None
    if not recorded and not _has_rendered(output):
        raise Refused(
            f"{redact(output.root)}: is not the output of a run: no run has written the {RUN_FILE} in it; "
            "give another folder"
        )
    return spec


def write_run_file(output: Storage, spec: RunSpec) -> bytes:
    """Write `run.yaml`, which also shows that the output can be written to.

    Args:
        output: The run's output.
        spec: The run, as `Plan.recorded` has it.

    Returns:
        The file's content.

    Raises:
        Refused: The output cannot be written to.
    """
    output.check_writable()
    content = spec.to_yaml().encode()
    try:
        output.write_bytes(RUN_FILE, content)
    except OSError as error:
        raise Refused(f"{redact(output.root)} cannot be used for output: {error}") from None
    return content
