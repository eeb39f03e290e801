"""Commands about manifests: check one, or make one."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from vidgen_dist.cli.flags import Flags, help_of, with_argument, with_flags
from vidgen_dist.cli.terminal import counted, print_error, print_next
from vidgen_dist.errors import Refused
from vidgen_dist.spec import COMMAND_LINE


@with_flags("manifest check")
def check_manifest(
    uri: Annotated[str, typer.Argument(metavar="URI", help=help_of("manifest.uri"))],
    *,
    options: Flags,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Write all bad rows, with the reasons, to a file.")
    ] = None,
) -> None:
    """Check every row without a model; with --model, also against what that checkpoint can do.

    Exit status: 0 all rows can be rendered, 2 some cannot.

    Examples:
        vidgen manifest check manifest.parquet
        vidgen manifest check manifest.parquet --model zai-org/CogVideoX-5b --export bad.parquet
    """
    from vidgen_dist.families import known_fields
    from vidgen_dist.manifest import describe_unknown
    from vidgen_dist.media import ignore_warnings
    from vidgen_dist.preflight.manifest_check import check_manifest as check
    from vidgen_dist.storage.uris import redact

    ignore_warnings()
    report = check(uri, with_argument(options, "manifest.uri", "URI", uri), export)
    shown = redact(uri)
    for name in report.unknown_columns:
        print_error(f"{shown}: {describe_unknown(name, known_fields())}")
    for problem in report.problems:
        print_error(str(problem))
    if export is not None:
        print(f"{redact(export)}: {counted(report.num_problems, 'row')}")
    if not report.ok:
        by_column = ", ".join(f"{column or 'row'} {count:,}" for column, count in report.counts.items())
        raise Refused(
            f"{shown}: {report.bad_rows:,} of {report.rows:,} rows cannot be rendered ({by_column}): mend "
            "them, or render the others with `vidgen render --bad-rows fail`"
        )
    print(f"{shown}: {counted(report.rows, 'row')}, all can be rendered")
    more = "" if options.keys() <= {"model.id"} else ", and the same settings"
    model = quote(options.get("model.id", "MODEL"))
    print_next(f"`vidgen render {quote(shown)} OUTPUT --model {model}`{more}")


def build_manifest(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT", help=".txt, .csv or .jsonl files; and the manifest, named .parquet."
        ),
    ],
) -> None:
    """Make a manifest from text (a prompt a line), CSV or JSON lines.

    Examples:
        vidgen manifest build prompts.txt manifest.parquet
        vidgen manifest build first.csv second.jsonl manifest.parquet
    """
    from vidgen_dist.families import known_fields, needed_columns
    from vidgen_dist.manifest import describe_unknown
    from vidgen_dist.manifest_build import build
    from vidgen_dist.storage.uris import redact

    *inputs, out = files
    if not inputs:
        raise Refused(f"{COMMAND_LINE}: OUT is missing: vidgen manifest build {out} MANIFEST.parquet")
    report = build(inputs, out, fields=known_fields(), one_of=needed_columns())
    for name in report.unknown_columns:
        print_error(f"{redact(report.uri)}: {describe_unknown(name, known_fields())}")
    print(f"{redact(report.uri)}: {counted(report.rows, 'row')}, columns {', '.join(report.columns)}")
    print_next(_check_it(redact(report.uri)))


def _check_it(manifest: str) -> str:
    """What to do with a new manifest."""
    return f"`vidgen manifest check {quote(manifest)} --model MODEL`"


def expand_manifest(
    uri: Annotated[str, typer.Argument(metavar="IN", help="A manifest.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The new manifest, named .parquet.")],
    *,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds each row gets.")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=A,B,C",
            help="Values that each row gets in a column; or words for the template. A YAML list in brackets "
            "may hold commas. Repeat it for more columns.",
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help='The prompt, with columns in braces: "a {animal} in {place}".')
    ] = None,
) -> None:
    """Write each row many times: with all combinations of seeds and values.

    Ids stay the same when seeds and values become more, so that a run goes on.

    Examples:
        vidgen manifest expand manifest.parquet more.parquet --seeds 4
        vidgen manifest expand manifest.parquet more.parquet --grid guidance_scale=4,6,8
        vidgen manifest expand in.parquet out.parquet --template "a {animal} in snow" --grid animal=fox,owl
    """
    from vidgen_dist.cli.assignments import read_lists
    from vidgen_dist.families import known_fields
    from vidgen_dist.manifest_expand import expand
    from vidgen_dist.storage.uris import redact

    report = expand(
        uri, out, seeds=seeds, grid=read_lists(grid or (), "--grid"), template=template, fields=known_fields()
    )
    print(f"{redact(report.uri)}: {counted(report.rows, 'row')}, columns {', '.join(report.columns)}")
    print_next(_check_it(redact(report.uri)))
