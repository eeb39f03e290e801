"""Options of models: each is declared once, and goes from there to its flag, run.yaml, ledger and loader."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import references
from vidgen_dist.cli.flags import table_rows
from vidgen_dist.errors import Refused
from vidgen_dist.runtime.fingerprint import Identity
from vidgen_dist.spec import ModelOptions, Option, TopologyOptions, make_model

README = Path(__file__).parents[1] / "README.md"
OPTIONS = [*ModelOptions.options().items(), *TopologyOptions.options().items()]


def test_an_added_option_needs_its_declaration_alone(tmp_path: Path) -> None:
    """And the module that uses it: here the autoencoder, see `tests/added_option.py`."""
    manifest = tmp_path / "m.parquet"
    pq.write_table(pa.table({"id": ["a"], "prompt": ["a fox"]}), manifest)
    checkpoint = references.case("5b").checkpoint
    arguments = [sys.executable, "-m", "tests.added_option", checkpoint, manifest, tmp_path / "out"]
    ran = subprocess.run(arguments, cwd=README.parent, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "flags": {"--sharpness": ["render", "plan"], "--stickers": ["render"]},
        "run_file": [2.5, ["a", "b", "c"]],
        "fingerprint": {"sharpness": 2.5},
        "fingerprint_without": {},
        "loader": [[2.5, ["a", "b", "c"]]],
    }


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[option.flag for _, option in OPTIONS])
def test_declarations(name: str, option: Option) -> None:
    assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", option.flag)
    assert option.help.endswith(".")
    assert option.commands
    assert f"`{option.flag}`" in README.read_text(encoding="utf-8")
    # Fingerprints put it beside these.
    assert not option.pixels or name not in {field.name for field in dataclasses.fields(Identity)}


def test_every_field_of_a_model_is_an_option() -> None:
    assert set(ModelOptions.model_fields) - set(ModelOptions.options()) == {"digest", "adapter_digest"}


def test_flags_are_told_apart() -> None:
    flags = [option.flag for _, option in OPTIONS]
    assert len(set(flags)) == len(flags)


def test_tables_of_the_docs() -> None:
    text = README.read_text(encoding="utf-8")
    assert "\n".join(table_rows("model")) in text
    planned = [f"`{option.flag}`" for option in ModelOptions.options().values() if "plan" in option.commands]
    assert f"| {', '.join(planned)}, `--set` | as for `render` |" in text


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
