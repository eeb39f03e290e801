"""The table of devices is complete, and has a source for each figure."""

from __future__ import annotations

import dataclasses

import pytest

from vidgen_dist.errors import Refused
from vidgen_dist.planner.devices import Device, find_device, in_words, load_devices


def test_devices_that_there_are() -> None:
    assert list(load_devices()) == ["910B", "A3", "CPU"]


@pytest.mark.parametrize("name", ["910B", "A3", "CPU"])
def test_every_figure_has_a_source(name: str) -> None:
    device = find_device(name)
    figures = {field.name for field in dataclasses.fields(Device)} - {"name", "kind", "about", "sources"}
    assert set(device.sources) == figures
    assert all(device.sources.values())
    for share in (device.usable, device.matmul_share, device.convolution_share, device.memory_share):
        assert 0 < share <= 1
    for link in (device.inside, device.between):
        assert 0 < link.to_one <= link.bandwidth


@pytest.mark.parametrize(("name", "found"), [("a3", "A3"), ("cpu", "CPU"), ("ascend", "910B")])
def test_names(name: str, found: str) -> None:
    assert find_device(name).name == found


def test_unknown_device() -> None:
    with pytest.raises(Refused, match=r"--device-name: 'H100' is not allowed; one of 910B, A3, CPU"):
        find_device("H100")


@pytest.mark.parametrize(
    ("size", "words"), [(64 * 2**30, "64.0 GiB"), (2**29, "0.5 GiB"), (2**20, "1.0 MiB")]
)
def test_bytes_in_words(size: int, words: str) -> None:
    assert in_words(size) == words
