"""What is refused in a checkpoint before any weight is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import references
from vidgen_dist.errors import Refused
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.loader import check_models
from vidgen_dist.families.rules import load_rules
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.checkpoint import open_checkpoint

PLAIN = ModelOptions(id="any")
"""No option is set."""


@pytest.mark.parametrize(("family", "name"), references.all_cases())
def test_weights_of_all_families_are_their_models(family: str, name: str) -> None:
    model = references.case(name, family).model
    check_models(open_model_checkpoint(model), model)


@pytest.mark.parametrize("component", ["text_encoder", "transformer", "vae"])
def test_another_models_weights(tmp_path: Path, component: str) -> None:
    folder = references.case("v2v").copy_checkpoint(tmp_path)
    (file,) = (folder / component).glob("*.safetensors")
    tensors = load_file(file)
    wide, lost = (key for key in list(tensors)[:2])
    shape = tensors[wide].shape
    del tensors[lost]
    save_file(tensors | {wide: np.zeros((*shape, 2), np.float32), "more": np.zeros(1, np.float32)}, file)
    with pytest.raises(Refused) as refused:
        check_models(open_checkpoint(folder), PLAIN)
    said = str(refused.value)
    assert said.startswith(f"{folder / component}: these weights do not belong to a ")
    for part in (f"1 missing: {lost}", "1 surplus: more", f"{wide} is {(*shape, 2)} in the file and {shape}"):
        assert part in said


def test_weights_that_are_not_here_are_not_missed(tmp_path: Path) -> None:
    """None of a component's weights, or not all shards, as for a hub id that is not downloaded completely."""
    folder = references.case("5b").copy_checkpoint(tmp_path)
    opened = open_checkpoint(folder)
    assert all(opened.has_weights(name) for name in ("text_encoder", "transformer", "vae"))
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    for file in (folder / "vae").glob("*.safetensors*"):
        file.unlink()
    assert opened.has_weights("text_encoder")
    assert not opened.has_weights("transformer")
    assert not opened.has_weights("vae")
    check_models(opened, PLAIN)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "transformer/config.json",
            {"num_layers": "2"},
            "config of CogVideoXTransformer3DModel: num_layers is",
        ),
        (
            "transformer/config.json",
            {"patch_size": 0},
            "config of CogVideoXTransformer3DModel: patch_size is 0",
        ),
        (
            "vae/config.json",
            {"layers_per_block": None},
            "config of AutoencoderKLCogVideoX: layers_per_block is",
        ),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "x"},
            "config of CogVideoXDPMScheduler: predict",
        ),
    ],
)
def test_a_config_is_named_with_its_folder(
    tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    folder = references.case("v2v").copy_checkpoint(tmp_path)
    references.edit_json(folder / file, **change)

    def prepare() -> None:
        opened = open_checkpoint(folder)
        load_rules(opened)
        check_models(opened, PLAIN)

    with pytest.raises(Refused, match=rf"^{folder}(/\w+/\w+\.json)?: {message}"):
        prepare()


def test_each_fault_of_a_config_is_named_with_its_file(tmp_path: Path) -> None:
    folder = references.case("v2v").copy_checkpoint(tmp_path)
    references.edit_json(folder / "transformer" / "config.json", patch_size=0, num_layers="2", norm_eps=None)
    with pytest.raises(Refused) as refused:
        load_rules(open_checkpoint(folder))
    lines = str(refused.value).splitlines()
    told = f"{folder / 'transformer' / 'config.json'}: config of CogVideoXTransformer3DModel: "
    assert len(lines) == 3
    assert all(line.startswith(told) for line in lines)


def test_tiles_that_cannot_be_made() -> None:
    checkpoint = open_checkpoint(references.case("5b").checkpoint)
    with pytest.raises(Refused, match="tiles of 16 pixels that overlap"):
        check_models(checkpoint, ModelOptions(id="5b", vae_tiling=True))
