"""The command that fills a prompt store before a run."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from vidgen_dist.cli.flags import Flags, with_flags
from vidgen_dist.cli.terminal import counted, print_error, print_next, progress_bar
from vidgen_dist.errors import INTERRUPTED

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

    Examples:
        vidgen encode run.yaml --prompt-cache s3://bucket/prompts
        vidgen encode run.yaml --workers 8        # on eight NPUs
    """
    from vidgen_dist.output.run_file import load_run
    from vidgen_dist.runtime.driver.encode import encode as encode_run
    from vidgen_dist.storage.uris import redact

    spec = load_run(run_file, options)
    try:
        with progress_bar("prompts") as show:
            result = encode_run(spec, workers, print_error, show)
    except KeyboardInterrupt:
        print_error("interrupted; what is encoded is kept")
        print_next("run it again to go on")
        raise typer.Exit(INTERRUPTED) from None
    print(f"{counted(result.encoded, 'row')} encoded, in {result.store}")
    if result.failed:
        print_error(f"{counted(result.failed, 'row')} failed")
    if result.fault:
        print_error(f"stopped: {result.fault}")
        print_next("run it again to go on")
    else:
        print_next(f"`vidgen render {quote(redact(run_file))}`, with the same prompt cache")
    if result.fault or result.failed:
        raise typer.Exit(FAILED)
