"""The command that writes a run file to begin with."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from vidgen_dist.cli.flags import Flags, help_of, with_argument, with_flags
from vidgen_dist.cli.terminal import print_next
from vidgen_dist.errors import Refused
from vidgen_dist.output_layout import RUN_FILE


@with_flags("render", without=("model.id",))
def init(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=help_of("model.id"))],
    run_file: Annotated[
        str, typer.Argument(metavar="[RUN.YAML]", help="The file to write: path or URI.")
    ] = RUN_FILE,
    *,
    options: Flags,
    manifest: Annotated[str | None, typer.Option(help=help_of("manifest.uri"))] = None,
    output: Annotated[str | None, typer.Option(help=help_of("output.uri"))] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out options that few people change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a run file for a checkpoint: its defaults, and what else it takes in comments.

    It has the flags of `vidgen render`; what they give is written as a setting.

    Examples:
        vidgen init zai-org/CogVideoX-5b
        vidgen init genmo/mochi-1-preview mochi.yaml --manifest prompts.parquet --output s3://bucket/videos
        vidgen init zai-org/CogVideoX-5b --set num_inference_steps=30 --brief
    """
    from vidgen_dist.preflight.new_run_file import new_run_file
    from vidgen_dist.storage.folder import open_writable_file
    from vidgen_dist.storage.uris import redact

    given = with_argument(options, "model.id", "MODEL", model)
    for key, flag, value, usual in (
        ("manifest.uri", "--manifest", manifest, "manifest.parquet"),
        ("output.uri", "--output", output, "out"),
    ):
        given = {key: usual, **given} if value is None else with_argument(given, key, flag, value)
    if not run_file.lower().endswith((".yaml", ".yml")):
        raise Refused(f"{redact(run_file)}: is not the name of a run file; allowed: *.yaml, *.yml")
    storage, name = open_writable_file(run_file)
    try:
        if not force and storage.exists(name):
            raise Refused(f"{redact(run_file)}: exists; --force replaces it")
        storage.write_bytes(name, new_run_file(given, redact(run_file), brief=brief).encode())
    except OSError as error:
        raise Refused(str(error)) from None
    print(f"{redact(run_file)}: written")
    print_next(f"`vidgen plan {quote(redact(run_file))}`")
