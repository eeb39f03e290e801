"""What LoRAs cost: a change of them beside loading the model, a step with them beside one without, memory.

    python -m tests.benchmarks.lora [--rounds 3]

A CogVideoX transformer of 12 layers and 16 heads of 64 (230 M parameters) with a tiny text encoder and VAE;
six LoRAs of rank 16 for all projections of attention. All weights are in the page cache. Each figure is a
ratio within one round; each side has a process of its own.

- change: seconds from one LoRA to another, over those in which the model was loaded.
- step: seconds of a denoising step with a LoRA, over one without.
- memory: the peak of a process that renders with six LoRAs one after the other, over one that uses none.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.tiny_checkpoint import make_checkpoint
from vidgen_dist import RenderRequest, load_pipeline

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 64,
    "num_layers": 12,
    "time_embed_dim": 512,
}
LORAS, RANK = 6, 16
STEPS = 4
REQUEST = {"prompt": "a red fox", "height": 128, "width": 192, "num_frames": 9, "num_inference_steps": STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, folder = arguments.measure
        print(json.dumps(measure(Path(folder), with_loras=what == "with")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        make_checkpoint(checkpoint, TRANSFORMER)
        for k in range(LORAS):
            write_lora(checkpoint, Path(scratch) / f"{k}.safetensors", k)
        rounds = [
            (in_process("without", scratch), in_process("with", scratch)) for _ in range(arguments.rounds)
        ]
    ratios = {
        "change / load": [ours["change"] / ours["load"] for _, ours in rounds],
        "step with / without": [ours["step"] / plain["step"] for plain, ours in rounds],
        "memory with / without": [ours["memory"] / plain["memory"] for plain, ours in rounds],
    }
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})")
    print(f"change {rounds[0][1]['change']:.2f} s, load {rounds[0][1]['load']:.2f} s")


def write_lora(checkpoint: Path, path: Path, seed: int) -> None:
    """A random LoRA for all projections of the transformer's attention."""
    rng = np.random.default_rng(seed)
    tensors = {}
    with safe_open(checkpoint / "transformer" / "diffusion_pytorch_model.safetensors", "np") as file:
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            if ".attn1.to_" in key and key.endswith(".weight"):
                out, inner = file.get_slice(key).get_shape()
                name = f"transformer.{key.removesuffix('.weight')}"
                down = rng.standard_normal((RANK, inner)) / inner**0.5
                tensors[f"{name}.lora_A.weight"] = down.astype(np.float32)
                tensors[f"{name}.lora_B.weight"] = 0.1 * rng.standard_normal((out, RANK)).astype(np.float32)
    save_file(tensors, path)


def in_process(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.lora", "--measure", what, folder]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def measure(folder: Path, *, with_loras: bool) -> dict[str, float]:
    """Seconds of loading, of a change and of a step, and the peak of memory in bytes."""
    # Loaded once before, so that neither imports nor the disk count.
    load_pipeline(str(folder / "checkpoint"))
    begun = time.perf_counter()
    pipeline = load_pipeline(str(folder / "checkpoint"))
    found = {"load": time.perf_counter() - begun}
    places = [str(folder / f"{k}.safetensors") if with_loras else None for k in range(LORAS)]
    renderings, changes = [], []
    for place in places:
        request = RenderRequest(**REQUEST, lora=place)
        # As the next row's rendering would: apart, to be timed.
        begun = time.perf_counter()
        pipeline.loras.use(pipeline.rules.resolve(request).loras)
        changes.append(time.perf_counter() - begun)
        renderings.append(pipeline.render(request).seconds["denoise"])
    found["change"] = statistics.median(changes)
    found["step"] = min(renderings) / STEPS
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return found


if __name__ == "__main__":
    main()
