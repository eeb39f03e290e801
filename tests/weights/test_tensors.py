"""Reading safetensors: one file, shards, variants, slices; and files that are damaged or incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.files import write_sharded
from vidgen_dist.errors import Refused
from vidgen_dist.weights import naming
from vidgen_dist.weights.tensors import TensorFiles


def arrays(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"b.weight": (6, 5), "a.bias": (4,), "scale": (), "conv": (2, 3, 1, 3, 3), "none": (0, 4)}
    return {key: np.asarray(rng.standard_normal(shape)).astype(dtype) for key, shape in shapes.items()}


def assert_reads(files: TensorFiles, expected: dict[str, np.ndarray]) -> None:
    assert sorted(files.keys) == sorted(expected)
    for key, array in expected.items():
        assert files.shape(key) == array.shape
        assert files.dtype(key) == array.dtype
        data = files.read(key)
        assert isinstance(data, np.ndarray)
        assert data.dtype == array.dtype
        np.testing.assert_array_equal(data, array)


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_one_file(tmp_path: Path, stem: str, dtype: type) -> None:
    save_file(arrays(dtype), tmp_path / f"{stem}.safetensors")
    assert_reads(TensorFiles.open(tmp_path), arrays(dtype))


def test_integers_and_bools(tmp_path: Path) -> None:
    content = {"position_ids": np.arange(7), "mask": np.array([True, False])}
    save_file(content, tmp_path / "model.safetensors")
    assert_reads(TensorFiles.open(tmp_path), content)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_of_the_variant(tmp_path: Path, variant: str | None) -> None:
    for name, factor in ((None, 1), ("fp16", 2)):
        content = {key: np.asarray(value * factor) for key, value in arrays().items()}
        first = {"conv": content.pop("conv")}
        write_sharded(tmp_path, [first, content], stem="diffusion_pytorch_model", variant=name)
    factor = 2 if variant else 1
    expected = {key: np.asarray(value * factor) for key, value in arrays().items()}
    assert_reads(TensorFiles.open(tmp_path, variant=variant), expected)


def test_variant_that_the_folder_lacks_is_the_plain_file(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "model.safetensors")
    assert_reads(TensorFiles.open(tmp_path, variant="fp16"), arrays())


@pytest.mark.parametrize(
    "part",
    [
        slice(2, 5),
        slice(0, 0),
        (slice(None), slice(1, 3)),
        (slice(3, 6), slice(0, 2)),
        (Ellipsis, slice(4, 5)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_part_is_what_the_array_has_there(tmp_path: Path, dtype: type, part: Any) -> None:
    save_file(arrays(dtype), tmp_path / "model.safetensors")
    data = TensorFiles.open(tmp_path).read("b.weight", part)
    assert data.dtype == dtype
    np.testing.assert_array_equal(data, arrays(dtype)["b.weight"][part])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"absent: no such folder"):
        TensorFiles.open(tmp_path / "absent")


def test_pickled_weights_are_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(Refused, match=r"weights; diffusion_pytorch_model.bin \(pickled\) is not read"):
        TensorFiles.open(tmp_path)


def test_only_a_variant_is_there(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "model.fp16.safetensors")
    with pytest.raises(Refused, match="variant fp16 only"):
        TensorFiles.open(tmp_path)


def test_shards_without_their_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, [arrays()]).unlink()
    with pytest.raises(Refused, match=r"found model-00001-of-00001.safetensors but no index"):
        TensorFiles.open(tmp_path)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path, [{"a": np.zeros(1)}, {"b": np.zeros(1)}])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        Refused, match=r"index.json: it names the shard model-00002-of-00002.safetensors, which is missing"
    ):
        TensorFiles.open(tmp_path)


def test_index_that_names_a_key_which_its_shard_lacks(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, [{"a": np.zeros(1)}, {"b": np.zeros(1)}])
    value = json.loads(index.read_text())
    value["weight_map"]["c"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(value))
    with pytest.raises(Refused, match=r"index.json: it places c in model-00001-of-00002.safetensors"):
        TensorFiles.open(tmp_path)


def test_tensors_of_a_shard_which_the_index_does_not_name_are_reported(tmp_path: Path) -> None:
    index = write_sharded(tmp_path, [{"a": np.zeros(1), "forgotten": np.zeros(1)}])
    value = json.loads(index.read_text())
    del value["weight_map"]["forgotten"]
    index.write_text(json.dumps(value))
    with pytest.raises(
        Refused, match=r"index.json: it does not name forgotten of model-00001-of-00001.safetensors"
    ):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n "weight_map": {\n  oops\n }}', r"index.json, line 3: not JSON"),
        ("[]", r"must hold a JSON object, holds list"),
        ('{"metadata": {}}', r"weight_map must be an object"),
        ('{"weight_map": {}}', r"weight_map must be an object"),
        ('{"weight_map": {"a": 3}}', r"index.json: a: 3; weight_map must be"),
        ('{"weight_map": {"a": "../model.safetensors"}}', r"a: '../model.safetensors'; .*same folder"),
    ],
)
def test_index_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(Refused, match=message):
        TensorFiles.open(tmp_path)


def test_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(arrays(), path)
    path.write_bytes(path.read_bytes()[:-1])
    told = r"model.safetensors: not a whole safetensors file .*; it has \d+ of \d+ bytes: copy or download it"
    with pytest.raises(Refused, match=told):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{broken header }", b"\xff" * 64])
def test_file_that_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(Refused, match=r"model.safetensors: not a whole safetensors file"):
        TensorFiles.open(tmp_path)


def test_git_lfs_pointer_is_told(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 11143990320\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(Refused, match="git lfs pull"):
        TensorFiles.open(tmp_path)


def test_file_that_vanishes_after_opening(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "model.safetensors")
    files = TensorFiles.open(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(Refused, match=r"model.safetensors: the file is missing"):
        files.read("scale")


INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        (["model.safetensors"], None, ("model.safetensors",)),
        (["model.fp16.safetensors", "model.safetensors"], None, ("model.safetensors",)),
        (["model.fp16.safetensors", "model.safetensors"], "fp16", ("model.fp16.safetensors",)),
        (["model.fp16.safetensors", "model.safetensors"], "bf16", ("model.safetensors",)),
        (["model.non_ema.safetensors"], "non_ema", ("model.non_ema.safetensors",)),
        ([INDEX, *SHARDS, "model.fp16.safetensors"], None, (INDEX, *SHARDS)),
        ([INDEX, *SHARDS, "model.fp16.safetensors"], "fp16", ("model.fp16.safetensors",)),
        ([INDEX, *SHARDS, "model.safetensors"], None, (INDEX, *SHARDS)),
        (
            [INDEX, *SHARDS, "model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
            "fp16",
            ("model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"),
        ),
        (
            ["model.safetensors.fp16.index.json", "model-00001-of-00001.fp16.safetensors"],
            "fp16",
            ("model.safetensors.fp16.index.json", "model-00001-of-00001.fp16.safetensors"),
        ),
        (["model.bin", "flux1-dev.safetensors", "config.json", "model.safetensors.txt"], None, None),
    ],
)
def test_names_of_weight_files(
    names: list[str], variant: str | None, expected: tuple[str, ...] | None
) -> None:
    chosen = naming.choose(names, variant)
    assert (chosen.all if chosen else None) == expected


def test_variants_of_names() -> None:
    names = [INDEX, *SHARDS, "model.fp16-00001-of-00002.safetensors", "model.bf16.safetensors", "x.fp8.json"]
    assert naming.variants(names) == {"fp16", "bf16"}
