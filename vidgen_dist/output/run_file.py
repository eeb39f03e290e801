"""`run.yaml`: the spec of a run, as a user gives it, and as the output keeps it."""

from __future__ import annotations

from vidgen_dist.errors import Refused
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.spec import RunSpec, parse_spec
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact


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


def read_run_file(output: Storage) -> RunSpec | None:
    """The run that an output is of; None if it has no `run.yaml`.

    Raises:
        Refused: The file is wrong.
        OSError: The storage failed.
    """
    return load_spec(output.uri(RUN_FILE)) if output.exists(RUN_FILE) else None


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
