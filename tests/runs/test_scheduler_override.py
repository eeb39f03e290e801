"""A run whose settings override the checkpoint's scheduler, from the command to the stored frames."""

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

CHECKPOINT = references.case("2b").checkpoint
ROW = {"id": "a", "prompt": "a fox", "seed": 3, "num_frames": 5, "num_inference_steps": 3}
SETTINGS = {"_class_name": "CogVideoXDPMScheduler", "snr_shift_scale": 1.5, "trained_betas": None}
FLAGS = [
    *("--scheduler", "_class_name=CogVideoXDPMScheduler"),
    *("--scheduler", "snr_shift_scale=1.5"),
    *("--scheduler", "trained_betas=null"),
]


def _done(spec_file: Path, **changes: object) -> int:
    spec = load_spec(str(spec_file)).override({f"model.scheduler.{key}": v for key, v in changes.items()})
    return make_plan(*open_run(spec), device="cpu", engine=ENGINE).done


@pytest.mark.usefixtures("local_ray", "unchecked")
def test_a_run_with_another_scheduler_renders_what_python_renders(
    make_manifest: Callable[..., str], tmp_path: Path, vidgen: Vidgen
) -> None:
    """Both ranks of a gang render what Python renders with it; rows are done only for these settings."""
    out = tmp_path / "out"
    flags = ["--format", "npy", "--device", "cpu", "--cfg", "2", *FLAGS]
    arguments = [make_manifest(ROW), out, "--model", CHECKPOINT, *flags]
    assert vidgen("render", *arguments).status == 0
    (entry,) = entries(out)

    frames = np.load(entry["uri"]).astype(int)
    expected, own = (
        to_uint8(load_pipeline(str(CHECKPOINT), scheduler=settings)(RenderRequest(**ROW))).astype(int)
        for settings in (SETTINGS, None)
    )
    # Half a step of 8 bits, either way: the halves of guidance were computed separately.
    assert np.abs(frames - expected).max() <= 1
    assert np.abs(frames - own).max() > 20

    run_file = out / "run.yaml"
    assert load_spec(str(run_file)).model.scheduler == SETTINGS
    assert _done(run_file) == 1
    assert _done(run_file, snr_shift_scale=1.50) == 1
    assert _done(run_file, snr_shift_scale=2) == 0
    assert _done(run_file, trained_betas=None, clip_sample=False) == 0
    none = load_spec(str(run_file)).override({"model.scheduler": None})
    assert make_plan(*open_run(none), device="cpu", engine=ENGINE).done == 0
    backwards = none.override({f"model.scheduler.{key}": SETTINGS[key] for key in reversed(SETTINGS)})
    assert make_plan(*open_run(backwards), device="cpu", engine=ENGINE).done == 1
