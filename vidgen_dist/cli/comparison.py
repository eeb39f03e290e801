"""The command `vidgen compare`: the videos of two outputs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vidgen_dist.cli.terminal import counted, print_error, print_table, progress_bar
from vidgen_dist.errors import Refused, shortened

if TYPE_CHECKING:
    from vidgen_dist.maintenance.comparison import Comparison

_EXAMPLES = 5
"""How many rows of each other outcome are shown."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Output of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another output of the same rows.")],
    rows: Annotated[
        int | None, typer.Option(min=1, help="Look at so many rows, the same each time; all by default.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="How many of the worst rows to show.")] = 10,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read also videos with the same SHA-256 in both ledgers.")
    ] = False,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Also write all rows to a file.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write the worst rows' frames side by side, as PNG.")
    ] = None,
    min_psnr: Annotated[float | None, typer.Option(min=0, help="Each row's PSNR in dB, at least.")] = None,
    min_ssim: Annotated[float | None, typer.Option(min=-1, max=1, help="Each row's SSIM, at least.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the videos of two outputs row by row: PSNR, SSIM and where they differ.

    Exit status: 0 all is well, 1 a video is missing or torn or, with --min-psnr or --min-ssim, a row is below
    it or was not compared, 2 refused.

    Examples:
        vidgen compare out-bf16 out-fp32
        vidgen compare s3://bucket/a s3://bucket/b --rows 1000 --export differences.parquet
        vidgen compare before after --frames pictures --worst 20
        vidgen compare before after --min-psnr 40 --min-ssim 0.98 --json
    """
    from vidgen_dist.maintenance.comparison import compare_outputs
    from vidgen_dist.maintenance.frame_pictures import write_worst_frames
    from vidgen_dist.storage.folder import open_export, open_writable
    from vidgen_dist.storage.uris import redact

    target = None if export is None else open_export(export)
    folder = None if frames is None else open_writable(frames)
    with progress_bar("rows") as progress:
        found = compare_outputs(a, b, rows=rows, deep=deep, progress=progress)
    if target is not None:
        _write(found, *target)
    pictures = None if folder is None else write_worst_frames(a, b, found, folder, worst)
    below = found.below(min_psnr, min_ssim)
    if as_json:
        _print_json(found, below, worst)
    else:
        _print_counts(found, below)
        _print_worst(found, worst)
        _print_others(found)
    if pictures is not None and frames is not None:
        print_error(f"{counted(pictures, 'picture')} in {redact(frames)}")
    raise typer.Exit(_exit_status(found, below, limited=min_psnr is not None or min_ssim is not None))


def _exit_status(found: Comparison, below: int, *, limited: bool) -> int:
    from vidgen_dist.maintenance.comparison import UNREADABLE

    all_compared = len(found.compared) == len(found.rows)
    return 1 if len(found.of(UNREADABLE)) or (limited and (below or not all_compared)) else 0


def _write(found: Comparison, place: Any, name: str) -> None:
    import pyarrow.parquet as pq

    try:
        with place.create(name) as file:
            pq.write_table(found.rows, file)
    except OSError as error:
        raise Refused(f"--export: {error}") from None


def _others(found: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Some of the rows without figures, by outcome."""
    from vidgen_dist.maintenance.comparison import COMPARED, OUTCOMES

    some = {name: found.of(name).slice(0, _EXAMPLES).to_pylist() for name in OUTCOMES if name != COMPARED}
    return {name: rows for name, rows in some.items() if rows}


def _print_json(found: Comparison, below: int, worst: int) -> None:
    shown = {
        **_plain(found.summary()),
        "below": below,
        "worst": list(map(_plain, found.different.slice(0, worst).to_pylist())),
        "not_compared": _others(found),
    }
    print(json.dumps(shown))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values for JSON, which has no infinity."""
    return {name: None if value == math.inf else value for name, value in values.items()}


def _print_counts(found: Comparison, below: int) -> None:
    from vidgen_dist.maintenance.comparison import COMPARED

    summary = found.summary()
    table = Table(show_header=False, box=None)
    table.add_row("rows", f"{summary['rows']:,}")
    if summary["looked_at"] < summary["rows"]:
        table.add_row("looked at", f"{summary['looked_at']:,}")
    for name, count in summary["outcomes"].items():
        if count or name == COMPARED:
            table.add_row(name, f"{count:,}")
    table.add_row("same bytes", f"{summary['same_bytes']:,}")
    table.add_row("same frames", f"{summary['same_frames']:,}")
    if summary["different_fps"]:
        table.add_row("different fps", f"{summary['different_fps']:,}")
    table.add_row("PSNR in all", _psnr(summary["psnr"]))
    table.add_row("SSIM in all", _number(summary["ssim"]))
    if below:
        table.add_row("below the limit", f"{below:,}")
    print_table(table)


def _print_worst(found: Comparison, worst: int) -> None:
    different = found.different
    if not len(different):
        return
    table = Table("id", "PSNR", "SSIM", "difference", "first frame", "worst frame", "note")
    for row in different.slice(0, worst).to_pylist():
        texts = (
            repr(shortened(row["id"])),
            _psnr(row["psnr"]),
            _number(row["ssim"]),
            _number(row["mean_difference"]),
            str(row["first_different_frame"]),
            str(row["worst_frame"]),
            row["reason"] or "",
        )
        table.add_row(*map(escape, texts))
    print_table(table)
    if len(different) > worst:
        print_error(f"the worst {worst:,} of {len(different):,} that differ; --export has all")


def _print_others(found: Comparison) -> None:
    for outcome, rows in _others(found).items():
        for row in rows:
            why = f": {row['reason']}" if row["reason"] else ""
            print(f"{outcome}: id {shortened(row['id'])!r}{why}")
        if (count := len(found.of(outcome))) > len(rows):
            print_error(f"the first {len(rows):,} of {count:,}; --export has all")


def _psnr(value: float | None) -> str:
    if value is None:
        return ""
    return "infinite: all frames are equal" if math.isinf(value) else f"{value:.2f} dB"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
