"""Every layout of a LoRA's file gives the same sums as the same LoRA in diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vidgen_dist.errors import Refused
from vidgen_dist.families import FAMILIES
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.lora.files import open_lora
from vidgen_dist.weights.lora.fit import Weights, fit_loras

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Module -> A (r, in) and B (out, r)."""

WIDTH, RANK = 6, 2
SHAPES = {
    "cogvideox": {
        "transformer": {"transformer_blocks.0.attn1.to_q": 6, "transformer_blocks.0.attn1.to_out.0": 6},
        "text_encoder": {"encoder.block.0.layer.0.SelfAttention.q": 4},
    },
    "animatediff": {
        "unet": {
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 6,
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": 6,
            "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_k": 6,
        },
        "text_encoder": {
            "text_model.encoder.layers.0.self_attn.q_proj": 6,
            "text_model.encoder.layers.0.self_attn.out_proj": 6,
            "text_model.encoder.layers.0.mlp.fc1": 8,
        },
    },
    "ltx": {"transformer": {"proj_in": 6, "time_embed.linear": 12, "transformer_blocks.0.attn1.to_v": 6}},
    "hunyuan_video": {
        "transformer": {
            "transformer_blocks.0.attn.to_q": 6,
            "transformer_blocks.0.attn.to_k": 6,
            "transformer_blocks.0.attn.to_v": 6,
            "transformer_blocks.0.ff_context.net.2": 6,
            "single_transformer_blocks.1.attn.to_q": 6,
            "single_transformer_blocks.1.attn.to_k": 6,
            "single_transformer_blocks.1.attn.to_v": 6,
            "single_transformer_blocks.1.proj_mlp": 24,
            "single_transformer_blocks.1.proj_out": 6,
            "norm_out.linear": 12,
        },
        "text_encoder_2": {"text_model.encoder.layers.0.self_attn.q_proj": 6},
    },
}
"""Output widths of some modules of each family, by component; all have `WIDTH` inputs."""


def weights_of(family: str) -> dict[str, Weights]:
    (known,) = (known for known in FAMILIES if known.key == family)
    names = known.original_names.load() if known.original_names else lambda _: None
    found = {}
    for component, modules in SHAPES[family].items():
        keys = [f"{name}.{kind}" for name in modules for kind in ("weight", "bias")]
        shapes = {f"{name}.weight": (out, WIDTH) for name, out in modules.items()}
        shapes |= {f"{name}.bias": (out,) for name, out in modules.items()}
        original = names if component == known.denoiser else lambda _: None
        found[component] = Weights({key: key for key in keys}, shapes, original)
    return found


