"""Results of other implementations for the same checkpoints; the scripts in this folder made them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from vidgen_dist.request import RenderRequest
from vidgen_dist.spec import ModelOptions, make_model

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint, requests, and the frames that diffusers renders for them.

    Args:
        family: Folder under `tests/references`.
        name: Folder under the family.
    """

    family: str
    name: str

    @property
    def folder(self) -> Path:
        return HERE / self.family / self.name

    @property
    def checkpoint(self) -> Path:
        """Folder in the layout of a published diffusers checkpoint."""
        return (self.folder / self._facts.get("checkpoint", "checkpoint")).resolve()

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text(encoding="utf-8"))

    @property
    def task(self) -> str:
        return self._facts["task"]

    @property
    def variant(self) -> str | None:
        """Variant under which the checkpoint's weights were saved."""
        return self._facts["variant"]

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of `load_pipeline`; some cases have `adapter` and `scheduler`."""
        options = dict(self._facts.get("options", {}))
        if "adapter" in options:
            options["adapter"] = str((self.folder / options["adapter"]).resolve())
        return {"task": self.task, "variant": self.variant, **options}

    @property
    def further_predictions(self) -> int:
        """Predictions that the sampler makes in addition to one per step."""
        return self._facts.get("further_predictions", 0)

    @property
    def model(self) -> ModelOptions:
        """The checkpoint, in the form of a run's spec."""
        return make_model({"id": str(self.checkpoint), **self.options}, str(self.folder))

    @cached_property
    def requests(self) -> list[RenderRequest]:
        """The requests, `image` a PIL image and `video` a list of them."""
        rows = json.loads((self.folder / "request.json").read_text(encoding="utf-8"))
        return [RenderRequest(**{key: self._media(key, value) for key, value in row.items()}) for row in rows]

    @cached_property
    def frames(self) -> list[np.ndarray]:
        """For each request (F, H, W, 3), float32 in [0, 1]."""
        return [np.load(self.folder / f"frames.{k}.npy") for k in range(len(self.requests))]

    @property
    def overridden(self) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Changed settings of the scheduler, and the frames of the first request with each of them."""
        listed = json.loads((self.folder / "overridden.json").read_text(encoding="utf-8"))
        return [(settings, np.load(self.folder / f"overridden.{k}.npy")) for k, settings in enumerate(listed)]

    @cached_property
    def pieces(self) -> dict[str, np.ndarray]:
        """Inputs and outputs of each model in the first request; README.md lists the keys."""
        return load_file(self.folder / "pieces.safetensors")

    def copy_checkpoint(self, folder: Path) -> Path:
        """A copy under `folder`, to be damaged (`edit_json`)."""
        return Path(shutil.copytree(self.checkpoint, folder / "checkpoint"))

    def _media(self, field: str, value: Any) -> Any:
        if field == "image":
            with Image.open(self.folder / value) as image:
                return image.convert("RGB")
        if field == "video":
            with np.load(self.folder / value) as archive:
                return [Image.fromarray(frame) for frame in archive["frames"]]
        return value


@dataclass(frozen=True)
class LoraCase:
    """LoRAs for another case's checkpoint, a request, and the frames that diffusers renders with them.

    Args:
        name: Folder under `tests/references/loras`.
    """

    name: str

    @property
    def folder(self) -> Path:
        return HERE / "loras" / self.name

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "lora.json").read_text(encoding="utf-8"))

    @property
    def base(self) -> Case:
        """The case with the checkpoint."""
        return Case(self._facts["family"], self._facts["case"])

    @property
    def loras(self) -> list[tuple[str, float]]:
        """The LoRAs' files and scales."""
        return [
            (str(self.folder / f"lora.{k}.safetensors"), scale)
            for k, scale in enumerate(self._facts["scales"])
        ]

    @property
    def request(self) -> RenderRequest:
        return RenderRequest(**self._facts["request"])

    @cached_property
    def frames(self) -> np.ndarray:
        """(F, H, W, 3), float32 in [0, 1]."""
        return np.load(self.folder / "frames.npy")


def lora_cases() -> list[str]:
    """Names of the cases with LoRAs."""
    return sorted(path.parent.name for path in (HERE / "loras").glob("*/lora.json"))


def cases(family: str = "cogvideox") -> list[str]:
    """Names of a family's cases."""
    return sorted(path.parent.name for path in (HERE / family).glob("*/case.json"))


def all_cases() -> list[tuple[str, str]]:
    """Families and names of all cases."""
    families = sorted({path.parts[-3] for path in HERE.glob("*/*/case.json")})
    return [(family, name) for family in families for name in cases(family)]


def case(name: str, family: str = "cogvideox") -> Case:
    """The case with this name.

    Raises:
        KeyError: There is none.
    """
    if name not in cases(family):
        raise KeyError(f"{family} has no case {name!r}, only {', '.join(cases(family))}")
    return Case(family, name)


def component(name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder of a single component, and its inputs and outputs."""
    folder = HERE / "components" / name
    return folder, load_file(folder / "pieces.safetensors")


def edit_json(path: Path, **values: Any) -> None:
    """Change values of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def check_close(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Print the largest difference.

    Raises:
        AssertionError: It is above `tolerance`.
    """
    told = f"{what}: largest difference {largest_difference(ours, theirs):.2e}"
    print(told)
    assert largest_difference(ours, theirs) <= tolerance, f"{told}; allowed is {tolerance:g}"


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest absolute difference; infinite if the shapes differ or a value is not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
