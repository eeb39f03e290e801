"""Every key of a reference's class is read, has no effect on pixels, or must have its default."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import json
import logging
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from tests import references
from tests.references import edit_json
from vidgen_dist import schedulers
from vidgen_dist.component_config import Config
from vidgen_dist.engine import open_model
from vidgen_dist.errors import ConfigError, Refused
from vidgen_dist.families import FAMILIES, checkpoints, find_family
from vidgen_dist.families.checkpoints import open_model_checkpoint
from vidgen_dist.families.family import IndexConfig, TokenizerClass
from vidgen_dist.families.loader import load_model
from vidgen_dist.reference_keys import reference_keys
from vidgen_dist.spec import ModelOptions

CONFIGS: dict[str, type[Config]] = {
    known.name: known.config
    for family in FAMILIES
    for component in family.components
    for known in component.takes
    if not isinstance(known, TokenizerClass)
}
INDICES = {family.name: family.index for family in FAMILIES if family.index is not None}
EVERY = [*CONFIGS.values(), *INDICES.values(), IndexConfig]
of_every_config = pytest.mark.parametrize("config", EVERY, ids=lambda config: config.__qualname__)

OF_OTHERS = {
    # Which of its kin a T5 is.
    ("T5EncoderModel", "model_type"),
    # Read by pipelines or by functions that several models share, and declared by no config class.
    ("CLIPTextModel", "use_attention_mask"),
    ("CLIPTextModel", "is_causal"),
    ("LlamaModel", "is_causal"),
    # What the files of Stable Video Diffusion have kept of another sampler.
    ("EulerDiscreteScheduler", "skip_prk_steps"),
    # diffusers takes the list as an argument of `set_timesteps`.
    ("DPMSolverMultistepScheduler", "timesteps"),
    ("EulerDiscreteScheduler", "timesteps"),
    ("FlowMatchEulerDiscreteScheduler", "timesteps"),
    ("LCMScheduler", "timesteps"),
}
"""Keys that no class of diffusers 0.35.2 or of transformers 4.57 and 5 declares, and that we know."""

ENCODERS = ("CLIPTextModel", "CLIPVisionModelWithProjection", "LlamaModel", "T5EncoderModel")
OLD = {
    "CLIPImageProcessor": {
        "feature_extractor_type",
        "image_processor_type",
        "processor_class",
        "use_square_size",
    },
    **{name: {"dropout", "model_type", "output_past", "tie_last_hidden_states"} for name in ENCODERS},
}
"""Keys of other releases, and of the libraries' own notes, that decide nothing."""


def values_of(config: type[Config]) -> dict[str, Any]:
    fields = dataclasses.fields(config)
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


@of_every_config
def test_the_reference_knows_every_key_that_we_know(config: type[Config]) -> None:
    known = reference_keys(config.NAME).defaults
    fields = {field.name for field in dataclasses.fields(config)}
    ours = fields | {*config.ONLY} | ({*config.HARMLESS} - OLD.get(config.NAME, set()))
    if config.NAME in ENCODERS:
        # Of one encoder or another.
        known = {key: () for name in ENCODERS for key in reference_keys(name).defaults}
    assert {key for key in ours - known.keys() if (config.NAME, key) not in OF_OTHERS} == set()


@of_every_config
def test_defaults_are_the_references(config: type[Config]) -> None:
    known = reference_keys(config.NAME).defaults
    for key, ours in values_of(config).items():
        for theirs in known.get(key, ()):
            plain = json.loads(json.dumps(ours))
            # Square, as it is written short; and what is computed of other keys.
            if plain != theirs and (config.NAME, key) not in COMPUTED:
                assert isinstance(theirs, dict), (key, ours, theirs)
                assert set(theirs.values()) == {plain}, (key, ours, theirs)


COMPUTED = {
    ("T5EncoderModel", "dense_act_fn"),
    ("T5EncoderModel", "is_gated_act"),
    # Where neither release has it in its own class.
    ("LlamaModel", "rope_theta"),
}


@of_every_config
def test_every_key_that_decides_nothing_has_a_reason(config: type[Config]) -> None:
    assert all(config.HARMLESS.values())
    assert not {field.name for field in dataclasses.fields(config)} & config.ONLY.keys()


def others_than(default: Any) -> list[Any]:
    """Values that are not a default."""
    if isinstance(default, bool):
        return [not default]
    return ["another", 77, [1, 2], {"a": 1}]


@of_every_config
def test_a_key_that_is_not_read_must_have_its_default(config: type[Config]) -> None:
    read = {field.name for field in dataclasses.fields(config)} | {*config.HARMLESS}
    respelled = {"rope_parameters", "rope_scaling"} if config.NAME == "LlamaModel" else set()
    for key, defaults in reference_keys(config.NAME).defaults.items():
        if key in read or key in respelled or key.startswith("_"):
            continue
        assert config.unknown({key: "another"}) == {}
        for default in defaults:
            refused_of(config, {key: default}, key, False)
        for value in others_than(defaults[0]):
            refused_of(config, {key: value}, key, True)


