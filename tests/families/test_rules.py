"""What a checkpoint takes, read from its configs alone."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError
from vidgen_dist.families.cogvideox.config import DOWN_BLOCK, UP_BLOCK, VaeConfig
from vidgen_dist.families.common.tasks import Rules, TaskRules
from vidgen_dist.families.rules import compute_dtype, load_rules
from vidgen_dist.request import FIELDS, Field, ResolvedRequest
from vidgen_dist.weights.checkpoint import open_checkpoint


def _rules(name: str, task: str | None = None) -> Rules[Any]:
    case = references.case(name)
    return load_rules(open_checkpoint(str(case.checkpoint), variant=case.variant), task)


DEFAULTS = {"height": 16, "width": 16, "fps": 8.0, "num_inference_steps": 2, "guidance_scale": 6.0}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a checkpoint folder, to be damaged."""
    return references.case("5b").copy_checkpoint(tmp_path)


@pytest.mark.parametrize("name", references.cases())
def test_resolving_twice_changes_nothing(name: str) -> None:
    case = references.case(name)
    rules = _rules(name, case.task)
    for request in case.requests:
        resolved = rules.resolve(request)
        assert rules.resolve(resolved) == resolved
        assert all(getattr(resolved, field) is not None for field in rules.defaults)


@pytest.mark.parametrize(("name", "task"), [("2b", "text-to-video"), ("i2v", "image-to-video")])
def test_task_is_what_model_index_says(name: str, task: str) -> None:
    assert _rules(name).task == task


def test_task_of_a_video_to_video_checkpoint(copied: Path) -> None:
    references.edit_json(copied / "model_index.json", _class_name="CogVideoXVideoToVideoPipeline")
    assert load_rules(open_checkpoint(str(copied))).task == "video-to-video"


def test_text_checkpoint_does_video_too() -> None:
    assert _rules("5b", "video-to-video").task == "video-to-video"


@pytest.mark.parametrize(("name", "task"), [("5b", "image-to-video"), ("i2v", "text-to-video")])
def test_task_that_the_checkpoint_cannot_do(name: str, task: str) -> None:
    with pytest.raises(Refused, match=rf"task '{task}' is not supported by this checkpoint; allowed: "):
        _rules(name, task)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("height", 33, "a multiple of 16 for this model, such as 32"),
        ("width", 8, "a multiple of 16 for this model, such as 16"),
        ("num_inference_steps", 1001, "from 1 to the scheduler's num_train_timesteps, 1000"),
        ("strength", 0.5, "CogVideoX text-to-video does not take it"),
        ("image", "first.png", "CogVideoX text-to-video does not take it"),
    ],
)
def test_field_that_the_model_cannot_do(field: str, value: object, allowed: str) -> None:
    with pytest.raises(RequestError) as refusal:
        _rules("5b").resolve(RenderRequest(prompt="a fox", **{field: value}))
    assert refusal.value.field == field
    assert allowed in refusal.value.allowed


@pytest.mark.parametrize(
    ("name", "task", "media"), [("i2v", "image-to-video", "image"), ("v2v", "video-to-video", "video")]
)
def test_media_is_needed(name: str, task: str, media: str) -> None:
    with pytest.raises(RequestError, match=f"{media}: None is not allowed"):
        _rules(name, task).resolve(RenderRequest(prompt="a fox"))


def test_strength_that_leaves_no_step() -> None:
    request = RenderRequest(prompt="a fox", video="clip.mp4", strength=0.05, num_inference_steps=10)
    with pytest.raises(RequestError, match=r"strength: 0.05 .* 0.1 or more"):
        _rules("v2v", "video-to-video").resolve(request)


