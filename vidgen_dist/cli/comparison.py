"""The command `vidgen compare`: the videos of two outputs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vidgen_dist.cli.terminal import counted, print_error, progress_bar
from vidgen_dist.errors import Refused, shortened

if TYPE_CHECKING:
    from vidgen_dist.maintenance.comparison import Comparison


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Output of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another output of the same rows.")],
    rows: Annotated[
        int | None, typer.Option(min=1, help="Look at so many rows, the same each time; all by default.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="How many of the worst rows to show.")] = 10,
    export: Annotated[
        str | None, typer.Option(metavar="PARQUET", help="Also write all rows to a file.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write the worst rows' frames side by side, as PNG.")
    ] = None,
    min_psnr: Annotated[float | None, typer.Option(help="Each row's PSNR in dB, at least.")] = None,
    min_ssim: Annotated[float | None, typer.Option(min=-1, max=1, help="Each row's SSIM, at least.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the videos of two outputs row by row: PSNR, SSIM and where they differ.

    Exit status: 0 all is well, 1 a video is missing or torn or, with --min-psnr or --min-ssim, a row is below
    it or could not be compared, 2 refused.
    """
    import pyarrow.parquet as pq

    from vidgen_dist.maintenance.comparison import UNREADABLE, compare_outputs, write_worst_frames
    from vidgen_dist.storage.folder import open_export, open_writable

    target = None if export is None else open_export(export)
    folder = None if frames is None else open_writable(frames)
    with progress_bar("rows") as progress:
        found = compare_outputs(a, b, rows=rows, progress=progress)
    if target is not None:
        place, name = target
        try:
            with place.create(name) as file:
                pq.write_table(found.rows, file)
        except OSError as error:
            raise Refused(f"--export: {error}") from None
    written = 0 if folder is None else write_worst_frames(a, b, found, folder, worst)
    summary = found.summary()
    summary["below"] = found.below(min_psnr, min_ssim)
    if as_json:
        shown = found.rows.slice(0, worst).to_pylist()
        print(json.dumps({**_plain(summary), "worst": list(map(_plain, shown))}))
    else:
        _print_comparison(found, summary, worst)
        if folder is not None:
            print_error(f"{counted(written, 'picture')} in {frames}")
    limited = min_psnr is not None or min_ssim is not None
    compared = summary["outcomes"]["compared"]
    failed = limited and (summary["below"] or not compared or compared < summary["looked_at"])
    raise typer.Exit(1 if failed or summary["outcomes"][UNREADABLE] else 0)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values for JSON, which has no infinity."""
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }


def _print_comparison(found: Comparison, summary: dict[str, Any], worst: int) -> None:
    counts = Table(show_header=False, box=None)
    counts.add_row("rows", f"{summary['rows']:,}")
    if summary["looked_at"] < summary["rows"]:
        counts.add_row("looked at", f"{summary['looked_at']:,}")
    for name, count in summary["outcomes"].items():
        if count or name == "compared":
            counts.add_row(name, f"{count:,}")
    counts.add_row("same bytes", f"{summary['same_bytes']:,}")
    counts.add_row("same frames", f"{summary['same_frames']:,}")
    counts.add_row("PSNR in all", _psnr(summary["psnr"]))
    counts.add_row("SSIM in all", _number(summary["ssim"]))
    if summary["below"]:
        counts.add_row("below the limit", f"{summary['below']:,}")
    Console().print(counts)
    table = Table("id", "outcome", "PSNR, dB", "SSIM", "difference", "first frame", "worst frame", "reason")
    for row in found.rows.slice(0, worst).to_pylist():
        figures = (_psnr(row["psnr"]), _number(row["ssim"]), _number(row["mean_difference"]))
        places = (
            "" if row[name] is None else str(row[name]) for name in ("first_different_frame", "worst_frame")
        )
        texts = (shortened(row["id"]), row["outcome"], *figures, *places, row["reason"] or "")
        table.add_row(*map(escape, texts))
    Console().print(table)
    if len(found.rows) > worst:
        print_error(f"the worst {worst:,} of {len(found.rows):,}; --export has all")


def _psnr(value: float | None) -> str:
    if value is None:
        return ""
    return "identical" if math.isinf(value) else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
