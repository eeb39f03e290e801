"""Opens the file of a LoRA: on the Hugging Face hub, in a folder, or anywhere else by its path or URI."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from vidgen_dist.errors import Refused
from vidgen_dist.spec import LoraOptions
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import fetch, stamp
from vidgen_dist.storage.local_files import create_local
from vidgen_dist.storage.uris import is_local, local_path, redact, scheme_of
from vidgen_dist.weights import hub
from vidgen_dist.weights.checkpoint_files import is_folder, is_there, names_in, read_json
from vidgen_dist.weights.contract import SamplingContract, contract_names, read_contract
from vidgen_dist.weights.digests import digest_of, file_digest
from vidgen_dist.weights.tensors import TensorFiles, read_metadata

PEFT_CONFIG = "adapter_config.json"
"""PEFT's settings, beside its `adapter_model.safetensors`."""

METADATA = "lora_adapter_metadata"
"""The key of a safetensors file's metadata under which diffusers keeps the same settings, as JSON."""

_USUAL_NAMES = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "diffusion_pytorch_model.safetensors",
)
"""How diffusers, PEFT and AnimateDiff's motion LoRAs name the file, the likeliest first."""

_ALLOWED = "a folder or hub id with one .safetensors file, or the path or URI of such a file"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA on this machine's disk.

    Args:
        id: Hub id, folder, path or URI, as the user named it.
        scale: How much of it is added.
        revision: The commit of a hub id; otherwise None.
        tensors: What its file holds.
        settings: Settings of PEFT's `LoraConfig`, by component; under "" those for any component.
        digest: SHA-256, as hex, of what it adds to weights: of the file and its settings.
        contract: How models with it are to be sampled, if it says so.
        state: Size and times of its file: another state may be another content.
    """

    id: str
    scale: float
    revision: str | None
    tensors: TensorFiles
    settings: Mapping[str, Mapping[str, Any]]
    digest: str
    contract: SamplingContract | None = None
    state: tuple[int, ...] = ()

    @property
    def path(self) -> Path:
        """Its file."""
        return self.tensors.folders[0]

    @property
    def num_parameters(self) -> int:
        """The number of values in its tensors."""
        return sum(math.prod(self.tensors.shape(key)) for key in self.tensors.keys)

    @property
    def place(self) -> str:
        """What messages call it."""
        return redact(self.id)


def open_lora(options: LoraOptions) -> LoraFile:
    """Open a LoRA, fetching it if it is not on this machine yet.

    Args:
        options: Which file. A `digest` is not compared with the content.

    Raises:
        Refused: Nothing is there, or nothing that can be read; several files, and none of a usual name; not
            safetensors; NaN or infinite values; settings or a contract that cannot be read.
    """
    if scheme_of(options.id) and not is_local(options.id):
        _refuse_names(options)
        return _opened(options, _fetched(options.id), None)
    local = Path(local_path(options.id) if is_local(options.id) else options.id)
    if is_there(local) and not is_folder(local):
        _refuse_names(options)
        return _opened(options, local, None)
    folder = hub.folder_of("lora", options.id, "its revision", options.revision, _ALLOWED)
    if folder is not None:
        return _opened(options, folder / _file_in(folder, options), None)
    return _opened_from_hub(options)


def unchanged(lora: LoraFile, options: LoraOptions) -> LoraFile:
    """The LoRA, if its content is what a run has found when it began.

    Raises:
        Refused: It is another.
    """
    if options.digest is not None and lora.digest != options.digest:
        raise Refused(f"lora {lora.place!r}: its content has changed since the run began; start it again")
    return lora


def _refuse_names(options: LoraOptions) -> None:
    for key in ("revision", "weight_name"):
        if (value := getattr(options, key)) is not None:
            raise Refused(
                f"lora {redact(options.id)!r} is a file, which has no {key} {value!r}; leave it out"
            )


def _opened_from_hub(options: LoraOptions) -> LoraFile:
    with hub.refusals("lora", options.id, options.revision, "it has no .safetensors file", _ALLOWED):
        try:
            names = hub.list_files(options.id, options.revision)
        except OSError as error:
            found = hub.cached_revision(options.id, options.revision)
            if found is None:
                raise
            commit, folder = found
            with hub.cached_only(options.id, error):
                return _opened(options, folder / _file_in(folder, options), commit)
        name = _file_among(names, options, options.id)
        commit, folder = hub.locate(options.id, options.revision, name)
        beside = [other for other in _beside(name) if other in names]
        if beside:
            hub.download(options.id, commit, folder, beside)
    return _opened(options, folder / name, commit)


def _beside(name: str) -> list[str]:
    """The files beside a LoRA's that belong to it: PEFT's settings, and its sampling contract."""
    folder, _, last = name.rpartition("/")
    return [posixpath.join(folder, other) for other in (PEFT_CONFIG, *contract_names(last))]


def _file_in(folder: Path, options: LoraOptions) -> str:
    """The name of the LoRA's file in a folder, which may name a folder in it.

    Raises:
        Refused: See `_file_among`.
    """
    below = str(PurePosixPath(options.weight_name or "").parent)
    names = [posixpath.join(below, name) for name in names_in(folder / below)] if below != "." else []
    return _file_among([*names_in(folder), *names], options, str(folder))


def _file_among(names: Sequence[str], options: LoraOptions, where: str) -> str:
    """The name of the LoRA's file: the one that the options name, or one at the top.

    Raises:
        Refused: There is none, or it is not clear which is meant.
    """
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    listing = ", ".join(found) or "none"
    if options.weight_name is not None:
        if options.weight_name not in names:
            raise Refused(f"{where}: no file {options.weight_name!r} (weight_name); it has {listing}")
        return options.weight_name
    usual = [name for name in _USUAL_NAMES if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    if found:
        raise Refused(f"{where}: has several files, {listing}; say which is the LoRA with weight_name")
    raise Refused(f"{where}: no LoRA in it{hub.single_file(names)}; allowed: {_ALLOWED}")


def state_of(path: Path) -> tuple[int, ...]:
    """Size and times of a file; empty if there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _opened(options: LoraOptions, path: Path, commit: str | None) -> LoraFile:
    state = state_of(path)
    settings = _settings(path)
    parts = {"weights": _checked_digest(path, state), "settings": json.dumps(settings, sort_keys=True)}
    return LoraFile(
        options.id,
        options.scale,
        commit,
        TensorFiles.open_file(path),
        settings,
        digest_of(parts),
        read_contract(path.parent, path.name),
        state,
    )


