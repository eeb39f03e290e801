"""Names of weight files in a component's folder, as diffusers and transformers publish them.

diffusion_pytorch_model.safetensors                       one file (diffusers)
model.safetensors                                         one file (transformers)
model.fp16.safetensors                                    the variant fp16
model.safetensors.index.json                              sharded: which key is in which shard
model.safetensors.index.fp16.json                         the variant's index
model-00001-of-00002.safetensors                          a shard
model.fp16-00001-of-00002.safetensors                     the variant's shard
model-00001-of-00002.fp16.safetensors                     the same, as older releases named it
model.safetensors.fp16.index.json                         its index, likewise
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_STEM = r"(?P<stem>diffusion_pytorch_model|model)"
_PATTERNS = {
    "file": (rf"{_STEM}(?:\.(?P<variant>[^.]+))?\.safetensors",),
    "shard": (
        rf"{_STEM}(?:\.(?P<variant>[^.]+?))?-\d{{5}}-of-\d{{5}}\.safetensors",
        rf"{_STEM}-\d{{5}}-of-\d{{5}}\.(?P<variant>[^.]+)\.safetensors",
    ),
    "index": (
        rf"{_STEM}\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json",
        rf"{_STEM}\.safetensors\.(?P<variant>[^.]+)\.index\.json",
    ),
}
# A shard's name also looks like a file of the variant "fp16-00001-of-00002": shards are matched first.
_KINDS = tuple(
    (kind, re.compile(pattern)) for kind in ("shard", "index", "file") for pattern in _PATTERNS[kind]
)


@dataclass(frozen=True)
class WeightNames:
    """The weight files of one component and one variant.

    Args:
        variant: Their variant; None for the plain files.
        entry: The file to read first: the index of a sharded checkpoint, otherwise the single file.
        files: The safetensors files, sorted.
    """

    variant: str | None
    entry: str
    files: tuple[str, ...]

    @property
    def sharded(self) -> bool:
        return self.entry.endswith(".json")

    @property
    def all(self) -> tuple[str, ...]:
        """The files and, if sharded, the index."""
        return (self.entry, *self.files) if self.sharded else self.files


def variants(names: Iterable[str]) -> set[str]:
    """The variants that the file names of a folder show."""
    return {variant for _, variant, _ in _parsed(names) if variant is not None}


def choose(names: Iterable[str], variant: str | None) -> WeightNames | None:
    """The files of `variant` if the folder has them, otherwise the plain ones, as in diffusers.

    None if no file has a name that diffusers or transformers uses for safetensors weights. An index has
    priority over a single file beside it, as in diffusers.
    """
    parsed = _parsed(names)
    for wanted in (variant, None):
        of_kind = {
            kind: sorted(name for k, v, name in parsed if (k, v) == (kind, wanted))
            for kind in ("index", "file", "shard")
        }
        if of_kind["index"]:
            return WeightNames(wanted, of_kind["index"][0], tuple(of_kind["shard"]))
        if of_kind["file"]:
            return WeightNames(wanted, of_kind["file"][0], (of_kind["file"][0],))
    return None


def _parsed(names: Iterable[str]) -> list[tuple[str, str | None, str]]:
    """(kind, variant, name) of each name that belongs to a weight file."""
    found = []
    for name in names:
        for kind, pattern in _KINDS:
            match = pattern.fullmatch(name)
            if match:
                found.append((kind, match["variant"], name))
                break
    return found
