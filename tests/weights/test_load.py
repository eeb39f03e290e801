"""Loading weights into a module: mismatches are refused first, and there is one copy in memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.files import write_sharded
from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.sharding import ShardedBlocks
from vidgen_dist.weights import load
from vidgen_dist.weights.load import load_weights
from vidgen_dist.weights.tensors import TensorFiles


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.empty_parameter((4, 3), "weight")
        self.bias = nn.empty_parameter((4,), "bias")


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = Inner()
        self.scale = nn.empty_parameter((), "scale")


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "proj.weight": rng.standard_normal((4, 3)).astype(np.float32),
        "proj.bias": rng.standard_normal(4).astype(np.float32),
        "scale": np.array(2.5, np.float32),
    }


def write(folder: Path, content: dict[str, np.ndarray]) -> Path:
    save_file(content, folder / "model.safetensors")
    return folder


def assert_holds(module: nn.Module, expected: dict[str, np.ndarray]) -> None:
    parameters = nn.named_parameters(module)
    assert set(parameters) == set(expected)
    for name, parameter in parameters.items():
        assert parameter.dtype == nn.float32, name
        np.testing.assert_array_equal(nn.to_numpy(parameter), expected[name].astype(np.float32), err_msg=name)


def test_every_parameter_gets_its_tensor(tmp_path: Path) -> None:
    module = Outer()
    load_weights(module, write(tmp_path, tensors()))
    assert_holds(module, tensors())


def test_shards(tmp_path: Path) -> None:
    content = tensors()
    write_sharded(tmp_path, [{"proj.weight": content.pop("proj.weight")}, content])
    module = Outer()
    load_weights(module, tmp_path)
    assert_holds(module, tensors())


@pytest.mark.parametrize(
    "stored",
    [np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
@pytest.mark.parametrize("asked", [None, "bfloat16"])
def test_cpu_computes_in_float32_whatever_the_file_holds(
    tmp_path: Path, stored: type, asked: str | None
) -> None:
    content: dict[str, np.ndarray] = {key: value.astype(stored) for key, value in tensors().items()}
    module = Outer()
    load_weights(module, write(tmp_path, content), dtype=asked)
    assert_holds(module, content)


def test_variant_of_the_files(tmp_path: Path) -> None:
    other = {key: np.asarray(value + 1) for key, value in tensors().items()}
    save_file(other, tmp_path / "model.fp16.safetensors")
    write(tmp_path, tensors())
    module = Outer()
    load_weights(module, tmp_path, variant="fp16")
    assert_holds(module, other)


def test_what_does_not_fit_is_named_with_both_shapes(tmp_path: Path) -> None:
    content = tensors()
    del content["proj.bias"]
    content["proj.weight"] = np.zeros((3, 4), np.float32)
    content["proj.gamma"] = np.zeros(1, np.float32)
    with pytest.raises(Refused) as refused:
        load_weights(Outer(), write(tmp_path, content))
    message = str(refused.value)
    assert str(tmp_path) in message
    assert "Outer" in message
    assert "1 missing: proj.bias" in message
    assert "1 surplus: proj.gamma" in message
    assert "proj.weight is (3, 4) in the file and (4, 3) in the model" in message


def test_whole_numbers_where_the_model_has_real_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"1 of whole numbers: scale is int32$"):
        load_weights(Outer(), write(tmp_path, tensors() | {"scale": np.array(2, np.int32)}))


def test_ten_keys_of_a_kind_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    content = tensors() | {f"extra.{i:02}": np.zeros(1, np.float32) for i in range(13)}
    with pytest.raises(Refused, match=r"13 surplus: extra\.00, .*extra\.09 and 3 more$"):
        load_weights(Outer(), write(tmp_path, content))


def test_nothing_is_read_before_all_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain_read = TensorFiles.read

    def spy(self: TensorFiles, key: str, part: object = None) -> np.ndarray:
        read.append(key)
        return plain_read(self, key, part)

    monkeypatch.setattr(TensorFiles, "read", spy)
    good = tmp_path / "good"
    good.mkdir()
    load_weights(Outer(), write(good, tensors()))
    assert sorted(read) == sorted(tensors())
    read.clear()
    with pytest.raises(Refused):
        load_weights(Outer(), write(tmp_path, tensors() | {"surplus": np.zeros(1, np.float32)}))
    assert read == []


def test_keys_are_renamed_and_left_out(tmp_path: Path) -> None:
    content = {f"model.{key}": value for key, value in tensors().items()}
    content["position_ids"] = np.arange(5)
    module = Outer()
    load_weights(
        module,
        write(tmp_path, content),
        rename=lambda key: None if key == "position_ids" else key.removeprefix("model."),
    )
    assert_holds(module, tensors())


def test_a_tied_tensor_stored_twice_is_read_under_its_own_name(tmp_path: Path) -> None:
    aliases = {"a.copy": "scale", "z.copy": "scale"}
    for alias in aliases:
        module = Outer()
        load_weights(
            module,
            write(tmp_path, tensors() | {alias: np.array(9, np.float32)}),
            rename=lambda key: aliases.get(key, key),
        )
        assert_holds(module, tensors())


def test_two_keys_for_one_name_are_refused(tmp_path: Path) -> None:
    content = tensors()
    content["a"] = content["b"] = content.pop("scale")
    with pytest.raises(Refused, match="a and b both stand for scale"):
        load_weights(Outer(), write(tmp_path, content), rename=lambda key: "scale" if key in "ab" else key)


class Declared(nn.Module):
    sharded = ("blocks",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner(), Inner()])
        self.last = Inner()


def declared_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {key: tuple(p.shape) for key, p in nn.named_parameters(Declared()).items()}
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def test_in_a_gang_what_is_declared_is_shared_out_and_the_rest_is_whole(tmp_path: Path) -> None:
    content, shares = declared_tensors(), []
    for rank in range(2):
        module = Declared()
        load_weights(module, write(tmp_path, content), mesh=Mesh(gang=Group((0, 1), rank)))
        assert_holds(module, {key: value for key, value in content.items() if key.startswith("last.")})
        assert isinstance(module.blocks, ShardedBlocks)
        shares.append([nn.to_numpy(block.share) for block in module.blocks._blocks])
    for i, halves in enumerate(zip(*shares, strict=True)):
        vector = np.concatenate(halves)
        # In the order of names, each starting at a multiple of 512 bytes.
        np.testing.assert_array_equal(vector[:4], content[f"blocks.{i}.bias"])
        np.testing.assert_array_equal(vector[128:140], content[f"blocks.{i}.weight"].reshape(-1))
        assert vector.size == 256


def test_a_gang_of_one_shares_nothing_out(tmp_path: Path) -> None:
    module = Declared()
    load_weights(module, write(tmp_path, declared_tensors()), mesh=alone())
    assert_holds(module, declared_tensors())


def test_a_missing_key_of_a_block_that_is_shared_out_is_named(tmp_path: Path) -> None:
    content = declared_tensors()
    del content["blocks.1.bias"]
    with pytest.raises(Refused, match=r"do not belong to a Declared: 1 missing: blocks\.1\.bias$"):
        load_weights(Declared(), write(tmp_path, content), mesh=Mesh(gang=Group((0, 1), 1)))


def test_parameters_take_the_array_that_was_read_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays: dict[str, np.ndarray] = {}
    plain_read = TensorFiles.read

    def spy(self: TensorFiles, key: str, part: object = None) -> np.ndarray:
        arrays[key] = plain_read(self, key, part)
        return arrays[key]

    monkeypatch.setattr(load.TensorFiles, "read", spy)
    module = Outer()
    load_weights(module, write(tmp_path, tensors()))
    weight = nn.named_parameters(module)["proj.weight"].asnumpy()
    assert weight.ctypes.data == arrays["proj.weight"].ctypes.data


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_memory_peaks_at_the_weights_and_one_tensor(tmp_path: Path, stored: str) -> None:
    count, shape = 15, (10, 1024, 256)  # 15 tensors of 10 MiB in float32
    dtype = np.dtype(ml_dtypes.bfloat16 if stored == "bfloat16" else stored)
    write_sharded(
        tmp_path,
        [{f"weights.{i}": np.full(shape, i, dtype) for i in range(first, first + 5)} for first in (0, 5, 10)],
    )
    script = f"""
        import numpy as np
        from pathlib import Path
        from vidgen_dist import nn
        from vidgen_dist.weights.load import load_weights

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                for i in range({count}):
                    setattr(self, f"weight_{{i}}", nn.empty_parameter({shape}, f"weight_{{i}}"))

        def status(field):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

        nn.set_device("cpu")
        nn.to_numpy(nn.from_numpy(np.zeros((2, 2), np.float32)) + 1)  # MindSpore starts
        before = status("VmRSS")
        model = Model()
        empty = status("VmRSS") - before
        # The kernel's own high-water mark, from here on.
        Path("/proc/self/clear_refs").write_text("5")
        load_weights(model, {str(tmp_path)!r}, rename=lambda key: key.replace("weights.", "weight_"))
        peak = status("VmHWM") - before
        values = [float(p.asnumpy()[0, 0, 0]) for p in nn.named_parameters(model).values()]
        assert sorted(values) == list(range({count})), values
        print(empty, peak)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    empty, peak = (float(word) for word in result.stdout.split()[-2:])
    print(
        f"{stored}: weights of 150 MiB in float32; the empty model took {empty:.0f} MiB, "
        f"loading peaked at {peak:.0f} MiB"
    )
    assert empty < 20
    assert 140 < peak < 150 + 3 * 10
