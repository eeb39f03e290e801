"""What a shell offers while a command line is typed, beside commands, flags and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import typer

from vidgen_dist.errors import Refused

Completion = Callable[..., list[str]]
"""Takes the beginning of a value as `incomplete`, and returns the values that begin so."""


def offer(values: Sequence[str], *, several: bool = False) -> Completion:
    """The completion of a flag that takes one of these values.

    Args:
        values: The values.
        several: Whether the flag takes several, with commas between.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{before}{comma}{value}" for value in values if value.startswith(last)]

    return complete


def offer_fields(incomplete: str) -> list[str]:
    """Fields of rows, as the beginnings of assignments: `num_frames=`."""
    from vidgen_dist.families import known_fields

    return offer([f"{name}=" for name in known_fields()])(incomplete)


def offer_devices(incomplete: str) -> list[str]:
    """The devices that can be planned for."""
    from vidgen_dist.planner.devices import load_devices

    return offer([*load_devices()])(incomplete)


def offer_retries(ctx: typer.Context, incomplete: str) -> list[str]:
    """`failed`, and `failed:CLASS` for the error classes that the run's latest status has."""
    return offer(["failed", *(f"failed:{name}" for name in _error_classes(ctx))])(incomplete)


def _error_classes(context: typer.Context) -> list[str]:
    """The error classes of a run whose output is a folder of this host: a storage may take too long."""
    from vidgen_dist.output.run_file import load_spec
    from vidgen_dist.output.status_file import read_status_file
    from vidgen_dist.storage.folder import open_storage

    # Behind a flag that still lacks its value, what was typed is not taken apart.
    params = [context.params.get(name) for name in ("manifest", "output")]
    manifest, output = [*(context.args or params), None, None][:2]
    # A command line that is not complete may name anything.
    with suppress(OSError, Refused):
        if output is None and manifest and Path(manifest).suffix in (".yaml", ".yml"):
            output = load_spec(manifest).output.uri
        if output is not None and Path(output).is_dir():
            status = read_status_file(open_storage(output))
            return sorted(status.failures) if status is not None else []
    return []