@functools.lru_cache(maxsize=4096)
def _checked_digest(path: Path, _state: tuple[int, ...]) -> str:
    """A file's SHA-256; its values are checked, too. Each state of a file is read once by a process.

    Raises:
        Refused: Not safetensors, or a value is NaN or infinite.
    """
    tensors = TensorFiles.open_file(path)
    for key in tensors.keys:
        if not np.isfinite(tensors.read(key).astype(np.float32)).all():
            raise Refused(f"{path}: {key} has values that are NaN or infinite")
    return file_digest(path)


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    """PEFT's settings, by component: from the file's metadata, or from `adapter_config.json` beside it."""
    text = read_metadata(path).get(METADATA)
    if text is None:
        beside = path.parent / PEFT_CONFIG
        return (
            {"": read_json(beside)} if path.name == "adapter_model.safetensors" and is_there(beside) else {}
        )
    try:
        whole = json.loads(text)
        by_component: dict[str, dict[str, Any]] = {}
        for key, value in whole.items():
            component, _, setting = key.partition(".")
            by_component.setdefault(component, {})[setting] = value
    except (ValueError, AttributeError) as error:
        raise Refused(f"{path}: metadata {METADATA}: not a JSON object of settings ({error})") from None
    return by_component


def _fetched(uri: str) -> Path:
    """A local copy of a file by URI, one on this machine for each content, with the files that belong to it.

    Raises:
        Refused: It cannot be read.
    """
    try:
        stamps = {uri: stamp(uri)}
        for other in _beside(uri):
            # A signature in a URI opens that file alone.
            if "?" not in uri and (found := _stamp_if_there(other)) is not None:
                stamps[other] = found
        folder = _cache() / hashlib.sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()
        # The LoRA last: with it, all are there.
        for each in reversed(stamps):
            path = folder / posixpath.basename(urlsplit(each).path)
            if not path.is_file():
                with create_local(str(path)) as file:
                    fetch(each, file.name)
    except (StorageError, FileNotFoundError) as error:
        raise Refused(f"lora {redact(uri)!r}: {error}") from error
    except OSError as error:
        raise Refused(f"lora {redact(uri)!r}: its copy cannot be kept in {_cache()}: {error}") from error
    return path


def _stamp_if_there(uri: str) -> str | None:
    try:
        return stamp(uri)
    except FileNotFoundError:
        return None


def _cache() -> Path:
    """The folder of fetched files."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "vidgen_dist" / "loras"
