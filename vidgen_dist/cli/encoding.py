"""The command that fills a prompt store before a run."""

from __future__ import annotations

import itertools
import re
from shlex import quote
from typing import Annotated

import typer

from vidgen_dist.cli.flags import Flags, with_flags
from vidgen_dist.cli.terminal import counted, print_error, print_next, progress_bar
from vidgen_dist.errors import Refused, RowError
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.spec import COMMAND_LINE

FAILED = 1
"""Exit status if prompts could not be encoded."""


@with_flags("encode")
def encode(
    run_file: Annotated[str, typer.Argument(metavar="RUN.YAML", help="The run file.")],
    *,
    options: Flags,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Only the K-th of N parts of the rows, each in a process.")
    ] = "1/1",
) -> None:
    """Encode the prompts of the rows that are not done, and keep them in the run's prompt cache.

    The run loads no text encoder then. Exit status: 0 all encoded, 1 some could not be, 2 refused.

    Examples:
        vidgen encode run.yaml --prompt-cache s3://bucket/prompts
        vidgen encode run.yaml --part 2/8         # the second of eight processes
    """
    from vidgen_dist.engine import ENGINE, encode_prompts
    from vidgen_dist.output.run_file import load_run
    from vidgen_dist.preflight.plan import make_plan, open_run
    from vidgen_dist.runtime.connection import choose_device
    from vidgen_dist.storage.uris import redact

    number, parts = _part(part)
    spec = load_run(run_file, options)
    if spec.model.prompt_cache is None:
        raise Refused(
            f"{COMMAND_LINE}: model.prompt_cache is missing: give it in the run file, or --prompt-cache"
        )
    device = choose_device(spec.topology)
    plan = make_plan(*open_run(spec), device=device, engine=ENGINE)
    failed = 0

    with progress_bar("prompts") as show:
        done = itertools.count(1)

        def end(request: ResolvedRequest, error: RowError | None) -> None:
            nonlocal failed
            show(next(done), plan.pending // parts)
            if error is not None:
                failed += 1
                print_error(f"failed: {request.id}: {type(error).__name__}: {error}")

        rows = itertools.islice(plan.rows(), number - 1, None, parts)
        encode_prompts(plan.decided.model, device, (row.request for row in rows), end)
        rows_done = next(done) - 1
    print(f"{counted(rows_done - failed, 'row')} encoded, in {plan.decided.model.prompt_cache}")
    print_next(f"`vidgen render {quote(redact(run_file))}`, with the same prompt cache")
    if failed:
        raise typer.Exit(FAILED)


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise Refused(f"{COMMAND_LINE}: --part {text}: is not K/N with K from 1 to N, such as 2/8")
    return int(match[1]), int(match[2])