@pytest.mark.parametrize(
    ("name", "num_frames", "frames", "field"),
    [("v2v", 9, 8, "num_frames"), ("1.5", None, 9, "video"), ("1.5", 9, 13, "video"), ("1.5", 5, 9, None)],
)
def test_clip_must_fit(name: str, num_frames: int | None, frames: int, field: str | None) -> None:
    rules = _rules(name, "video-to-video")
    request = rules.resolve(RenderRequest(prompt="a fox", video="clip.mp4", num_frames=num_frames))
    if field is None:
        rules.of_task.check_clip(request, frames)
        return
    with pytest.raises(RequestError) as refusal:
        rules.of_task.check_clip(request, frames)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("spacing", "strength", "allowed"),
    [("trailing", None, False), ("leading", None, True), ("trailing", 1.0, False), ("trailing", 0.5, True)],
)
def test_no_clean_sample_is_seen_where_no_signal_is_left(
    copied: Path, spacing: str, strength: float | None, allowed: bool
) -> None:
    scheduler = {"prediction_type": "epsilon", "rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    references.edit_json(copied / "scheduler" / "scheduler_config.json", **scheduler)
    rules = load_rules(open_checkpoint(str(copied)), "video-to-video" if strength else "text-to-video")
    clip = {"video": "clip.mp4", "strength": strength} if strength else {}
    request = RenderRequest(prompt="a fox", num_inference_steps=4, **clip)
    if allowed:
        rules.resolve(request)
        return
    with pytest.raises(RequestError, match=r"num_inference_steps: 4 .* no step is at 999"):
        rules.resolve(request)


@pytest.mark.parametrize(
    ("blocks", "ratio", "latent_frames", "frames"), [(4, 8, 3, 17), (2, 4, 3, 5), (2, 4, 4, 8), (3, 2, 2, 4)]
)
def test_frames_of_other_autoencoders(blocks: int, ratio: int, latent_frames: int, frames: int) -> None:
    vae = {
        "block_out_channels": [32] * blocks,
        "temporal_compression_ratio": ratio,
        "down_block_types": [DOWN_BLOCK] * blocks,
        "up_block_types": [UP_BLOCK] * blocks,
    }
    config = VaeConfig.read(vae)
    assert config.decoded_frames(latent_frames) == frames
    assert config.encoded_frames(frames) == latent_frames


def test_learned_positions_are_for_one_size() -> None:
    rules = _rules("i2v")
    right = rules.resolve(RenderRequest(prompt="a fox", image="first.png"))
    with pytest.raises(RequestError, match="learned positions are for"):
        rules.resolve(dataclasses.replace(right, height=right.height * 2))


def test_position_table_needs_its_text_length() -> None:
    with pytest.raises(RequestError, match=r"max_sequence_length: 3 .*position table needs"):
        _rules("2b").resolve(RenderRequest(prompt="a fox", max_sequence_length=3))


@pytest.mark.parametrize("name", ["2b", "5b", "1.5", "i2v", "1.5-i2v"])
def test_frames_that_the_model_makes(name: str) -> None:
    case = references.case(name)
    checkpoint = open_checkpoint(str(case.checkpoint))
    vae = VaeConfig.read(checkpoint.config("vae"))
    rules = load_rules(checkpoint, case.task)
    for request, frames in zip(case.requests, case.frames, strict=True):
        num_frames = rules.resolve(request).num_frames
        assert vae.decoded_frames(vae.latent_frames(num_frames)) == len(frames)


@pytest.mark.usefixtures("nothing_told")
def test_rounded_number_of_frames_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    rules = _rules("5b")
    for _ in range(2):
        rules.resolve(RenderRequest(prompt="a fox", num_frames=6))
    assert caplog.messages == ["num_frames 6 makes 8 frames with this model"]


def test_unknown_pipeline_class(copied: Path) -> None:
    references.edit_json(copied / "model_index.json", _class_name="StableCascadePipeline")
    with pytest.raises(
        Refused, match=r"model_index.json: _class_name 'StableCascadePipeline'.*CogVideoXPipeline"
    ):
        load_rules(open_checkpoint(str(copied)))


def test_unknown_scheduler_class(copied: Path) -> None:
    references.edit_json(copied / "model_index.json", scheduler=["diffusers", "DDPMScheduler"])
    with pytest.raises(Refused, match="scheduler is a DDPMScheduler; allowed: CogVideoXDDIMScheduler"):
        load_rules(open_checkpoint(str(copied)))


def test_channels_that_fit_no_task(copied: Path) -> None:
    references.edit_json(copied / "transformer" / "config.json", in_channels=7)
    told = "config of CogVideoXTransformer3DModel: in_channels is 7; allowed is "
    with pytest.raises(Refused, match=f"^{copied / 'transformer' / 'config.json'}: {told}"):
        load_rules(open_checkpoint(str(copied)))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("transformer/config.json", {"sample_height": None}, "sample_height is None"),
        ("transformer/config.json", {"patch_size": 0}, "patch_size is 0; .* from 1"),
        ("transformer/config.json", {"max_text_seq_length": "x"}, "max_text_seq_length is 'x'"),
        ("vae/config.json", {"block_out_channels": 5}, "block_out_channels is 5"),
        ("vae/config.json", {"latent_channels": None}, "latent_channels is None"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": "1000"},
            "num_train_timesteps is '1000'; .* from 1",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "x"},
            "beta_schedule is 'x'; .* one of linear",
        ),
        ("model_index.json", {"_class_name": ["CogVideoXPipeline"]}, "_class_name"),
    ],
)
def test_config_that_cannot_be(copied: Path, file: str, values: dict[str, object], message: str) -> None:
    references.edit_json(copied / file, **values)
    with pytest.raises(Refused, match=message):
        load_rules(open_checkpoint(str(copied)))


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_checkpoint_without_a_component(copied: Path, component: str) -> None:
    shutil.rmtree(copied / component)
    with pytest.raises(Refused, match=component):
        load_rules(open_checkpoint(str(copied)))


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (None, "cpu", "float32"),
        (None, "ascend", "bfloat16"),
        ("fp32", "cpu", "float32"),
        ("fp16", "ascend", "float16"),
    ],
)
def test_compute_dtype(dtype: str | None, device: str, expected: str) -> None:
    assert compute_dtype(dtype, device) == expected


