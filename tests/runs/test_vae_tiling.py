"""A run whose VAE works in blended tiles, from the command to the stored frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import references
from tests.commands import Vidgen
from tests.outputs import entries
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.engine import ENGINE
from vidgen_dist.media import to_uint8
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.preflight.plan import make_plan, open_run

ROW = {"id": "a", "prompt": "a fox", "seed": 3, "height": 64, "width": 64, "num_frames": 5}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint whose tiles, half of its samples, are 48 pixels high and 40 wide."""
    folder = references.case("5b").copy_checkpoint(tmp_path)
    references.edit_json(folder / "vae" / "config.json", sample_height=96, sample_width=80)
    return folder


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_a_run_in_tiles_renders_what_python_renders(
    checkpoint: Path, make_manifest: Callable[..., str], tmp_path: Path, vidgen: Vidgen
) -> None:
    """It renders what Python renders after `enable_tiling`; rows are done with tiles, not without."""
    out = tmp_path / "out"
    flags = ["--vae-tiling", "--format", "npy", "--device", "cpu", "--set", "num_inference_steps=1"]
    arguments = [make_manifest(ROW), out, "--model", checkpoint, *flags]
    assert vidgen("render", *arguments).status == 0
    (entry,) = entries(out)

    pipeline = load_pipeline(str(checkpoint))
    request = RenderRequest(**ROW, num_inference_steps=1)
    whole = to_uint8(pipeline(request))
    pipeline.vae.enable_tiling()
    tiled = to_uint8(pipeline(request))
    np.testing.assert_array_equal(np.load(entry["uri"]), tiled)
    assert (tiled != whole).any()

    again = load_spec(str(out / "run.yaml"))
    assert again.model.vae_tiling
    for tiling, done in ((True, 1), (False, 0)):
        spec = again.override({"model.vae_tiling": tiling})
        assert make_plan(*open_run(spec), device="cpu", engine=ENGINE).done == done
