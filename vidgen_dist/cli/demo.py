"""`vidgen demo`: render the package's own manifest."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vidgen_dist.cli.flags import help_of
from vidgen_dist.cli.rendering import run
from vidgen_dist.cli.terminal import print_next, print_table
from vidgen_dist.spec import RunSpec, spec_from_flags

if TYPE_CHECKING:
    from vidgen_dist.storage.folder import Storage


def demo(
    output: Annotated[str, typer.Argument(metavar="[OUTPUT]", help=help_of("output.uri"))] = "vidgen-demo",
) -> None:
    """Render the package's own manifest with its own checkpoint on two local workers.

    Examples:
        vidgen demo
        vidgen demo /tmp/demo
    """
    from vidgen_dist.demo import SAMPLING, checkpoint_path, manifest_path

    spec = spec_from_flags(
        {
            "model.id": str(checkpoint_path()),
            "manifest.uri": str(manifest_path()),
            "output.uri": output,
            "topology.device": "cpu",
            "topology.replicas": 2,
            **{f"sampling.{field}": value for field, value in SAMPLING.items()},
        }
    )
    result = run(spec, say_next=False)
    _print_demo(spec, result.output, sheet_is_old=result.done > 0)
    raise typer.Exit(result.exit_status)


def _print_demo(spec: RunSpec, output: Storage, *, sheet_is_old: bool) -> None:
    """Print the demo's rows, and where the checkpoint and the contact sheet are.

    Args:
        spec: The demo's run.
        output: Its output.
        sheet_is_old: Whether videos were rendered since the contact sheet was made.
    """
    from vidgen_dist.demo import SAMPLING
    from vidgen_dist.manifest import open_manifest
    from vidgen_dist.media.contact_sheet import write_contact_sheet
    from vidgen_dist.output.ledger_entries import latest_entries
    from vidgen_dist.output_layout import CONTACT_SHEET

    entries = latest_entries(output)
    rows = open_manifest(spec.manifest.uri).rows()
    prompts = {row.id: row.request.prompt or "" for row in rows}
    table = Table("id", "status", "prompt", "frames", "seconds")
    table.columns[0].no_wrap = True
    videos = []
    for row_id, prompt in prompts.items():
        entry = entries.get(row_id)
        if entry is None:
            table.add_row(row_id, "pending", prompt)
            continue
        if entry["uri"] is not None:
            videos.append((prompt, entry["uri"]))
        seconds = sum(value or 0.0 for name, value in entry.items() if name.startswith("seconds_"))
        table.add_row(row_id, entry["status"], prompt, str(entry["frames"]), f"{seconds:.1f}")
    print_table(table)
    places = {"checkpoint": spec.model.id}
    if videos and not sheet_is_old and output.exists(CONTACT_SHEET):
        places["contact sheet"] = output.uri(CONTACT_SHEET)
    elif videos:
        places["contact sheet"] = write_contact_sheet(output, videos, spec.output.format)
    for name, place in places.items():
        print(f"{name}: {place}")
    settings = " ".join(
        f"--set {name}={SAMPLING[name]:g}" for name in ("num_inference_steps", "guidance_scale")
    )
    print_next(
        "your own prompts: `vidgen manifest build prompts.txt manifest.parquet`, then `vidgen render "
        f"manifest.parquet OUTPUT --model {quote(spec.model.id)} {settings}`, or with another model"
    )
