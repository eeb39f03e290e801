"""What the benchmarks of model families share: our times and diffusers', and their ratio.

diffusers runs in a process of its own, with the given interpreter (of an environment that has torch and
diffusers; by default this one, if it has them). The two run in turn, so that a machine that slows down slows
both. Each figure is the median over rounds of the fastest of two runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Measure = Callable[[], dict[str, float]]
"""Figure's name -> seconds."""

REPEATS = 2


def main(module: str, description: str | None, vidgen: Measure, torch: Measure) -> None:
    """The benchmark's command line.

    Args:
        module: Its name, for `python -m`.
        description: Its help text.
        vidgen: Measures our code.
        torch: Measures diffusers.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", help="interpreter of an environment with torch and diffusers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("vidgen", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(vidgen() if arguments.measure == "vidgen" else torch()))
        return
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    torch_python = arguments.torch_python or (sys.executable if has_torch else None)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours.append(_in_process(sys.executable, module, "vidgen"))
        if torch_python:
            theirs.append(_in_process(torch_python, module, "torch"))
    _report(ours, theirs)


def _in_process(python: str, module: str, side: str) -> dict[str, float]:
    command = [python, "-W", "ignore", "-m", module, "--measure", side]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def _report(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    for name in ours[0]:
        mine = statistics.median(sample[name] for sample in ours)
        line = f"{name}: {mine:.4f} s"
        if theirs:
            reference = statistics.median(sample[name] for sample in theirs)
            line += f", diffusers on torch {reference:.4f} s, ratio {mine / reference:.2f}"
        print(line)
    if not theirs:
        print("no torch and diffusers here: name an interpreter that has them with --torch-python")


def fastest(run: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    run()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """float32."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def randomise(*models: Any) -> None:
    """Give one of our models random weights."""
    from vidgen_dist import nn

    for model in models:
        for parameter in nn.named_parameters(model).values():
            scale = 1 / np.sqrt(max(1, np.prod(parameter.shape[1:])))
            parameter.set_data(nn.from_numpy(noise(parameter.shape) * np.float32(scale)))
