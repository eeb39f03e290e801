"""Motion adapters: which checkpoints take them, what does not fit, and their digests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.references import case, edit_json
from vidgen_dist import Refused, load_pipeline
from vidgen_dist.engine import open_model
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.loader import check_models
from vidgen_dist.spec import ModelOptions

IMAGES, WHOLE = case("v1-5-2", "animatediff"), case("whole", "animatediff")
ADAPTER = Path(IMAGES.options["adapter"])
WEIGHTS = "diffusion_pytorch_model.safetensors"


def opened(**options: Any) -> Any:
    return open_model_checkpoint(ModelOptions(id=str(options.pop("id", IMAGES.checkpoint)), **options))


def digest(**options: Any) -> str:
    """The digests of everything that decides the model."""
    whole = {"id": str(IMAGES.checkpoint), "adapter": str(ADAPTER), **options}
    return open_model(ModelOptions(**whole), "cpu").whole_digest


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of an adapter, to be damaged."""
    return Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))


def test_it_counts_in_the_digest_by_its_content(copied: Path) -> None:
    before, of_model = digest(), opened().digest()
    # Its path and other files beside it have no effect.
    (copied / "README.md").write_text("not read")
    assert digest(adapter=str(copied)) == before
    edit_json(copied / "config.json", motion_max_seq_length=8)
    assert digest(adapter=str(copied)) != before
    # The checkpoint's own digest does not change.
    assert opened(adapter=str(copied)).digest() == of_model


def test_what_the_checkpoint_has_besides_is_not_opened(tmp_path: Path) -> None:
    before = opened(adapter=str(ADAPTER))
    assert "safety_checker" in before.model_index
    assert "safety_checker" not in before.components
    without = IMAGES.copy_checkpoint(tmp_path)
    shutil.rmtree(without / "safety_checker")
    assert opened(id=without, adapter=str(ADAPTER)).digest() == before.digest()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (IMAGES, {}, "AnimateDiff needs a motion adapter .* name it with --adapter"),
        (WHOLE, {"adapter": str(ADAPTER)}, "model.adapter: .* has a motion_adapter of its own: leave it out"),
        (case("5b"), {"adapter": str(ADAPTER)}, "model.adapter: .* CogVideoX takes none: leave it out"),
        (IMAGES, {"adapter_revision": "v1"}, "model.adapter_revision: 'v1' is not allowed without"),
        (
            IMAGES,
            {"adapter": str(ADAPTER), "adapter_revision": "v1"},
            "adapter_revision 'v1': .* a folder",
        ),
        (IMAGES, {"adapter": "nowhere"}, "adapter 'nowhere' is neither a folder that exists nor a hub id"),
        (IMAGES, {"adapter": str(IMAGES.checkpoint)}, "adapter .*: no config.json in it"),
        (
            IMAGES,
            {"adapter": str(IMAGES.checkpoint / "vae")},
            "vae/config.json: motion_adapter is a Auto",
        ),
    ],
    ids=str,
)
def test_what_is_refused_by_the_option(model: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(Refused, match=message):
        load_pipeline(str(model.checkpoint), variant=model.variant, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"block_out_channels": [8, 16]},
            r"block_out_channels is \(8, 16\); allowed is \(8, 16, 24\)",
        ),
        ({"motion_layers_per_block": 2}, "motion_layers_per_block is 2; allowed is 1, the UNet's"),
        ({"motion_num_attention_heads": 5}, "MotionAdapter: motion_num_attention_heads is 5; allowed is div"),
        (
            {"motion_transformer_layers_per_block": [1, 1]},
            "MotionAdapter: motion_transformer_layers",
        ),
        ({"motion_transformer_layers_per_mid_block": [1, 1]}, "allowed is a whole number, or a list of one"),
        ({"conv_in_channels": 9}, "conv_in_channels is 9; allowed is null"),
        ({"_class_name": None}, "names no class"),
    ],
)
def test_a_config_that_does_not_fit_the_unet(copied: Path, changes: Any, message: str) -> None:
    edit_json(copied / "config.json", **changes)
    with pytest.raises(Refused, match=message) as refused:
        load_pipeline(str(IMAGES.checkpoint), adapter=str(copied))
    assert str(copied) in str(refused.value)


def test_weights_that_do_not_fit_are_named_with_both_shapes(copied: Path) -> None:
    key = "down_blocks.1.motion_modules.0.proj_in.weight"
    tensors = load_file(copied / WEIGHTS)
    save_file({**tensors, key: np.zeros((12, 16), np.float32)}, copied / WEIGHTS)
    with pytest.raises(Refused) as refused:
        check_models(opened(adapter=str(copied)), ModelOptions(id="m"))
    assert f"{key} is (12, 16) in the file and (16, 16) in the model" in str(refused.value)
    assert str(copied) in str(refused.value)
    tensors.pop(key)
    save_file(tensors, copied / WEIGHTS)
    with pytest.raises(Refused, match=f"1 missing: {key}"):
        load_pipeline(str(IMAGES.checkpoint), adapter=str(copied))


def test_weights_of_the_unet_in_an_adapter_are_refused(copied: Path) -> None:
    save_file({**load_file(copied / WEIGHTS), "conv_in.bias": np.zeros(8, np.float32)}, copied / WEIGHTS)
    with pytest.raises(Refused, match=r"conv_in\.bias is in .*unet, too; only one is allowed"):
        load_pipeline(str(IMAGES.checkpoint), adapter=str(copied))


def test_an_adapter_without_a_middle(copied: Path) -> None:
    """Adapters of older releases; the config says so, or surplus weights would be refused."""
    tensors = load_file(copied / WEIGHTS)
    kept = {key: value for key, value in tensors.items() if not key.startswith("mid_block.")}
    assert len(kept) < len(tensors)
    save_file(kept, copied / WEIGHTS)
    edit_json(copied / "config.json", use_motion_mid_block=False)
    pipeline = load_pipeline(str(IMAGES.checkpoint), adapter=str(copied))
    assert not pipeline.configs.motion_unet.use_motion_mid_block


def test_a_unet_that_has_its_motion_in_it_takes_no_adapter(tmp_path: Path) -> None:
    """Even if `model_index.json` lists none."""
    folder = WHOLE.copy_checkpoint(tmp_path)
    edit_json(folder / "model_index.json", motion_adapter=[None, None])
    load_pipeline(str(folder))
    with pytest.raises(Refused, match=r"model\.adapter: .* already contains its motion modules: leave"):
        load_pipeline(str(folder), adapter=str(ADAPTER))
