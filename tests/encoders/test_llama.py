"""LLaMA as a text encoder: parity with transformers, what is left out, refusals."""

import json
import re
from typing import ClassVar

import numpy as np
import pytest
from pydantic.dataclasses import dataclass

from tests.references import case, cases, largest_difference
from vidgen_dist import nn
from vidgen_dist.component_config import STRICT
from vidgen_dist.encoders.config import LlamaConfig
from vidgen_dist.encoders.llama import LlamaEncoder
from vidgen_dist.errors import Refused
from vidgen_dist.weights.load import load_weights

FAMILY = "hunyuan_video"
TINY = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 10,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPTS = [
    (name, key.split(".")[1])
    for name in cases(FAMILY)
    for key in case(name, FAMILY).pieces
    if key.startswith("text_encoder.") and key.endswith(".output")
]


@dataclass(frozen=True, config=STRICT)
class TextConfig(LlamaConfig):
    """The weights of an encoder whose last two blocks are not used."""

    UNUSED_LAYERS: ClassVar = 2


def loaded(name):
    folder = case(name, FAMILY).checkpoint / "text_encoder"
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = LlamaEncoder(TextConfig.read(raw))
    load_weights(model, folder, variant=case(name, FAMILY).variant, rename=model.own_key)
    return model


def inputs_of(name, prompt):
    pieces = case(name, FAMILY).pieces
    return [pieces[f"text_encoder.{prompt}.{key}"] for key in ("input_ids", "attention_mask")]


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_parity(name, prompt):
    ours = nn.to_numpy(loaded(name)(*inputs_of(name, prompt)))
    difference = largest_difference(ours, case(name, FAMILY).pieces[f"text_encoder.{prompt}.output"])
    print(f"LLaMA {name}, {prompt}: largest difference {difference:.2e}")
    assert difference < 2e-5


def test_no_token_sees_a_later_one_or_padding():
    model = loaded("t2v")
    ids, mask = np.array([[5, 6, 7, 8, 9]]), np.array([[1, 1, 0, 1, 1]])
    before = nn.to_numpy(model(ids, mask))
    later = ids.copy()
    later[0, 4] = 10
    np.testing.assert_array_equal(nn.to_numpy(model(later, mask))[:, :4], before[:, :4])
    padding = ids.copy()
    padding[0, 2] = 11
    changed = nn.to_numpy(model(padding, mask)) != before
    assert changed[0, 2].any()
    assert not changed[0, [0, 1, 3, 4]].any()


def test_blocks_that_are_not_run_are_not_loaded():
    model = LlamaEncoder(TextConfig.read(TINY))
    assert len(model.layers) == 1
    assert model.own_key("layers.0.mlp.up_proj.weight") == "layers.0.mlp.up_proj.weight"
    assert model.own_key("model.embed_tokens.weight") == "embed_tokens.weight"
    for key in ("layers.1.mlp.up_proj.weight", "layers.0.self_attn.rotary_emb.inv_freq", "norm.weight"):
        assert model.own_key(key) is None
    assert model.own_key("lm_head.weight") is None


def test_of_two_blocks_none_is_run():
    model = LlamaEncoder(TextConfig.read({**TINY, "num_hidden_layers": 2}))
    assert nn.named_parameters(model).keys() == {"embed_tokens.weight"}
    table = np.arange(320, dtype=np.float32).reshape(20, 16)
    model.embed_tokens.weight.set_data(nn.from_numpy(table))
    ids = np.array([[3, 5]])
    np.testing.assert_array_equal(nn.to_numpy(model(ids, np.ones_like(ids))), table[ids])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1; allowed is 2 or more"),
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads is 3; allowed is a divisor of num_attention_heads, 4",
        ),
        ({"hidden_size": 18}, "hidden_size is 18; allowed is a multiple of num_attention_heads, 4"),
        ({"head_dim": 5}, "head_dim is 5; allowed is a value that gives heads of an even width"),
        ({"hidden_act": "snake"}, "hidden_act is 'snake'; allowed is one of relu,"),
        ({"vocab_size": 0}, "vocab_size is 0; allowed is a whole number from 1"),
        *(
            ({key: {"factor": 8.0, name: kind, "rope_theta": 5e5}}, f"{key} is .* is default, not {kind}$")
            for key in ("rope_scaling", "rope_parameters")
            for name, kind in (("rope_type", "llama3"), ("type", "linear"), ("rope_type", "yarn"))
        ),
        *(
            ({key: value}, f"{key} is {re.escape(repr(value))}; allowed is an object or null$")
            for key in ("rope_scaling", "rope_parameters")
            for value in ("linear", 2.0, ["linear"], True)
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5e5}}}, "rope_parameters .*for all layers"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling is .* for all layers"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters .*partial_rotary_factor is 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; allowed is 1.0"),
        ({"is_causal": False}, "is_causal is False; allowed is True"),
        ({"rope_parameters": {"rope_theta": "5e5"}}, "rope_theta is '5e5'; allowed is a number"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta is 10000.0; allowed is 500000.0, as rope_parameters.rope_theta is; or leave it out",
        ),
        (
            {"rope_scaling": {"rope_theta": 1e4}, "rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters.rope_theta is 500000.0; allowed is 10000.0, as rope_scaling.rope_theta is",
        ),
        ({"per_layer_config": {"0": {"hidden_act": "gelu"}}}, "per_layer_config is .*; allowed is null"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is .*; allowed is null"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'; allowed is a number from 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of LlamaModel: {message}"):
        TextConfig.read({**TINY, **changes})


def test_positions_that_need_no_scaling_are_taken():
    assert TextConfig.read({**TINY, "rope_scaling": {"rope_type": "default"}}).layers == 1


@pytest.mark.parametrize(
    "spelled",
    [
        {"rope_theta": 500000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 500000.0}},
        {"rope_parameters": {"rope_theta": 500000.0, "partial_rotary_factor": 1.0}},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "rope_theta": 500000},
        {"rope_theta": 500000.0, "rope_parameters": None},
        {"rope_theta": 500000.0, "rope_parameters": {"type": "default"}},
        {"rope_scaling": {"rope_theta": 500000.0}},
        {"model_type": "llava", "text_config": {"model_type": "llama", "rope_theta": 500000.0, **TINY}},
    ],
)
def test_the_base_of_positions_is_read_as_transformers_4_and_5_spell_it(spelled):
    read = TextConfig.read({**TINY, **spelled})
    assert (read.rope_theta, read.vocab_size) == (500000.0, TINY["vocab_size"])
    assert TextConfig.unknown({**TINY, **spelled}) == {}
    assert TextConfig.read(TINY).rope_theta == 10000.0
