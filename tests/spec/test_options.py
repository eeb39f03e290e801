"""Run options: each is declared once, and goes from there to its flag, run.yaml, ledger, loader and docs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import references
from vidgen_dist.errors import Refused
from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.spec import ModelOptions, Option, Part, RunSpec, make_model
from vidgen_dist.spec.documentation import option_rows
from vidgen_dist.spec.option import declared_options

ROOT = Path(__file__).parents[2]
OPTIONS = {declared.key: declared.option for declared in declared_options(RunSpec)}
RECORDED = {"model.digest", "model.adapter_digest", "model.row_loras", "manifest.fields"}
"""Keys that a run writes down, and that nobody chooses."""


ADDED = {
    "model.ModelOptions": """\
    sharpness: Annotated[float, Option("How sharp.", flag="--sharpness", pixels=True, commands=PLANNED)] = 1.0
    stickers: Annotated[tuple[NonEmptyText, ...], Option("Which.", flag="--stickers")] = ()
""",
    "manifest.ManifestOptions": """\
    tags: Annotated[dict[str, str | int | bool], Option("Rows with them.", flag="--tag")] = {}
""",
    "output.OutputOptions": """\
    poster: Annotated[bool, Option("A picture of each video.", flag="--poster")] = False
""",
    "topology.WatchdogOptions": """\
    cool: Annotated[WatchdogSeconds | None, Option("Seconds to cool.", unset="the device's")] = None
""",
    "topology.TopologyOptions": """\
    spares: Annotated[int, Option("Gangs that wait.", flag="--spares", commands=PLANNED)] = 0
    watchdog: WatchdogOptions = WatchdogOptions()
""",
    "faults.FaultsOptions": """\
    patience: Annotated[Literal["short", "long"], Option("How much.", flag="--patience")] = "short"
""",
    "run.RunSpec": """\
    note: Annotated[str | None, Option("What it is for.", flag="--note")] = None
""",
}
"""Declarations that are added to the classes of `vidgen_dist.spec`."""

VALUES = {
    "model.sharpness": 2.5,
    "model.stickers": ["a", "b", "c"],
    "manifest.tags": {"x": 1, "y": False},
    "output.poster": True,
    "topology.spares": 2,
    "topology.watchdog.cool": 7.5,
    "faults.patience": "long",
    "note": "for later",
}
"""What the command line in `added_option.py` gives them."""


def copy_with_added_options(folder: Path) -> None:
    """Copy the package, add the declarations, and put the program that tries them beside it."""
    shutil.copytree(ROOT / "vidgen_dist", folder / "vidgen_dist")
    shutil.copy(ROOT / "tests" / "spec" / "added_option.py", folder)
    for place, declarations in ADDED.items():
        module, name = place.split(".")
        path = folder / "vidgen_dist" / "spec" / f"{module}.py"
        text = path.read_text(encoding="utf-8")
        # After the class, before what uses it.
        before, after = re.fullmatch(rf"(.*\nclass {name}\(.*?\n)(\n\n\S.*)?", text, re.DOTALL).groups()
        path.write_text(f"{before}\n\nclass {name}({name}):\n{declarations}{after or ''}", encoding="utf-8")


def test_an_added_option_needs_its_declaration_alone(tmp_path: Path) -> None:
    """And the module that uses it: here the autoencoder, see `tests/spec/added_option.py`."""
    copy_with_added_options(tmp_path)
    manifest = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["a"], "prompt": ["a fox"]}), manifest)
    checkpoint = references.case("5b").checkpoint
    arguments = [sys.executable, tmp_path / "added_option.py", checkpoint, manifest, tmp_path / "out"]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "flags": {
            "--sharpness": ["render", "submit", "init", "plan"],
            "--stickers": ["render", "submit", "init"],
            "--tag": ["render", "submit", "init"],
            "--poster": ["render", "submit", "init"],
            "--spares": ["render", "submit", "init", "plan"],
            "--option": ["render", "submit", "init", "plan", "encode"],
            "--patience": ["render", "submit", "init"],
            "--note": ["render", "submit", "init"],
        },
        "run_file": VALUES,
        "workers": VALUES,
        "fingerprint": {"sharpness": 2.5},
        "fingerprint_without": {},
        "loader": [[2.5, ["a", "b", "c"]]],
        "documentation": {
            "model.sharpness": ["--sharpness", "1.0"],
            "model.stickers": ["--stickers", "none"],
            "manifest.tags": ["--tag", "none"],
            "output.poster": ["--poster", "off"],
            "topology.spares": ["--spares", "0"],
            "topology.watchdog.cool": [None, "the device's"],
            "faults.patience": ["--patience", "short"],
            "note": ["--note", "none"],
        },
    }


@pytest.mark.parametrize(("key", "option"), OPTIONS.items(), ids=OPTIONS)
def test_declarations(key: str, option: Option) -> None:
    assert option.flag is None or re.fullmatch(r"--[a-z]+(-[a-z]+)*", option.flag)
    assert option.flag is None or option.argument is None
    assert option.help.endswith(".")
    assert option.details is None or option.details.endswith(".")
    assert option.commands
    # Fingerprints put it beside these.
    name = key.rpartition(".")[2]
    assert not option.pixels or name not in {field.name for field in dataclasses.fields(Identity)}


def keys_of(part: type[Part], under: str = "") -> Iterator[str]:
    """The dotted keys of a part that have no keys of their own."""
    for name, field in part.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            yield from keys_of(field.annotation, f"{under}{name}.")
        else:
            yield under + name


def test_every_key_of_a_run_spec_is_an_option() -> None:
    assert set(keys_of(RunSpec)) - set(OPTIONS) == RECORDED


def test_flags_are_told_apart() -> None:
    flags = [option.flag for option in OPTIONS.values() if option.flag is not None]
    assert len(set(flags)) == len(flags)


def test_rows_of_the_documentation() -> None:
    rows = {row.key: row for row in option_rows()}
    assert list(rows) == list(OPTIONS)
    assert all(row.type for row in rows.values())
    shown = (rows["output.fps"], rows["topology.replicas"], rows["topology.watchdog.denoise"])
    assert [(row.type, row.default) for row in shown] == [
        ("a number from 0.01 up to 1000", "the model's"),
        ("a whole number from 1 up to 100000 or auto", "1"),
        ("a number of seconds, up to 30 days", "by the device"),
    ]


def test_what_decides_pixels() -> None:
    assert ModelOptions(id="m", dtype="float32").pixel_options() == {}
    assert ModelOptions(id="m", vae_tiling=True).pixel_options() == {"vae_tiling": True}
    settings = {"_class_name": "DDIMScheduler", "sigma_max": None}
    assert ModelOptions(id="m", scheduler=settings).pixel_options() == {"scheduler": settings}
    assert ModelOptions(id="m", scheduler={}).pixel_options() == {}


def test_options_that_python_gives_are_checked() -> None:
    assert make_model({"id": "m", "task": None}, "load_pipeline") == ModelOptions(id="m")
    with pytest.raises(Refused, match=r"^load_pipeline: model\.task: 'x' is not allowed; .*text-to-video"):
        make_model({"id": "m", "task": "x"}, "load_pipeline")
