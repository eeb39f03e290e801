import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.references import case, cases, largest_difference
from vidgen_dist import nn
from vidgen_dist.encoders import t5
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.encoders.t5 import T5Encoder, relative_buckets
from vidgen_dist.errors import Refused
from vidgen_dist.weights.load import load_weights

TINY = {"vocab_size": 20, "d_model": 8, "d_kv": 6, "d_ff": 10, "num_layers": 2, "num_heads": 3}


def folder_of(name, family="cogvideox"):
    return case(name, family).checkpoint / "text_encoder"


def loaded(name, folder=None, family="cogvideox"):
    folder = folder or folder_of(name, family)
    raw = json.loads((folder_of(name, family) / "config.json").read_text(encoding="utf-8"))
    model = T5Encoder(T5Config.read(raw))
    load_weights(model, folder, variant=case(name, family).variant, rename=model.own_key)
    return model


def tiny(**changes):
    """A model with random weights, and the weights in float64."""
    model = T5Encoder(T5Config.read({**TINY, **changes}))
    rng = np.random.default_rng(0)
    weights = {}
    for key, parameter in nn.named_parameters(model).items():
        values = (0.5 * rng.standard_normal(parameter.shape)).astype(np.float32)
        parameter.set_data(nn.from_numpy(values))
        weights[key] = values.astype(np.float64)
    return model, weights


def encode(model, ids, mask=None):
    return nn.to_numpy(model(nn.from_numpy(np.asarray(ids)), mask))


# Against transformers. -------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("name", cases())
def test_parity(name, prompt):
    pieces = case(name).pieces
    ours = encode(loaded(name), pieces[f"text_encoder.{prompt}.input_ids"])
    difference = largest_difference(ours, pieces[f"text_encoder.{prompt}.output"])
    print(f"T5 {name}, {prompt}: largest difference {difference:.2e}")
    # Scores are not scaled by the head's width, so that softmax magnifies float32's rounding.
    assert difference < 5e-5


def test_parity_with_mask():
    """Two prompts in a batch; the second one is only the end token."""
    pieces = case("0.9.0", "ltx").pieces
    ids, mask, output = (pieces[f"text_encoder.masked.{key}"] for key in ("input_ids", "mask", "output"))
    assert mask.sum(1).tolist()[1] == 1
    ours = encode(loaded("0.9.0", family="ltx"), ids, mask)
    difference = largest_difference(ours, output)
    print(f"T5 with mask: largest difference {difference:.2e}")
    assert difference < 5e-5
    assert largest_difference(encode(loaded("0.9.0", family="ltx"), ids), output) > 1e-3


def test_every_parameter_is_used():
    model, ids = loaded("2b"), case("2b").pieces["text_encoder.prompt.input_ids"]
    before = encode(model, ids)
    rng = np.random.default_rng(0)
    for key, parameter in nn.named_parameters(model).items():
        kept = nn.to_numpy(parameter).copy()
        parameter.set_data(nn.from_numpy(kept + rng.standard_normal(kept.shape).astype(np.float32)))
        assert largest_difference(encode(model, ids), before) > 1e-4, key
        parameter.set_data(nn.from_numpy(kept))
    np.testing.assert_array_equal(encode(model, ids), before)


# The formulas. ---------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


FEED_FORWARD = {
    "relu": lambda h, w: np.maximum(h @ w["wi"].T, 0),
    "gated-relu": lambda h, w: np.maximum(h @ w["wi_0"].T, 0) * (h @ w["wi_1"].T),
    "gated-gelu": lambda h, w: gelu_new(h @ w["wi_0"].T) * (h @ w["wi_1"].T),
    "gelu_new": lambda h, w: gelu_new(h @ w["wi"].T),
    "gated-silu": lambda h, w: (h @ w["wi_0"].T) / (1 + np.exp(-h @ w["wi_0"].T)) * (h @ w["wi_1"].T),
}


def gelu_new(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def written_out(weights, config, ids, keep):
    """The encoder of one sentence, as the paper writes it, in float64."""
    heads, size, eps = config["num_heads"], config["d_kv"], config["layer_norm_epsilon"]
    buckets = relative_buckets(len(ids), 32, 128)
    bias = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][buckets]
    hidden = weights["shared.weight"][ids]
    for index in range(config["num_layers"]):
        layer = {
            key.removeprefix(f"encoder.block.{index}.layer.").removesuffix(".weight"): value
            for key, value in weights.items()
            if key.startswith(f"encoder.block.{index}.")
        }
        x = rms_norm(hidden, layer["0.layer_norm"], eps)
        mixed = []
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            q, k, v = (x @ layer[f"0.SelfAttention.{name}"][rows].T for name in "qkv")
            scores = np.exp(q @ k.T + bias[:, :, head]) * keep
            mixed.append(scores / scores.sum(-1, keepdims=True) @ v)
        hidden = hidden + np.concatenate(mixed, -1) @ layer["0.SelfAttention.o"].T
        ff = {key.removeprefix("1.DenseReluDense."): value for key, value in layer.items()}
        x = rms_norm(hidden, layer["1.layer_norm"], eps)
        hidden = hidden + FEED_FORWARD[config["feed_forward_proj"]](x, ff) @ ff["wo"].T
    return rms_norm(hidden, weights["encoder.final_layer_norm.weight"], eps)


