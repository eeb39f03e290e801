"""What sharded weights take of a rank's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.weights.load import load_weights

BLOCKS, SIDE = 40, 1376  # 7.2 MiB per block, 289 MiB in all


class Heavy(nn.Module):
    sharded = ("blocks",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(SIDE, SIDE, bias=False) for _ in range(BLOCKS)])

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def memory_of_weights(mesh: Mesh, folder: str) -> dict[str, float]:
    """MiB above the memory that the process had just before loading."""
    model = Heavy()
    x = nn.from_numpy(np.ones((2, SIDE), np.float32))
    # Everything has started by now, and the matrix product has its own memory.
    nn.to_numpy(nn.linear(x, nn.from_numpy(np.ones((SIDE, SIDE), np.float32))))

    def peak_again() -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark

    peak_again()
    before, anonymous_before = megabytes("VmRSS"), megabytes("RssAnon")
    load_weights(model, folder, mesh=mesh)
    loading, after = megabytes("VmHWM") - before, megabytes("RssAnon") - anonymous_before
    peak_again()
    value = float(nn.to_numpy(model(model(x)))[0, 0])
    return {"loading": loading, "loaded": after, "running": megabytes("VmHWM") - before, "value": value}


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("heavy")
    values = [(1 + i % 2) / SIDE / 1.5 for i in range(BLOCKS)]
    content = {f"blocks.{i}.weight": np.full((SIDE, SIDE), v, np.float32) for i, v in enumerate(values)}
    save_file(content, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize(("size", "allowed"), [(2, 0.6), (4, 0.4)])
def test_memory_of_weights_a_rank(heavy: str, size: int, allowed: float) -> None:
    fresh = Ranks()
    try:
        told = fresh.run(memory_of_weights, heavy, degrees=Degrees(size))
    finally:
        fresh.close()
    whole = BLOCKS * SIDE * SIDE * 4 / 2**20
    expected = (2 * 1 / 1.5**2) ** BLOCKS  # two runs of BLOCKS / 2 pairs of blocks
    for rank, told_by in enumerate(told):
        parts = {key: told_by[key] / whole for key in ("loading", "loaded", "running")}
        print(f"P = {size}, rank {rank}: " + ", ".join(f"{key} {part:.3f}" for key, part in parts.items()))
        assert told_by["value"] == pytest.approx(expected, rel=1e-3)
        assert 0.9 / size < parts["loaded"]
        assert parts["loading"] <= allowed
        assert parts["running"] <= allowed
