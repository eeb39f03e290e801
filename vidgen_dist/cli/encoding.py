"""The command that fills a prompt store before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from vidgen_dist.cli.flags import Flags, with_flags
from vidgen_dist.cli.terminal import counted, print_error, progress_bar

FAILED = 1
"""Exit status if prompts could not be encoded."""


@with_flags("encode")
def encode(
    run_file: Annotated[str, typer.Argument(metavar="RUN.YAML", help="The run file.")],
    *,
    options: Flags,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes with the text encoders, each on one NPU.")
    ] = 1,
) -> None:
    """Encode the prompts of the rows that are not done, and keep them in the run's prompt cache.

    The run loads no text encoder then. Exit status: 0 all encoded, 1 some could not be, 2 refused, 130
    interrupted; what is encoded is kept.
    """
    from vidgen_dist.output.run_file import load_run
    from vidgen_dist.runtime.driver.encode import encode as encode_run
    from vidgen_dist.runtime.driver.result import INTERRUPTED

    spec = load_run(run_file, options)
    try:
        with progress_bar("prompts") as show:
            result = encode_run(spec, workers, print_error, show)
    except KeyboardInterrupt:
        print_error("interrupted; what is encoded is kept: run it again to go on")
        raise typer.Exit(INTERRUPTED) from None
    print(f"{counted(result.encoded, 'row')} encoded, in {result.store}")
    if result.fault:
        print_error(f"stopped: {result.fault}; run it again to go on")
    if result.failed:
        print_error(f"{counted(result.failed, 'row')} failed")
    if result.fault or result.failed:
        raise typer.Exit(FAILED)