def added(family: str, path: Path, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What a file adds to each parameter, by component and name."""
    (known,) = (known for known in FAMILIES if known.key == family)
    lora = open_lora(LoraOptions(id=str(path), scale=scale))
    found = fit_loras([lora], weights_of(family), known.denoiser)
    return {
        f"{component}.{name}": sum(term.added(None) for term in terms)
        for component, of_component in found.items()
        for name, terms in of_component.items()
    }


def pairs_of(family: str) -> dict[str, Pairs]:
    rng = np.random.default_rng(3)

    def pair(out: int) -> tuple[np.ndarray, np.ndarray]:
        return (
            rng.standard_normal((RANK, WIDTH)).astype(np.float32),
            rng.standard_normal((out, RANK)).astype(np.float32),
        )

    return {
        component: {name: pair(out) for name, out in modules.items()}
        for component, modules in SHAPES[family].items()
    }


def expected(pairs: Mapping[str, Pairs], scale: float = 1.0) -> dict[str, np.ndarray]:
    return {
        f"{component}.{name}.weight": np.float32(scale) * (up @ down)
        for component, of_component in pairs.items()
        for name, (down, up) in of_component.items()
    }


def check(actual: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert actual.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def save(path: Path, tensors: Mapping[str, np.ndarray], **settings: str) -> Path:
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path, metadata=settings)
    return path


Keys = Callable[[str, str], tuple[str, str]]
"""From component and module, the keys of A and B."""

OLD_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}


def old_processors(component: str, name: str) -> tuple[str, str]:
    """diffusers' layout of 2023: of attention processors, and of text encoders patched for LoRA."""
    for new, old in OLD_NAMES.items():
        if name.endswith(f".{new}"):
            name = f"{name.removesuffix(new)}{old}"
    if component == "unet" and not name.endswith((".fc1", "_proj")):
        parent, _, last = name.rpartition(".")
        return (
            f"unet.{parent}.processor.{last}_lora.down.weight",
            f"unet.{parent}.processor.{last}_lora.up.weight",
        )
    if name.rpartition(".")[2].startswith("to_"):
        return f"{component}.{name}_lora.down.weight", f"{component}.{name}_lora.up.weight"
    linear = f"{component}.{name}.lora_linear_layer"
    return f"{linear}.down.weight", f"{linear}.up.weight"


LAYOUTS: dict[str, Keys] = {
    "diffusers": lambda c, n: (f"{c}.{n}.lora_A.weight", f"{c}.{n}.lora_B.weight"),
    "adapter's name": lambda c, n: (f"{c}.{n}.lora_A.default.weight", f"{c}.{n}.lora_B.default.weight"),
    "up and down": lambda c, n: (f"{c}.{n}.lora.down.weight", f"{c}.{n}.lora.up.weight"),
    "processors": old_processors,
}
OF_DENOISER: dict[str, Keys] = {
    "PEFT": lambda _, n: (f"base_model.model.{n}.lora_A.weight", f"base_model.model.{n}.lora_B.weight"),
    "ComfyUI": lambda _, n: (f"diffusion_model.{n}.lora_A.weight", f"diffusion_model.{n}.lora_B.weight"),
    "trainer": lambda _, n: (f"diffusion_model.{n}.lora_down.weight", f"diffusion_model.{n}.lora_up.weight"),
    "no prefix": lambda _, n: (f"{n}.lora_A.weight", f"{n}.lora_B.weight"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", SHAPES)
def test_layouts_with_a_components_name(family: str, layout: str, tmp_path: Path) -> None:
    pairs = pairs_of(family)
    tensors = {}
    for component, of_component in pairs.items():
        for name, pair in of_component.items():
            tensors.update(zip(LAYOUTS[layout](component, name), pair, strict=True))
    check(added(family, save(tmp_path / "lora.safetensors", tensors), 0.7), expected(pairs, 0.7))


@pytest.mark.parametrize("layout", OF_DENOISER)
@pytest.mark.parametrize("family", SHAPES)
def test_layouts_of_the_denoiser_alone(family: str, layout: str, tmp_path: Path) -> None:
    component, of_denoiser = next(iter(pairs_of(family).items()))
    tensors = {}
    for name, pair in of_denoiser.items():
        tensors.update(zip(OF_DENOISER[layout](component, name), pair, strict=True))
    path = save(tmp_path / "lora.safetensors", tensors)
    check(added(family, path), expected({component: of_denoiser}))


@pytest.mark.parametrize("family", SHAPES)
def test_kohyas_layout_with_alpha(family: str, tmp_path: Path) -> None:
    pairs = pairs_of(family)
    prefixes = {"text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
    tensors = {}
    for component, of_component in pairs.items():
        for name, (down, up) in of_component.items():
            key = f"{prefixes.get(component, 'lora_unet')}_{name.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = np.array(3.0, np.float32)
    check(added(family, save(tmp_path / "lora.safetensors", tensors), -0.5), expected(pairs, -0.5 * 3 / RANK))


HUNYUAN = {
    "double_blocks.0.img_attn_qkv": [f"transformer_blocks.0.attn.to_{kind}" for kind in "qkv"],
    "double_blocks.0.txt_mlp.fc2": ["transformer_blocks.0.ff_context.net.2"],
    "single_blocks.1.linear1": [
        *(f"single_transformer_blocks.1.attn.to_{kind}" for kind in "qkv"),
        "single_transformer_blocks.1.proj_mlp",
    ],
    "single_blocks.1.linear2": ["single_transformer_blocks.1.proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}


@pytest.mark.parametrize("underscored", [False, True], ids=["original", "musubi"])
def test_hunyuan_videos_original_names(underscored: bool, tmp_path: Path) -> None:
    shapes = SHAPES["hunyuan_video"]["transformer"]
    rng = np.random.default_rng(4)
    tensors: dict[str, np.ndarray] = {}
    wanted: dict[str, np.ndarray] = {}
    for original, ours in HUNYUAN.items():
        down = rng.standard_normal((RANK, WIDTH)).astype(np.float32)
        ups = [rng.standard_normal((shapes[name], RANK)).astype(np.float32) for name in ours]
        for name, up in zip(ours, ups, strict=True):
            wanted[f"transformer.{name}.weight"] = up @ down
        if original.startswith("final_layer"):
            # The original has the shift first, diffusers the scale.
            scale, shift = np.split(ups[0], 2)
            ups = [shift, scale]
        whole = np.concatenate(ups)
        if underscored:
            key = f"lora_unet_{original.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": whole}
            tensors[f"{key}.alpha"] = np.array(RANK, np.float32)
        else:
            tensors |= {f"transformer.{original}.lora_A.weight": down}
            tensors |= {f"transformer.{original}.lora_B.weight": whole}
    check(added("hunyuan_video", save(tmp_path / "lora.safetensors", tensors)), wanted)


def test_a_part_of_the_rows_is_that_part_of_all(tmp_path: Path) -> None:
    """A rank of a gang reads only its rows, here of a module that is one of three."""
    up, down = np.arange(36, dtype=np.float32).reshape(18, 2), np.ones((2, WIDTH), np.float32)
    path = save(
        tmp_path / "lora.safetensors",
        {
            "double_blocks.0.img_attn_qkv.lora_A.weight": down,
            "double_blocks.0.img_attn_qkv.lora_B.weight": up,
        },
    )
    terms = fit_loras([open_lora(LoraOptions(id=str(path)))], weights_of("hunyuan_video"), "transformer")
    (term,) = terms["transformer"]["transformer_blocks.0.attn.to_k.weight"]
    np.testing.assert_array_equal(term.added(slice(2, 5)), (up @ down)[8:11])


def test_ltx_videos_original_names(tmp_path: Path) -> None:
    pairs = pairs_of("ltx")
    theirs = {"proj_in": "patchify_proj", "time_embed.linear": "adaln_single.linear"}
    tensors = {}
    for name, pair in pairs["transformer"].items():
        key = f"diffusion_model.{theirs.get(name, name)}"
        tensors.update(zip((f"{key}.lora_A.weight", f"{key}.lora_B.weight"), pair, strict=True))
    check(added("ltx", save(tmp_path / "lora.safetensors", tensors)), expected(pairs))


def test_animatediffs_original_names(tmp_path: Path) -> None:
    ours = "down_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_k"
    key = (
        "down_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor."
        "to_k_lora"
    )
    down, up = pairs_of("animatediff")["unet"][ours]
    path = save(tmp_path / "lora.safetensors", {f"{key}.down.weight": down, f"{key}.up.weight": up})
    check(added("animatediff", path), expected({"unet": {ours: (down, up)}}))


def test_settings_in_the_metadata_and_beside_the_file(tmp_path: Path) -> None:
    pairs = {"transformer": pairs_of("hunyuan_video")["transformer"]}
    tensors = {}
    for name, pair in pairs["transformer"].items():
        tensors.update(zip(LAYOUTS["diffusers"]("transformer", name), pair, strict=True))
    pattern = r'{"to_q": 8, "transformer_blocks\\.\\d+\\.attn\\.to_k": 6}'
    plain = {"lora_alpha": "4", "use_rslora": "true", "alpha_pattern": pattern}
    metadata = ", ".join(f'"transformer.{key}": {value}' for key, value in plain.items())
    beside = ", ".join(f'"{key}": {value}' for key, value in plain.items())
    (tmp_path / "adapter_config.json").write_text(f"{{{beside}}}")
    wanted = expected(pairs)
    for name, values in wanted.items():
        alpha = {"to_q": 8, "to_k": 6 if "single" not in name else 4}.get(name.split(".")[-2], 4)
        wanted[name] = values * np.float32(alpha / RANK**0.5)
    check(
        added(
            "hunyuan_video",
            save(tmp_path / "one.safetensors", tensors, lora_adapter_metadata=f"{{{metadata}}}"),
        ),
        wanted,
    )
    save(tmp_path / "adapter_model.safetensors", tensors)
    check(added("hunyuan_video", tmp_path / "adapter_model.safetensors"), wanted)


def test_differences_and_biases(tmp_path: Path) -> None:
    name, out = "transformer_blocks.0.attn1.to_q", 6
    down, up = pairs_of("cogvideox")["transformer"][name]
    rng = np.random.default_rng(1)
    whole, bias, of_pair = (
        rng.standard_normal((out, WIDTH)),
        rng.standard_normal(out),
        rng.standard_normal(out),
    )
    key = f"diffusion_model.{name}"
    tensors = {
        f"{key}.diff": whole.astype(np.float32),
        f"{key}.diff_b": bias.astype(np.float32),
        f"{key}.lora_down.weight": down,
        f"{key}.lora_up.weight": up,
        f"{key}.lora_B.bias": of_pair.astype(np.float32),
        f"{key}.alpha": np.array(1.0, np.float32),
    }
    wanted = {
        f"transformer.{name}.weight": 0.5 * (up @ down / RANK + whole),
        f"transformer.{name}.bias": 0.5 * (of_pair / RANK + bias)[:, None],
    }
    check(added("cogvideox", save(tmp_path / "lora.safetensors", tensors), 0.5), wanted)


A, B = np.ones((RANK, WIDTH), np.float32), np.ones((6, RANK), np.float32)
Q = "transformer.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({f"{Q}.lora_A.weight": A}, "to_q.lora_A.weight is there, but the up matrix"),
        ({f"{Q}.alpha": A}, "to_q.alpha is there, but no pair"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, f"{Q}.dora_scale": B}, "dora_scale: DoRA is not"),
        ({f"{Q}.hada_w1_a": B}, "hada_w1_a: LoHa is not supported"),
        ({f"{Q}.lokr_w1": B}, "LoKr"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B[:5]}, r"\(5, 2\).*\(2, 6\).*\(6, 6\)"),
        ({f"{Q}.lora_A.weight": A[:1], f"{Q}.lora_B.weight": B}, r"\(6, 2\).*\(1, 6\)"),
        (
            {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, "transformer.other.lora_A.weight": A}
            | {"transformer.other.lora_B.weight": B, "unet.x.diff": A},
            "3 of its 5 keys fit nothing.*other.lora_A.weight.*unet.x.diff.*--lora-ignore-unknown",
        ),
        ({"lora_unet_input_blocks_1_1.lora_down.weight": A, "lora_unet_input_blocks_1_1.lora_up.weight": B},
         "none of its 2 keys fits the model.*another model"),
        ({"something": A}, "none of its 1 keys"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_refused(tensors: dict[str, np.ndarray], told: str, tmp_path: Path) -> None:
    path = save(tmp_path / "lora.safetensors", tensors)
    with pytest.raises(Refused, match=f"(?s)lora.safetensors.*{told}"):
        added("cogvideox", path)


def test_unknown_keys_can_be_left_out(tmp_path: Path) -> None:
    tensors = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B, "vae.x.diff": A}
    lora = open_lora(LoraOptions(id=str(save(tmp_path / "lora.safetensors", tensors))))
    found = fit_loras([lora], weights_of("cogvideox"), "transformer", ignore_unknown=True)
    assert list(found["transformer"]) == ["transformer_blocks.0.attn1.to_q.weight"]


def test_dora_in_the_settings_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "lora.safetensors",
        {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B},
        lora_adapter_metadata='{"transformer.use_dora": true}',
    )
    with pytest.raises(Refused, match="use_dora"):
        added("cogvideox", path)
