"""The `vidgen` command: arguments and printing, nothing else. A module a group of commands.

Whatever is heavy is imported by the command that needs it: `vidgen status` loads neither MindSpore nor Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen_dist import printing
from vidgen_dist.cli.comparison import compare
from vidgen_dist.cli.demo import demo
from vidgen_dist.cli.encoding import encode
from vidgen_dist.cli.help import Command, Group
from vidgen_dist.cli.inspection import inspect
from vidgen_dist.cli.manifests import build_manifest, check_manifest, expand_manifest
from vidgen_dist.cli.new_runs import init
from vidgen_dist.cli.outputs import compact, export, failures, status, verify
from vidgen_dist.cli.rendering import plan, render
from vidgen_dist.cli.reports import report
from vidgen_dist.cli.submission import list_jobs, show_log, stop_job, submit
from vidgen_dist.cli.terminal import print_error
from vidgen_dist.errors import REFUSED, Refused
from vidgen_dist.package import VERSION

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.policies import RunPolicies

PROGRAM = "vidgen"
"""The command's name, also where it was started by `python -m vidgen_dist`."""

app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    no_args_is_help=True,
    # Messages about a wrong command line are plain lines.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=(
        "Begin with `vidgen demo`. `vidgen COMMAND --help` has each command's options and examples,\n"
        "and `vidgen --install-completion` lets your shell complete them."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RENDER, _LOOK, _KEEP, _PREPARE = "Render", "Watch a run", "Look after an output", "Prepare"
for _command, _panel in (
    (demo, _RENDER),
    (render, _RENDER),
    (submit, _RENDER),
    (status, _LOOK),
    (failures, _LOOK),
    (report, _LOOK),
    (verify, _KEEP),
    (compare, _KEEP),
    (compact, _KEEP),
    (export, _KEEP),
    (init, _PREPARE),
    (plan, _PREPARE),
    (encode, _PREPARE),
    (inspect, _PREPARE),
):
    app.command(cls=Command, rich_help_panel=_panel)(_command)
manifest_app = typer.Typer(
    help="Make a manifest, or check one.", cls=Group, no_args_is_help=True, rich_markup_mode=None
)
manifest_app.command("build", cls=Command)(build_manifest)
manifest_app.command("check", cls=Command)(check_manifest)
manifest_app.command("expand", cls=Command)(expand_manifest)
app.add_typer(manifest_app, name="manifest", rich_help_panel=_PREPARE)
jobs_app = typer.Typer(
    help="List, follow or stop jobs of `vidgen submit`.",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
)
jobs_app.command("list", cls=Command)(list_jobs)
jobs_app.command("logs", cls=Command)(show_log)
jobs_app.command("stop", cls=Command)(stop_job)
app.add_typer(jobs_app, name="jobs", rich_help_panel=_LOOK)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def vidgen(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Render videos at dataset scale on Ascend NPUs."""


def main(policies: RunPolicies | None = None, on_refused: Callable[[str], None] = print_error) -> None:
    """The entry point: errors that a person can cause are one message and status 2.

    Args:
        policies: How patient the runs of `vidgen render` are, if not as usual. No flag changes them: who
            renders has no reason to, tests have.
        on_refused: Prints the message of what is refused.
    """
    printing.guard()
    try:
        app(obj=policies, prog_name=PROGRAM)
    except Refused as error:
        on_refused(str(error))
        sys.exit(REFUSED)
    except SystemExit as ended:
        # What a run prints is beside its videos; what any other command prints is all that it makes.
        if not ended.code and (fault := printing.fault_of_output()):
            print_error(f"standard output cannot be written: {fault.strerror}")
            sys.exit(REFUSED)
        raise