@pytest.mark.parametrize(("dtype", "device"), [("bf16", "cpu"), ("int8", "ascend")])
def test_dtype_that_the_device_cannot_do(dtype: str, device: str) -> None:
    with pytest.raises(Refused, match=f"dtype '{dtype}'"):
        compute_dtype(dtype, device)


def test_rules_load_no_mindspore() -> None:
    program = (
        "import sys; from vidgen_dist.families.rules import load_rules; "
        "from vidgen_dist.weights.checkpoint import open_checkpoint; "
        f"load_rules(open_checkpoint({str(references.case('5b').checkpoint)!r})); "
        "sys.exit('mindspore' in sys.modules or 'ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_models_default_is_no_fault_of_the_runs() -> None:
    """0.8 of 1 step is no step, but rows may have another strength."""
    rules = _rules("5b", "video-to-video")
    rules.check_defaults({"num_inference_steps": 1})
    request = RenderRequest(prompt="", video="clip.mp4", num_inference_steps=1)
    assert rules.resolve(dataclasses.replace(request, strength=1.0)).strength == 1
    with pytest.raises(RequestError, match=r"strength: 0\.8"):
        rules.resolve(request)
    with pytest.raises(Refused, match=r"sampling\.strength: 0\.4"):
        rules.check_defaults({"num_inference_steps": 2, "strength": 0.4})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steered(ResolvedRequest):
    """A request of a family that is not finished."""

    prompt: str
    guidance_scale: float
    eta: float | None = None


@pytest.mark.parametrize(
    ("defaults", "declared", "told"),
    [
        (
            {},
            FIELDS,
            "Half text-to-video: Steered.fps needs a default: only texts, images and clips may lack one",
        ),
        (DEFAULTS, {n: f for n, f in FIELDS.items() if n != "eta"}, "Steered.eta is declared neither"),
    ],
)
def test_a_family_that_is_not_finished(
    defaults: dict[str, Any], declared: dict[str, Field], told: str
) -> None:
    with pytest.raises(Refused, match=re.escape(told)):
        Rules(
            "Half",
            "text-to-video",
            ("text-to-video",),
            TaskRules(request=Steered, defaults=defaults),
            declared,
        )


def test_of_several_faults_the_first_is_told() -> None:
    rules = Rules("Half", "text-to-video", ("text-to-video",), TaskRules(request=Steered, defaults=DEFAULTS))
    for names in (["strength", "image"], ["image", "strength"]):
        values = {"strength": 0.5, "image": "x.png"}
        with pytest.raises(RequestError) as refused:
            rules.resolve(RenderRequest(prompt="a fox", **{name: values[name] for name in names}))
        assert refused.value.field == "image"
