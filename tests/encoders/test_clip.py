"""CLIP's text encoder: parity with transformers, where a prompt ends, refusals."""

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.families import tiny
from tests.references import case, cases, largest_difference
from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder, end_positions
from vidgen_dist.encoders.config import ClipTextConfig, ClipVisionConfig
from vidgen_dist.errors import Refused
from vidgen_dist.weights.load import load_weights

FAMILY = "hunyuan_video"
TINY = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 10,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
PROMPTS = [
    (name, key.split(".")[1])
    for name in cases(FAMILY)
    for key in case(name, FAMILY).pieces
    if key.startswith("text_encoder_2.") and key.endswith(".pooled")
]


def loaded(name):
    return tiny.loaded(CLIPTextEncoder, case(name, FAMILY), "text_encoder_2")


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_parity(name, prompt):
    pieces = case(name, FAMILY).pieces
    output = loaded(name)(pieces[f"text_encoder_2.{prompt}.input_ids"])
    for part in ("hidden", "pooled"):
        expected = pieces[f"text_encoder_2.{prompt}.{part}"]
        difference = largest_difference(nn.to_numpy(getattr(output, part)), expected)
        print(f"CLIP {name}, {prompt}, {part}: largest difference {difference:.2e}")
        assert difference < 2e-5


def test_the_end_of_a_prompt():
    ids = np.array([[18, 5, 6, 19, 19, 3], [18, 19, 0, 0, 19, 0]])
    assert end_positions(ids, 19) == [3, 1]
    # In old configs with a mistake it is the highest id.
    assert end_positions(np.array([[18, 5, 2, 19, 7]]), 2) == [3]


def test_pooled_is_the_end_tokens():
    output = loaded("odd")(np.array([[5, 6, 7], [8, 9, 5]]))
    np.testing.assert_array_equal(nn.to_numpy(output.pooled), nn.to_numpy(output.hidden)[:, 0])


def test_a_table_of_positions_is_left_out():
    own_key = CLIPTextEncoder(ClipTextConfig.read(TINY)).own_key
    assert own_key("text_model.embeddings.position_ids") is None
    assert own_key("text_model.final_layer_norm.bias") == "text_model.final_layer_norm.bias"


def test_weights_as_transformers_5_names_them(tmp_path):
    folder = case("t2v", FAMILY).checkpoint / "text_encoder_2"
    stored = load((folder / "model.safetensors").read_bytes())
    named = {key.removeprefix("text_model."): value for key, value in stored.items()}
    assert not named.keys() & stored.keys()
    (tmp_path / "model.safetensors").write_bytes(save(named))
    model = CLIPTextEncoder(ClipTextConfig.read(json.loads((folder / "config.json").read_text())))
    load_weights(model, tmp_path, rename=model.own_key)
    for key, parameter in nn.named_parameters(model).items():
        np.testing.assert_array_equal(nn.to_numpy(parameter), stored[key], err_msg=key)


@pytest.mark.parametrize(
    ("kind", "part"), [(ClipTextConfig, "text_config"), (ClipVisionConfig, "vision_config")]
)
def test_a_config_of_both_encoders_has_a_part_for_each(kind, part):
    own = {"num_hidden_layers": 3, "hidden_act": "gelu", "model_type": kind.NAME}
    both = {"model_type": "clip", "projection_dim": 7, part: own, "num_hidden_layers": 5}
    assert kind.read(both) == kind.read(own)
    assert kind.unknown({**both, part: {**own, "magic": 1}}) == {"magic": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size is 16; allowed is a multiple of num_attention_heads, 3"),
        ({"hidden_act": "snake"}, "hidden_act is 'snake'; allowed is one of relu,"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; allowed is a whole number from 1"),
        ({"layer_norm_eps": -1}, "layer_norm_eps is -1; allowed is a number from 0"),
        ({"eos_token_id": None}, "eos_token_id is None; allowed is a whole number"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of CLIPTextModel: {message}"):
        ClipTextConfig.read({**TINY, **changes})