def refused_of(config: type[Config], raw: dict[str, Any], key: str, expected: bool) -> None:
    try:
        config.read(raw)
    except ConfigError as error:
        told = [line for line in str(error).splitlines() if f": {key} is " in line]
    else:
        told = []
    assert bool(told) == expected, (raw, told)
    for line in told:
        assert line.startswith(f"config of {config.NAME}: {key} is {raw[key]!r}; allowed is ")


def test_all_that_is_wrong_with_a_file_is_told_at_once() -> None:
    config = CONFIGS["LTXVideoTransformer3DModel"]
    with pytest.raises(ConfigError) as refused:
        config.read({"qk_norm": "layer_norm", "patch_size": 2, "num_layers": 0})
    assert sorted(str(refused.value).splitlines()) == [
        "config of LTXVideoTransformer3DModel: num_layers is 0; allowed is a whole number from 1",
        "config of LTXVideoTransformer3DModel: patch_size is 2; allowed is 1",
        "config of LTXVideoTransformer3DModel: qk_norm is 'layer_norm'; allowed is rms_norm_across_heads",
    ]


def test_every_sampler_is_among_the_families() -> None:
    found = set()
    for module in pkgutil.iter_modules(schedulers.__path__, f"{schedulers.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Config) and "NAME" in vars(value):
                found.add(value.NAME)
    assert found <= CONFIGS.keys()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_references_have_every_class_that_we_stand_for(config: type[Config]) -> None:
    assert reference_keys(config.NAME).defaults


def test_the_data_is_as_the_script_writes_it() -> None:
    file = importlib.resources.files("vidgen_dist") / "reference_keys.json"
    text = file.read_text(encoding="utf-8")
    data = json.loads(text)
    assert text == json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    assert [name.split()[0] for name in data] == ["diffusers", "transformers", "transformers"]
    assert len(text) < 40_000
    for classes in (data, *data.values(), *(entry["keys"] for of in data.values() for entry in of.values())):
        assert list(classes) == sorted(classes)


def test_a_class_of_nobody_takes_no_keys() -> None:
    assert reference_keys("NoSuchModel").defaults == {}


# --- what model_index.json says beside the components ------------------------------------------------------


@pytest.mark.parametrize("family", ["ltx", "mochi"])
def test_keys_of_pipelines_are_kept_to_too(family: str, tmp_path: Path) -> None:
    case = references.case(references.cases(family)[0], family)
    checkpoint = case.copy_checkpoint(tmp_path)
    edit_json(
        checkpoint / "model_index.json", requires_safety_checker=False, _note=1, image_encoder=[None, None]
    )
    model = ModelOptions(id=str(checkpoint), variant=case.variant)
    find_family(open_model_checkpoint(model)).read_configs(open_model_checkpoint(model))
    edit_json(checkpoint / "model_index.json", force_zeros_for_empty_prompt=True)
    opened = open_model_checkpoint(model)
    if family == "mochi":
        assert find_family(opened).read_configs(opened).index.force_zeros_for_empty_prompt
    else:
        told = r"config of model_index.json: force_zeros_for_empty_prompt is True; allowed is False"
        with pytest.raises(Refused, match=rf"^{checkpoint}/model_index.json: {told}$"):
            find_family(opened).read_configs(opened)


# --- keys that nobody knows --------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> ModelOptions:
    """A checkpoint with keys that no release of the reference knows."""
    checkpoint = references.case("2b").copy_checkpoint(tmp_path)
    edit_json(checkpoint / "transformer" / "config.json", use_magic=True, magic_off=False)
    edit_json(checkpoint / "vae" / "config.json", magic_scale=2.5)
    edit_json(checkpoint / "text_encoder" / "config.json", magic={"depth": 3})
    edit_json(checkpoint / "model_index.json", is_magic=True)
    checkpoints._warn_once.cache_clear()
    return ModelOptions(id=str(checkpoint))


def test_they_are_told_once_and_not_by_workers(odd: ModelOptions, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_model(odd, "cpu")
        open_model(odd, "cpu")
    told = {
        "model_index.json": "model_index.json: unknown key is_magic, which is not used (its value is True)",
        "text_encoder/config.json": "T5EncoderModel: unknown key magic, which is not used (its value is "
        "{'depth': 3})",
        "transformer/config.json": "CogVideoXTransformer3DModel: unknown key use_magic, which is not used "
        "(its value is True)",
        "vae/config.json": "AutoencoderKLCogVideoX: unknown key magic_scale, which is not used (its value "
        "is 2.5)",
    }
    assert sorted(caplog.messages) == [f"{odd.id}/{file}: config of {line}" for file, line in told.items()]
    checkpoints._warn_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_model(odd)
    assert caplog.messages == []


@pytest.mark.parametrize("family", [family.key for family in FAMILIES])
def test_reference_checkpoints_are_read_without_a_word(family: str) -> None:
    for name in references.cases(family):
        opened = open_model_checkpoint(references.case(name, family).model)
        assert find_family(opened).unknown_keys(opened) == []
