"""The devices that the planner knows: `devices.yaml` in this folder, with a source for every figure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from vidgen_dist.errors import Refused
from vidgen_dist.spec import parse_bytes

DEFAULT = {"ascend": "910B", "cpu": "CPU"}
"""The device that is assumed if only its kind is known."""


@dataclass(frozen=True)
class Link:
    """The connection of an NPU to others.

    Args:
        bandwidth: Bytes per second, one way, to all of them together.
        to_one: Bytes per second, one way, to one of them.
        latency: Further seconds that an exchange takes.
    """

    bandwidth: float
    to_one: float
    latency: float


@dataclass(frozen=True)
class Device:
    """One NPU (or one core of a CPU) and its links; `devices.yaml` explains each figure.

    Args:
        name: Its name for `--device-name`.
        kind: `ascend` or `cpu`.
        tflops: Peak of matrix products by dtype, 10^12 operations per second.
        sources: Name of a figure -> its source.
    """

    name: str
    kind: str
    about: str
    memory: int
    usable: float
    tflops: Mapping[str, float]
    matmul_share: float
    convolution_share: float
    memory_bandwidth: float
    memory_share: float
    npus_per_host: int
    inside: Link
    between: Link
    link_share: float
    operator_seconds: float
    sources: Mapping[str, str]


def in_words(size: float) -> str:
    """Bytes for a person to read: in GiB, or in MiB below a tenth of a GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def find_device(name: str) -> Device:
    """The device with this name, or the usual one of this kind (`ascend`, `cpu`).

    Raises:
        Refused: There is none; the message names those that exist.
    """
    devices = load_devices()
    wanted = DEFAULT.get(name.lower(), name).lower()
    for known, device in devices.items():
        if known.lower() == wanted:
            return device
    raise Refused(f"--device-name: {name!r} is not allowed; one of {', '.join(devices)}")


@functools.cache
def load_devices() -> Mapping[str, Device]:
    """All devices of the table, by name."""
    text = resources.files("vidgen_dist.planner").joinpath("devices.yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    return {name: _device(name, row, table["sources"]) for name, row in table["devices"].items()}


def _device(name: str, row: Mapping[str, Any], sources: Mapping[str, str]) -> Device:
    figures = {key: cell["value"] for key, cell in row.items() if key != "about"}
    for key in ("inside", "between"):
        figures[key] = Link(**figures[key])
    figures["memory"] = parse_bytes(figures["memory"])
    return Device(
        name=name,
        kind="cpu" if name == DEFAULT["cpu"] else "ascend",
        about=row["about"],
        sources={key: sources[cell["source"]] for key, cell in row.items() if key != "about"},
        **figures,
    )
