"""The devices that a plan reckons with: `devices.yaml` beside this file, every figure with its source."""

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
"""The device that is meant where only its kind is known."""


@dataclass(frozen=True)
class Link:
    """What joins an NPU to others.

    Args:
        bandwidth: Bytes a second, one way, to all of them together.
        to_one: Likewise, to one of them.
        latency: Seconds that an exchange takes beside that.
    """

    bandwidth: float
    to_one: float
    latency: float


@dataclass(frozen=True)
class Device:
    """One NPU (or one core of a CPU) and its links; `devices.yaml` says what each figure is.

    Args:
        name: What `--device-name` calls it.
        kind: `ascend` or `cpu`.
        tflops: Peak of matrix products by dtype, 10^12 operations a second.
        sources: Name of a figure -> where it is from.
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
    """Bytes as a person reads them: in GiB, of less than a tenth of it in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def find_device(name: str) -> Device:
    """The device of that name, or the usual one of that kind (`ascend`, `cpu`).

    Raises:
        Refused: There is none; names those that there are.
    """
    devices = load_devices()
    wanted = DEFAULT.get(name.lower(), name).lower()
    for known, device in devices.items():
        if known.lower() == wanted:
            return device
    raise Refused(f"--device-name: {name!r} is not allowed; one of {', '.join(devices)}")


@functools.cache
def load_devices() -> Mapping[str, Device]:
    """Every device of the table by its name."""
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
