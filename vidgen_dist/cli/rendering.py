"""Commands about a run before and while it renders: render and plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vidgen_dist import printing
from vidgen_dist.cli.flags import Flags, help_of, with_argument, with_flags
from vidgen_dist.cli.terminal import print_error
from vidgen_dist.errors import Refused
from vidgen_dist.spec import COMMAND_LINE, RunSpec, spec_from_flags

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.policies import RunPolicies
    from vidgen_dist.runtime.driver.render import RunResult

INTERRUPTED = 130
"""Exit status of a run that was interrupted before it started; `RunResult` has the others."""


@with_flags("render")
def render(
    context: typer.Context,
    manifest: Annotated[str, typer.Argument(help="The manifest, or a run.yaml.")],
    output: Annotated[str | None, typer.Argument(help=help_of("output.uri"))] = None,
    *,
    options: Flags,
) -> None:
    """Render a manifest, or continue: rows that are done are skipped.

    Exit status: 0 all rows done, 1 some failed, 2 refused before start, 130 interrupted.
    """
    given = options
    if output is not None:
        given = with_argument(given, "output.uri", "OUTPUT", output)
    if manifest.lower().endswith((".yaml", ".yml")):
        from vidgen_dist.output.run_file import load_run

        spec = load_run(manifest, given)
    else:
        spec = _spec_without_file(with_argument(given, "manifest.uri", "MANIFEST", manifest))
    raise typer.Exit(run(spec, context.obj).exit_status)


def run(spec: RunSpec, policies: RunPolicies | None = None) -> RunResult:
    """Render with a progress bar and print what became of it.

    Args:
        spec: What the run is.
        policies: How patient it is, if not as usual.
    """
    from vidgen_dist.runtime.driver.policies import RunPolicies
    from vidgen_dist.runtime.driver.render import render as render_spec

    printing.never_wait()
    console = Console(stderr=True)
    try:
        result = render_spec(spec, console, policies=policies or RunPolicies())
    except KeyboardInterrupt:
        print_error("interrupted before anything was started")
        raise typer.Exit(INTERRUPTED) from None
    print_result(result, console)
    return result


@with_flags("plan")
def plan(
    run_file: Annotated[
        str | None, typer.Argument(metavar="[RUN.YAML]", help="A run file; without one, give --model.")
    ] = None,
    *,
    options: Flags,
    device_name: Annotated[str | None, typer.Option(help="Device to plan for: 910B, A3 or CPU.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Videos to render; by default many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what fits and what is fastest, from the checkpoint's configs: without weights and NPUs."""
    from vidgen_dist.output.run_file import load_spec
    from vidgen_dist.planner.planned_run import plan_splits
    from vidgen_dist.planner.report import as_json as plan_as_json
    from vidgen_dist.planner.report import summary, tables
    from vidgen_dist.preflight.sampling import check_sampling

    if run_file is not None:
        spec = load_spec(run_file).override(options)
    elif "model.id" in options:
        spec = spec_from_flags({"manifest.uri": "none", "output.uri": "none", **options})
    else:
        raise Refused(f"{COMMAND_LINE}: nothing to plan: vidgen plan RUN.YAML, or vidgen plan --model MODEL")
    check_sampling(spec)
    planned = plan_splits(spec, device_name, rows)
    if as_json:
        print(json.dumps(plan_as_json(planned)))
        return
    console = Console()
    for table in tables(planned):
        console.print(table, "")
    for line in summary(planned):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_result(result: RunResult, console: Console) -> None:
    """Print what became of a run."""
    if result.message:
        console.print(result.message, markup=False, highlight=False, soft_wrap=True)
    for name, value in result.lines():
        # People copy paths: a line is not broken.
        console.print(f"{name:<8} {value}", markup=False, highlight=False, soft_wrap=True)
    for failure in result.failures:
        print_error(f"failed: {failure}")
    if result.failed > len(result.failures):
        print_error(f"and {result.failed - len(result.failures):,} more: see the ledger")


def _spec_without_file(options: Flags) -> RunSpec:
    missing = [
        flag for key, flag in (("output.uri", "OUTPUT"), ("model.id", "--model")) if key not in options
    ]
    if missing:
        raise Refused(
            f"{COMMAND_LINE}: {' and '.join(missing)} missing: vidgen render MANIFEST OUTPUT --model MODEL"
        )
    return spec_from_flags(options)
