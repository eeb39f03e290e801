"""Outputs of earlier commits, which every later one must go on with; `make.py` made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.references import case

HERE = Path(__file__).parent


@dataclass(frozen=True)
class OldOutput:
    """An output whose run was killed, with what its rows become: `tests/old_outputs/README.md` has the files.

    Args:
        name: Folder under `tests/old_outputs`.
        reference: Family and name of the reference that has its checkpoint.
        options: Of `vidgen render`, beside the places; `{folder}` is where manifest and images are.
    """

    name: str
    reference: tuple[str, str]
    options: Sequence[str]

    @property
    def folder(self) -> Path:
        return HERE / self.name

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is now."""
        family, name = self.reference
        return case(name, family).checkpoint

    @cached_property
    def expected(self) -> dict[str, Any]:
        """What `expected.json` holds."""
        return json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))

    def flags(self, folder: Path) -> list[str]:
        """The options for manifest and images in a folder."""
        return [option.format(folder=folder) for option in self.options]

    def copy(self, folder: Path) -> Path:
        """A copy under `folder`, to go on with: the output `out/` beside its manifest and images."""
        return Path(shutil.copytree(self.folder, folder / self.name))


_ALWAYS = ("--device", "cpu", "--replicas", "1", "--checkpoint-every", "5", "--passthrough", "source")

OUTPUTS = {
    old.name: old
    for old in (
        # Its sampler remembers the step before.
        OldOutput(
            "cogvideox",
            ("cogvideox", "1.5"),
            [
                *_ALWAYS,
                *("--format", "npy", "--seed", "5", "--reject", "black,frozen", "--max-failures", "90%"),
                *("--set", "height=32", "--set", "width=16", "--set", "num_frames=9"),
                *("--set", "num_inference_steps=3", "--set", "max_sequence_length=24"),
            ],
        ),
        # Its sampler remembers nothing.
        OldOutput(
            "ltx",
            ("ltx", "0.9.0-i2v"),
            [
                *_ALWAYS,
                *("--format", "mp4", "--crf", "20", "--fps", "12", "--aigc-producer", "ACME"),
                *("--task", "image-to-video", "--set", "image={folder}/fox.png"),
                *("--set", "height=32", "--set", "width=32", "--set", "num_frames=9"),
                *("--set", "num_inference_steps=3", "--set", "max_sequence_length=24"),
                *("--set", "negative_prompt=blurry"),
            ],
        ),
    )
}
