"""The `vidgen` command: arguments and printing, nothing else. A module a group of commands.

Whatever is heavy is imported by the command that needs it: `vidgen status` loads neither MindSpore nor Ray.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen_dist import __version__, printing
from vidgen_dist.cli.comparison import compare
from vidgen_dist.cli.demo import demo
from vidgen_dist.cli.encoding import encode
from vidgen_dist.cli.inspection import inspect
from vidgen_dist.cli.manifests import build_manifest, check_manifest, expand_manifest
from vidgen_dist.cli.outputs import compact, export, failures, status, verify
from vidgen_dist.cli.rendering import plan, render
from vidgen_dist.cli.terminal import print_error
from vidgen_dist.errors import Refused

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.policies import RunPolicies

REFUSED = 2
"""Exit status of what is refused before it starts."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (render, plan, encode, status, failures, compact, verify, compare, export, inspect, demo):
    app.command()(_command)
manifest_app = typer.Typer(help="Check a manifest, or make one.", no_args_is_help=True)
manifest_app.command("check")(check_manifest)
manifest_app.command("build")(build_manifest)
manifest_app.command("expand")(expand_manifest)
app.add_typer(manifest_app, name="manifest")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def vidgen(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Render videos at dataset scale on Ascend NPUs."""


def main(policies: RunPolicies | None = None) -> None:
    """The entry point: errors that a person can cause are one message and status 2.

    Args:
        policies: How patient the runs of `vidgen render` are, if not as usual. No flag changes them: who
            renders has no reason to, tests have.
    """
    printing.guard()
    try:
        app(obj=policies)
    except Refused as error:
        print_error(str(error))
        sys.exit(REFUSED)
    except SystemExit as ended:
        # What a run prints is beside its videos; what any other command prints is all that it makes.
        if not ended.code and (fault := printing.fault_of_output()):
            print_error(f"standard output cannot be written: {fault.strerror}")
            sys.exit(REFUSED)
        raise
