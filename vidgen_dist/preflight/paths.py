"""The paths and URIs of a run: made absolute for workers, and without secrets for run.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.preflight.sampling import change_sampling_media, sampling_media
from vidgen_dist.spec import LoraOptions, RunSpec
from vidgen_dist.storage.folder import Storage, open_writable
from vidgen_dist.storage.uris import absolute, is_local, lacks_secret, redact, to_record


def check_secrets(spec: RunSpec) -> None:
    """Refuse URIs that a run has recorded without their secrets, see `uris.to_record`."""
    media = {f"sampling.{name}": uri for name, uri in sampling_media(spec).items()}
    loras = {f"model.loras.{k}.id": lora.id for k, lora in enumerate(spec.model.loras)}
    for key, uri in {"manifest.uri": spec.manifest.uri, **media, **loras}.items():
        if lacks_secret(uri):
            raise Refused(
                f"{key}: {redact(uri)} was written down without the secret that opens it; "
                "give the whole URI again"
            )


def with_absolute_paths(spec: RunSpec, output: Storage) -> RunSpec:
    """The spec with absolute paths: workers, and the next reader of run.yaml, have another current folder.

    Args:
        spec: What the run is.
        output: Its output.
    """
    return spec.override(
        {
            "output.uri": output.root,
            "manifest.uri": absolute(spec.manifest.uri),
            "model.id": _absolute_folder(spec.model.id),
            "model.adapter": _absolute_folder(spec.model.adapter),
            "model.prompt_cache": _writable(spec.model.prompt_cache),
            "model.loras": [_with_absolute_path(lora) for lora in spec.model.loras],
            **change_sampling_media(spec, absolute),
        }
    )


def _absolute_folder(model: str | None) -> str | None:
    """A folder's absolute path; a hub id as it is."""
    folder = None if model is None else absolute(model)
    return folder if folder is not None and Path(folder).is_dir() else model


def _writable(uri: str | None) -> str | None:
    """The folder or URI of a store, in the form that every process opens.

    Raises:
        Refused: It cannot be written to by several processes, or holds a secret.
    """
    return None if uri is None else open_writable(uri).root


def _with_absolute_path(lora: LoraOptions) -> dict[str, Any]:
    """A LoRA's options, the path of a file or folder absolute; a hub id as it is."""
    options = lora.model_dump(exclude_none=True)
    path = absolute(lora.id) if is_local(lora.id) else lora.id
    return {**options, "id": path if Path(path).exists() else lora.id}


def uris_to_record(spec: RunSpec) -> dict[str, Any]:
    """Keys of a spec with URIs, and their values without secrets, for `RunSpec.override`."""
    return {"manifest.uri": to_record(spec.manifest.uri), **change_sampling_media(spec, to_record)}
