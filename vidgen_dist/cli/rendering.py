"""Commands about a run before and while it renders: render and plan."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen_dist import printing
from vidgen_dist.cli.completion import offer_devices
from vidgen_dist.cli.flags import Flags, help_of, with_argument, with_flags
from vidgen_dist.cli.terminal import make_console, print_error, print_next, print_table
from vidgen_dist.errors import INTERRUPTED, Refused
from vidgen_dist.spec import COMMAND_LINE, RunSpec, spec_from_flags

if TYPE_CHECKING:
    from rich.console import Console

    from vidgen_dist.runtime.driver.policies import RunPolicies
    from vidgen_dist.runtime.driver.render import RunResult


@with_flags("render")
def render(
    context: typer.Context,
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="The manifest, or a run.yaml.")],
    output: Annotated[str | None, typer.Argument(metavar="[OUTPUT]", help=help_of("output.uri"))] = None,
    *,
    options: Flags,
) -> None:
    """Render a manifest, or continue: rows that are done are skipped.

    Exit status: 0 all rows done, 1 some failed, 2 refused before start, 130 interrupted.

    Examples:
        vidgen render manifest.parquet out --model zai-org/CogVideoX-2b --set num_frames=49
        vidgen render run.yaml                    # all options in a file
        vidgen render run.yaml --retry failed     # only the rows that failed
        vidgen render run.yaml --replicas auto --address auto
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


def run(spec: RunSpec, policies: RunPolicies | None = None, *, say_next: bool = True) -> RunResult:
    """Render with a progress bar and print what became of it.

    Args:
        spec: What the run is.
        policies: How patient it is, if not as usual.
        say_next: Whether to say what to do next.
    """
    from vidgen_dist.runtime.driver.policies import RunPolicies
    from vidgen_dist.runtime.driver.render import render as render_spec

    printing.never_wait()
    console = make_console(stderr=True)
    try:
        result = render_spec(spec, console, policies=policies or RunPolicies())
    except KeyboardInterrupt:
        print_error("interrupted before anything was started")
        raise typer.Exit(INTERRUPTED) from None
    print_result(result, console)
    if say_next and (step := _next_step(result)):
        print_next(step)
    return result


@with_flags("plan")
def plan(
    run_file: Annotated[
        str | None, typer.Argument(metavar="[RUN.YAML]", help="A run file; without one, give --model.")
    ] = None,
    *,
    options: Flags,
    device_name: Annotated[
        str | None,
        typer.Option(autocompletion=offer_devices, help="Device to plan for: 910B, A3 or CPU."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Videos to render; by default many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what fits and what is fastest, from the checkpoint's configs: without weights and NPUs.

    Examples:
        vidgen plan --model zai-org/CogVideoX-5b --npus 8
        vidgen plan run.yaml --rows 10000
        vidgen plan --model genmo/mochi-1-preview --memory 32GB --json
    """
    from vidgen_dist.output.run_file import load_spec
    from vidgen_dist.planner.planned_run import plan_splits
    from vidgen_dist.planner.report import as_json as plan_as_json
    from vidgen_dist.planner.report import flags_of, summary, tables
    from vidgen_dist.preflight.sampling import check_sampling

    if run_file is not None and Path(run_file).is_dir():
        raise Refused(f"{COMMAND_LINE}: {run_file} is a folder; a run file, or --model {run_file}")
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
    for table in tables(planned):
        print_table(table)
        print()
    for line in summary(planned):
        print(line)
    print_next(
        f"render with {' '.join(flags_of(planned.comparison.chosen))}, or with --replicas auto, which takes "
        "the best split of what there is"
    )


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


def _next_step(result: RunResult) -> str:
    """What to do after a run; empty if its message says so."""
    from vidgen_dist.output_layout import RUN_FILE
    from vidgen_dist.storage.uris import redact

    output, run_file = (quote(redact(uri)) for uri in (result.output.root, result.output.uri(RUN_FILE)))
    if result.pending:
        return ""
    if result.failed:
        return f"`vidgen failures {output}`; `vidgen render {run_file} --retry failed` tries them again"
    return f"`vidgen verify {output}`, or `vidgen export {output} URI --to hf`"


def _spec_without_file(options: Flags) -> RunSpec:
    missing = [
        flag for key, flag in (("output.uri", "OUTPUT"), ("model.id", "--model")) if key not in options
    ]
    if missing:
        raise Refused(
            f"{COMMAND_LINE}: {' and '.join(missing)} missing: vidgen render MANIFEST OUTPUT --model MODEL"
        )
    return spec_from_flags(options)
