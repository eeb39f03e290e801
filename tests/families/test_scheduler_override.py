"""Changed settings of a checkpoint's scheduler: frames are diffusers', and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from vidgen_dist import load_pipeline
from vidgen_dist.errors import Refused
from vidgen_dist.families import FAMILIES
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.family import Family
from vidgen_dist.families.rules import load_rules
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.spec import ModelOptions, make_model
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint

CASE = references.case("2b")
DDIM_NAME, DPM_NAME = "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"


def opened(folder: Path, scheduler: dict[str, Any]) -> Checkpoint:
    return open_model_checkpoint(
        make_model({"id": str(folder), "scheduler": scheduler}, "here"), weights=False
    )


@pytest.mark.parametrize("k", range(2))
def test_frames_are_diffusers(k: int) -> None:
    settings, expected = CASE.overridden[k]
    pipeline = load_pipeline(str(CASE.checkpoint), scheduler=settings)
    frames = pipeline(CASE.requests[0])
    references.check_close(f"2b with {settings}", frames, expected, 1e-3)
    # The settings have an effect.
    assert np.abs(frames - CASE.frames[0]).max() > 0.05


def test_another_class_takes_the_checkpoints_keys_that_it_knows(tmp_path: Path) -> None:
    folder = CASE.copy_checkpoint(tmp_path)
    references.edit_json(folder / "scheduler" / "scheduler_config.json", skip_prk_steps=True, steps_offset=3)
    checkpoint = opened(folder, {"_class_name": DPM_NAME, "snr_shift_scale": 1})
    assert checkpoint.class_name("scheduler") == DPM_NAME
    config = checkpoint.config("scheduler")
    assert "skip_prk_steps" not in config
    assert (config["steps_offset"], config["snr_shift_scale"]) == (3, 1)
    assert checkpoint.config("vae") == open_checkpoint(folder).config("vae")
    assert checkpoint.digest() == open_checkpoint(folder).digest()


def test_a_checkpoint_whose_own_class_is_unknown_is_rendered_with_another(tmp_path: Path) -> None:
    folder = CASE.copy_checkpoint(tmp_path)
    references.edit_json(folder / "model_index.json", scheduler=["diffusers", "DEISMultistepScheduler"])
    with pytest.raises(Refused, match=rf"scheduler is a DEISMultistepScheduler; allowed: {DDIM_NAME}"):
        load_rules(opened(folder, {}))
    with pytest.raises(
        Refused, match=r"model\.scheduler\._class_name: 'DEISMultistepScheduler' is not allow"
    ):
        opened(folder, {"steps_offset": 1})
    assert load_rules(opened(folder, {"_class_name": DPM_NAME})).task == "text-to-video"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"_class_name": "DDIMScheduler"},
            r"^model\.scheduler\._class_name: 'DDIMScheduler' is not allowed; ",
        ),
        (
            {"_class_name": "CogVideoXDDIMSchedule"},
            rf"did you mean {DDIM_NAME}\? CogVideoX takes {DDIM_NAME}, ",
        ),
        ({"_class_name": 3}, r"_class_name: 3 is not allowed; CogVideoX takes"),
        (
            {"timestep_spacin": "leading"},
            rf"^model\.scheduler\.timestep_spacin: unknown key; did you mean timestep_spacing\? {DDIM_NAME} ",
        ),
        (
            {"_class_name": DPM_NAME, "skip_prk_steps": True},
            rf"skip_prk_steps: unknown key; {DPM_NAME} takes beta_end, ",
        ),
        (
            {"timestep_spacing": "karras", "steps_offset": -1},
            r"^model\.scheduler, over .*2b/checkpoint/scheduler: config of \w+: [a-z_]+ is .*"
            r"\nmodel\.scheduler, over .*; allowed is ",
        ),
        ({"trained_betas": [0.1]}, r"trained_betas is \(0\.1,\); allowed is null or 1000 numbers"),
        ({"clip": float("nan")}, r"^here: model\.scheduler\.clip: nan is not allowed; it should be a finite"),
        ({"clip": {"a": 1}}, r"^here: model\.scheduler\.clip: \{'a': 1\} is not allowed; "),
        ({"clip": [[1]]}, r"^here: model\.scheduler\.clip: \[\[1\]\] is not allowed; "),
        ({"": 1}, r"^here: model\.scheduler\."),
        ("x", r"^here: model\.scheduler: 'x' is not allowed; it should be a mapping of keys to values"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        opened(CASE.checkpoint, settings)


def test_rules_see_the_settings() -> None:
    request = RenderRequest(prompt="a fox", num_inference_steps=20)
    load_rules(opened(CASE.checkpoint, {})).resolve(request)
    few = opened(CASE.checkpoint, {"num_train_timesteps": 10})
    with pytest.raises(RequestError, match=r"num_inference_steps: 20 .*num_train_timesteps, 10"):
        load_rules(few).resolve(request)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_every_family_says_what_schedulers_it_takes(family: Family[Any]) -> None:
    case = references.case(references.cases(family.key)[0], family.key)
    options = {"id": str(case.checkpoint), **case.options, "scheduler": {"_class_name": "X"}}
    with pytest.raises(Refused, match=rf"'X' is not allowed; {family.name} takes \w+Scheduler"):
        open_model_checkpoint(make_model(options, "here"), weights=False)


def test_settings_have_one_form_for_one_meaning() -> None:
    def options(scheduler: dict[str, Any] | None) -> str:
        return repr(
            sorted(ModelOptions(id="m", scheduler=scheduler).pixel_options().get("scheduler", {}).items())
        )

    assert options({"shift": 3.0, "_class_name": "A"}) == options({"_class_name": "A", "shift": 3})
    assert options({"clip_sample": False}) != options({"clip_sample": 0})
    assert options({"sigma_max": None}) != options({}) == options(None)
    assert ModelOptions(id="m", scheduler={}) == ModelOptions(id="m")
