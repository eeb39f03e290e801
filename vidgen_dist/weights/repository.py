"""A component in a repository of its own, in a folder or on the Hugging Face hub: a motion adapter.

config.json                                   its settings, and `_class_name`, its class
diffusion_pytorch_model.safetensors           its weights
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vidgen_dist.errors import Refused
from vidgen_dist.weights import hub, naming
from vidgen_dist.weights.checkpoint_files import is_there, names_in, read_json
from vidgen_dist.weights.digests import digest_of, file_digest
from vidgen_dist.weights.quantised import refuse_config
from vidgen_dist.weights.tensors import TensorFiles

CONFIG = "config.json"


@dataclass(frozen=True)
class ComponentRepository:
    """A component on this machine's disk.

    Args:
        model: Hub id or folder, as the user named it.
        revision: The commit of a hub id; None for a folder.
        folder: The folder with its files.
        variant: Variant of the weight files; the plain files if there is no such variant.
        class_name: Its class, as `config.json` names it.
    """

    model: str
    revision: str | None
    folder: Path
    variant: str | None
    class_name: str

    def digest(self) -> str:
        """SHA-256, as hex, of everything that decides what it computes.

        For a hub id: of the commit and the variant. For a folder: of the names and contents of its config and
        of the variant's weights.
        """
        if self.revision is not None:
            return digest_of({"revision": self.revision, "variant": self.variant or ""})
        names = _needed(names_in(self.folder), self.variant)
        return digest_of({name: file_digest(self.folder / name) for name in names})


def open_component(
    key: str, model: str, *, revision: str | None = None, variant: str | None = None, weights: bool = True
) -> ComponentRepository:
    """Open a component, downloading from the hub what is not yet in the cache.

    Args:
        key: What messages call it, such as `adapter`.
        model: A folder, or a hub id.
        revision: Branch, tag or commit of a hub id; by default its main branch.
        variant: Variant of the weight files, e.g. `fp16`.
        weights: False to download only the config.

    Raises:
        Refused: Neither a folder nor a hub id; not found, gated, or neither reachable nor in the cache; no
            config that names a class; weights that are missing, cut short or not safetensors.
    """
    allowed = f"a folder that holds {CONFIG} and weights, or a hub id"
    folder = hub.folder_of(key, model, f"{key}_revision", revision, allowed)
    if folder is not None:
        if not is_there(folder / CONFIG):
            raise Refused(f"{key} {model!r}: no {CONFIG} in it; allowed: {allowed}")
        return _described(key, model, None, folder, variant, weights=True)
    with hub.refusals(key, model, revision, f"no {CONFIG} in it", allowed):
        commit, folder = hub.locate(model, revision, CONFIG)
        try:
            names = hub.list_files(model, commit)
        except OSError as error:
            with hub.cached_only(model, error):
                return _described(key, model, commit, folder, variant, weights)
        hub.download(model, commit, folder, _needed(names, variant, weights))
    return _described(key, model, commit, folder, variant, weights)


def _described(
    key: str, model: str, commit: str | None, folder: Path, variant: str | None, weights: bool
) -> ComponentRepository:
    config = read_json(folder / CONFIG)
    refuse_config(folder / CONFIG, config)
    class_name = config.get("_class_name")
    if not isinstance(class_name, str):
        raise Refused(f"{key} {model!r}: {folder / CONFIG} names no class (_class_name is {class_name!r})")
    if weights:
        TensorFiles.open(folder, variant=variant)
    return ComponentRepository(model, commit, folder, variant, class_name)


def _needed(names: Iterable[str], variant: str | None, weights: bool = True) -> list[str]:
    """The file names that decide what the component computes, sorted."""
    here = [name for name in names if "/" not in name]
    chosen = naming.choose(here, variant) if weights else None
    return sorted({CONFIG, *(chosen.all if chosen else ())})