@pytest.mark.parametrize("kind", FEED_FORWARD)
def test_each_feed_forward_with_and_without_mask(kind):
    config = {**TINY, "feed_forward_proj": kind, "layer_norm_epsilon": 1e-3}
    model, weights = tiny(feed_forward_proj=kind, layer_norm_epsilon=1e-3)
    ids = np.random.default_rng(1).integers(0, 20, (2, 30))
    keep = np.ones((2, 30))
    keep[0, 17:] = keep[1, 3:5] = 0
    for mask in (None, keep):
        ours = encode(model, ids, mask)
        for sentence in range(2):
            seen = np.ones(30) if mask is None else keep[sentence]
            expected = written_out(weights, config, ids[sentence], seen)
            np.testing.assert_allclose(ours[sentence], expected, atol=2e-5)


def test_the_configs_own_activation_wins():
    """transformers writes and reads `dense_act_fn` and `is_gated_act` in addition to `feed_forward_proj`."""
    gated = {**TINY, "feed_forward_proj": "gated-gelu"}
    keys = set(nn.named_parameters(T5Encoder(T5Config.read({**gated, "is_gated_act": False}))))
    assert "encoder.block.0.layer.1.DenseReluDense.wi.weight" in keys
    assert T5Config.read(gated).activation == "gelu_new"
    assert T5Config.read({**gated, "dense_act_fn": "silu"}).activation == "silu"


def test_relative_buckets():
    buckets = relative_buckets(200, 32, 128)
    assert buckets.shape == (200, 200)
    assert buckets.dtype == np.int32
    # Keys before the query: one bucket a distance up to 7, then 8 * 16^(n / 8), then the last from 128 on.
    before = buckets[199, ::-1]
    np.testing.assert_array_equal(before[:8], np.arange(8))
    assert [int(np.argmax(before == n)) for n in range(8, 16)] == [8, 12, 16, 23, 32, 46, 64, 91]
    assert (before[128:] == 15).all()
    # Keys after it: the same, 16 further on.
    np.testing.assert_array_equal(buckets[0, 1:], before[1:] + 16)
    np.testing.assert_array_equal(buckets[50, 40:61], buckets[100, 90:111])


def test_float16_does_not_overflow():
    hidden = nn.from_numpy(np.array([1.0, 65504, np.inf, -np.inf], np.float16))
    np.testing.assert_array_equal(nn.to_numpy(t5._finite(hidden)), [1, 64512, 64512, -64512])


# Checkpoints. ----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["shared"], ["encoder.embed_tokens"], ["shared", "encoder.embed_tokens"]])
def test_the_token_table_goes_by_either_name(tmp_path, names):
    weights = load_file(folder_of("2b") / "model.safetensors")
    table = weights.pop("shared.weight")
    weights |= {f"{name}.weight": table.copy() for name in names}
    # The decoder of a whole T5 is skipped.
    weights |= {"decoder.block.0.layer.0.SelfAttention.q.weight": table, "lm_head.weight": table}
    save_file(weights, tmp_path / "model.safetensors")
    model = loaded("2b", tmp_path)
    assert "encoder.embed_tokens.weight" not in nn.named_parameters(model)
    pieces = case("2b").pieces
    difference = largest_difference(
        encode(model, pieces["text_encoder.prompt.input_ids"]), pieces["text_encoder.prompt.output"]
    )
    assert difference < 2e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"feed_forward_proj": "gated-snake"},
            "feed_forward_proj is 'gated-snake'; allowed is an activation among",
        ),
        (
            {"feed_forward_proj": "a-relu"},
            "feed_forward_proj is 'a-relu'; allowed is an activation or gated-",
        ),
        ({"feed_forward_proj": "gated-a-relu"}, "feed_forward_proj is 'gated-a-relu'"),
        ({"dense_act_fn": "snake"}, "dense_act_fn is 'snake'; allowed is one of relu"),
        ({"model_type": "umt5"}, "model_type is 'umt5'; allowed is one of t5, mt5"),
        ({"num_heads": "3"}, "num_heads is '3'; allowed is a whole number"),
        ({"num_layers": 0}, "num_layers is 0; allowed is a whole number from 1"),
        ({"relative_attention_num_buckets": 7}, "relative_attention_num_buckets is 7"),
        (
            {"relative_attention_max_distance": 8},
            "relative_attention_max_distance is 8; allowed is 9 or more",
        ),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon is -1; allowed is a number from 0"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_its_key(changes, message):
    with pytest.raises(Refused, match=f"^config of T5EncoderModel: {message}"):
        T5Config.read({**TINY, **changes})


def test_transformers_common_names_of_keys_are_read():
    names = {"hidden_size": 8, "num_attention_heads": 3, "num_hidden_layers": 2, "head_dim": 6}
    plain = {key: value for key, value in TINY.items() if key in ("vocab_size", "d_ff")}
    assert T5Config.read({**plain, **names}) == T5Config.read({**TINY, **names}) == T5Config.read(TINY)
    with pytest.raises(Refused, match=r"hidden_size is 9; allowed is 8, as d_model is; or leave it out$"):
        T5Config.read({**TINY, "hidden_size": 9})


@pytest.mark.parametrize("key", ["is_decoder", "pruned_heads"])
def test_what_would_make_another_model_of_it_is_refused(key):
    with pytest.raises(Refused, match=f"^config of T5EncoderModel: {key} is "):
        T5Config.read({**TINY, key: {"0": [1]} if key == "pruned_heads" else True})


def test_keys_of_transformers_5_are_read_without_a_word():
    raw = {
        **TINY,
        "dtype": "bfloat16",
        "is_decoder": False,
        "scale_decoder_outputs": False,
        "output_past": True,
    }
    assert T5Config.read({**raw, "transformers_version": "5.24.0"}) == T5Config.read(TINY)
    assert T5Config.unknown(raw) == {}
