"""Quantised weights are refused, and the message names the method; float8 without scales is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tests import references
from tests.weights.files import write_checkpoint
from vidgen_dist.component_config import Config
from vidgen_dist.errors import Refused
from vidgen_dist.families import FAMILIES
from vidgen_dist.families.family import TokenizerClass
from vidgen_dist.weights.checkpoint import INDEX, open_checkpoint
from vidgen_dist.weights.quantised import refuse_config, refuse_files, refuse_tensors
from vidgen_dist.weights.repository import open_component
from vidgen_dist.weights.tensors import TensorFiles

CONFIG = Path("transformer", "config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def add_to(path: Path, keys: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | keys), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "method"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "bitsandbytes"),
        (
            {"quantization_config": {"quant_method": "QuantizationMethod.BITS_AND_BYTES"}},
            "bitsandbytes",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"quant_method": "torchao", "quant_type": "int8wo"}}, "torchao"),
        ({"quantization_config": {"quant_method": "quanto", "weights_dtype": "int8"}}, "quanto"),
        ({"quantization_config": {"bits": 8}}, "a method that the checkpoint does not name"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"_load_in_4bit": True}, "bitsandbytes"),
        ({"bnb_4bit_compute_dtype": "float16"}, "bitsandbytes"),
        ({"quantization": "w8a8"}, "w8a8"),
        ({"use_fp8": True}, "fp8"),
        ({"gptq_bits": 4}, "gptq"),
        ({"bits": 4}, "a method that the checkpoint does not name"),
        ({"text_config": {"quantization_config": {"quant_method": "hqq"}}}, "hqq"),
    ],
)
@pytest.mark.parametrize("file", [str(CONFIG), INDEX])
def test_configs_name_the_method(folder: Path, file: str, keys: dict[str, Any], method: str) -> None:
    add_to(folder / file, keys)
    with pytest.raises(Refused) as refused:
        open_checkpoint(folder)
    told = str(refused.value)
    assert told.startswith(f"{folder / file}: ")
    assert f": the weights are quantised ({method}); allowed are float32" in told


@pytest.mark.parametrize("off", [None, {}, False, 0, ""])
def test_what_is_off_is_not_quantised(folder: Path, off: object) -> None:
    add_to(folder / CONFIG, {"quantization_config": off, "load_in_8bit": off})
    open_checkpoint(folder)


def test_a_motion_adapter_may_be_quantised_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "MotionAdapter", "load_in_8bit": true}')
    with pytest.raises(Refused, match=r"config.json: load_in_8bit is True: .*\(bitsandbytes\)"):
        open_component("adapter", str(tmp_path))


def test_no_key_that_is_read_or_known_is_taken_for_one() -> None:
    configs: dict[str, type[Config]] = {
        known.name: known.config
        for family in FAMILIES
        for component in family.components
        for known in component.takes
        if not isinstance(known, TokenizerClass)
    }
    for config in configs.values():
        refuse_config(config.NAME, dict.fromkeys(config.keys(), True))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("quantize_config.json", "GPTQ"),
        ("quant_config.json", "AWQ"),
        ("hf_quant_config.json", "ModelOpt"),
        ("quanto_qmap.json", "quanto"),
        ("quant_model_description.json", "msModelSlim"),
        ("quant_model_description_w8a8_dynamic.json", "msModelSlim"),
    ],
)
def test_files_beside_the_weights_name_the_method(folder: Path, name: str, method: str) -> None:
    (folder / "transformer" / name).write_text("{}")
    with pytest.raises(Refused, match=rf"transformer: {name}: the weights are quantised \({method}\)"):
        open_checkpoint(folder)


INT8, UINT8 = np.zeros((4, 3), np.int8), np.zeros((6, 1), np.uint8)
SCALE = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("tensors", "method"),
    [
        ({"q.weight": INT8, "q.SCB": SCALE}, "bitsandbytes in 8 bits"),
        (
            {"q.weight": UINT8, "q.weight.absmax": SCALE, "q.weight.quant_map": SCALE},
            "bitsandbytes in 4 bits",
        ),
        (
            {"q.weight": UINT8, "q.weight.quant_state.bitsandbytes__nf4": UINT8},
            "bitsandbytes in 4 bits",
        ),
        ({"q.qweight": INT8.astype(np.int32), "q.scales": SCALE, "q.g_idx": SCALE}, "GPTQ"),
        ({"q.qweight": INT8.astype(np.int32), "q.scales": SCALE, "q.qzeros": SCALE}, "AWQ or GPTQ"),
        ({"q.weight._data": INT8, "q.weight._scale": SCALE}, "quanto"),
        ({"q.weight": INT8, "q.weight_scale": SCALE}, "scales beside the weights"),
        ({"q.weight_packed": INT8.astype(np.int32), "q.weight_scale": SCALE}, "compressed-tensors"),
        ({"q.qweight": INT8, "q.wscales": SCALE, "q.smooth_factor": SCALE}, "SVDQuant"),
        ({"q.W_q": UINT8, "q.meta": SCALE}, "HQQ"),
        ({"q.weight": INT8, "q.weight_offset": SCALE, "q.weight_scale": SCALE}, "msModelSlim"),
        ({"q.weight": INT8}, "a method that the checkpoint does not name"),
        ({"q.weight": INT8.astype(np.int64)}, "a method that the checkpoint does not name"),
        ({"q.table": UINT8}, "a method that the checkpoint does not name"),
        (
            {"q.weight": np.zeros((4, 3), ml_dtypes.float8_e4m3fn), "q.scale_weight": SCALE},
            "ComfyUI's scaled float8",
        ),
        (
            {"q.weight": np.zeros((4, 3), ml_dtypes.float8_e4m3fn), "scaled_fp8": SCALE},
            "ComfyUI's scaled float8",
        ),
        (
            {"q.weight": np.zeros((4, 3), ml_dtypes.float8_e4m3fn), "q.weight_scale": SCALE},
            "scales beside the weights",
        ),
        (
            {"q.weight": np.zeros((4, 3), ml_dtypes.float8_e4m3fn), "q.weight_scale_inv": SCALE},
            "float8 in blocks",
        ),
    ],
)
def test_tensors_tell_where_no_config_does(folder: Path, tensors: dict[str, np.ndarray], method: str) -> None:
    save_file(tensors, folder / "text_encoder" / "model.safetensors")
    with pytest.raises(Refused) as refused:
        open_checkpoint(folder)
    told = str(refused.value)
    assert told.startswith(f"{folder / 'text_encoder' / 'model.safetensors'}: ")
    assert f": the weights are quantised ({method}); allowed are float32" in told


def test_what_a_config_says_comes_before_what_tensors_do(folder: Path) -> None:
    save_file({"q.weight": INT8}, folder / "text_encoder" / "model.safetensors")
    add_to(folder / "text_encoder" / "config.json", {"quantization_config": {"quant_method": "quanto"}})
    with pytest.raises(Refused, match=r"config.json: quantization_config .*\(quanto\)"):
        open_checkpoint(folder)


def test_tables_of_positions_are_no_weights(tmp_path: Path) -> None:
    content = {"position_ids": np.arange(7)[None], "norm.num_batches_tracked": np.array(3), "q.weight": SCALE}
    save_file(content, tmp_path / "model.safetensors")
    assert len(TensorFiles.open(tmp_path).keys) == 3


def test_no_reference_is_taken_for_quantised() -> None:
    for file in references.HERE.glob("*/*/checkpoint/*/*.safetensors"):
        refuse_files(file.parent, [path.name for path in file.parent.iterdir()])
        with safe_open(file, framework="np") as opened:
            refuse_tensors(file, {key: np.dtype(np.float32) for key in list(opened.keys())})


FLOAT8 = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_is_read_as_bfloat16_to_the_last_bit(tmp_path: Path, dtype: Any) -> None:
    every = np.arange(256, dtype=np.uint8).view(dtype).reshape(16, 16)
    save_file({"q.weight": every, "norm.weight": SCALE}, tmp_path / "model.safetensors")
    files = TensorFiles.open(tmp_path)
    data, part = files.read("q.weight"), files.read("q.weight", (slice(3, 9), slice(2, 5)))
    assert (files.dtype("q.weight"), data.dtype) == (np.dtype(dtype), np.dtype(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(data.astype(np.float64), every.astype(np.float64))
    np.testing.assert_array_equal(part.astype(np.float64), every.astype(np.float64)[3:9, 2:5])
    assert files.read("norm.weight").dtype == np.float32
