"""Runs of the UNet families: gangs render what diffusers renders, and an adapter is recognised."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from tests import references
from tests.outputs import entries
from tests.references import edit_json
from vidgen_dist.media import to_uint8
from vidgen_dist.runtime.driver.render import RunResult, render
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


pytestmark = pytest.mark.usefixtures("local_ray", "unchecked")


def run(spec: RunSpec) -> RunResult:
    return render(spec, Console(file=io.StringIO()))


def rows_of(case: references.Case) -> list[dict[str, Any]]:
    """A case's requests as rows of a manifest, with paths of images."""
    rows = json.loads((case.folder / "request.json").read_text(encoding="utf-8"))
    names = {name for row in rows for name in row}
    for row in rows:
        if "image" in row:
            row["image"] = str(case.folder / row["image"])
    return [{"id": str(k), **{name: row.get(name) for name in names}} for k, row in enumerate(rows)]


def model_flags(case: references.Case) -> dict[str, Any]:
    return {f"model__{name}": value for name, value in case.model.model_dump(exclude_none=True).items()}


@pytest.mark.parametrize(
    ("family", "name"),
    [("animatediff", "v1-5-2"), ("stable_video_diffusion", "img2vid"), ("i2vgen_xl", "i2v")],
)
def test_a_gang_renders_what_diffusers_renders(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, family: str, name: str
) -> None:
    """Within 1/255, the precision of stored frames."""
    case = references.case(name, family)
    flags: dict[str, Any] = {"topology__replicas": 1, "topology__ulysses": 2}
    flags |= {"output__checkpoint_every": 1, "output__fps": 24.0}
    result = run(make_spec(make_manifest(*rows_of(case)), **model_flags(case), **flags))
    assert (result.done, result.exit_status) == (len(case.requests), 0), result
    for entry, frames in zip(
        sorted(entries(tmp_path / "out"), key=itemgetter("id")), case.frames, strict=True
    ):
        stored = np.load(entry["uri"]).astype(int)
        assert np.abs(stored - to_uint8(frames).astype(int)).max() <= 1
        assert stored.std() > 0
        # Only for the file: Stable Video Diffusion gets the row's.
        assert entry["fps"] == 24.0
    assert "frames " in dict(result.lines())["sent"]


def test_an_adapter_is_recorded_and_counts(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    case = references.case("pndm", "animatediff")
    adapter = Path(shutil.copytree(case.options["adapter"], tmp_path / "adapter"))
    spec = make_spec(
        make_manifest("a fox"),
        model__id=str(case.checkpoint),
        model__adapter=str(adapter),
        topology__replicas=1,
        output__format="gif",
        sampling__num_frames=2,
        sampling__num_inference_steps=2,
        sampling__height=32,
        sampling__width=32,
    )
    assert run(spec).done == 1
    (entry,) = entries(tmp_path / "out")
    assert entry["uri"].endswith(".gif")
    assert (entry["frames"], entry["fps"]) == (2, 8.0)
    recorded = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))["model"]
    assert recorded["adapter"] == str(adapter)
    assert len(recorded["adapter_digest"]) == 64

    # With the same adapter in another place nothing is to be done; with another one, rows are rendered again.
    moved = Path(shutil.copytree(adapter, tmp_path / "moved"))
    again = run(spec.override({"model.adapter": str(moved)}))
    assert (again.done, again.exit_status) == (0, 0)
    edit_json(moved / "config.json", motion_max_seq_length=16, motion_norm_num_groups=2)
    assert run(spec.override({"model.adapter": str(moved)})).done == 1
    first, second = entries(tmp_path / "out")
    assert first["fingerprint"] != second["fingerprint"]
