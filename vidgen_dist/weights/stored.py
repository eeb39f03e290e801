"""What a checkpoint's weights are, by the headers of their files: on this machine's disk, or on the hub."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vidgen_dist.threads import map_ahead
from vidgen_dist.weights import hub, naming
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.tensors import DTYPES, TensorFiles

logger = logging.getLogger(__name__)

_Listing = Callable[[str, str | None], list[str]]

_REQUESTS = 8
"""How many headers are asked for at a time."""


@dataclass(frozen=True)
class StoredWeights:
    """A component's weights as its files hold them.

    Args:
        parameters: Their number, by dtype, the most frequent first.
        bytes: Size of the tensors.
        downloaded: Whether all files are on this machine's disk.
    """

    parameters: Mapping[str, int]
    bytes: int
    downloaded: bool


def stored_weights(checkpoint: Checkpoint, components: Iterable[str]) -> dict[str, StoredWeights]:
    """The weights of components. Left out are those that are not here while the hub cannot be reached.

    Args:
        checkpoint: An opened checkpoint; its weights need not be on this machine.
        components: Components with files of their own.

    Raises:
        Refused: Files on this machine that cannot be read.
    """
    found, lacking = {}, []
    listing = functools.cache(hub.list_files)
    for component in components:
        if checkpoint.has_weights(component):
            found[component] = _on_disk(checkpoint, component)
        else:
            lacking.append(component)
    try:
        return found | {name: _on_the_hub(checkpoint, name, listing) for name in lacking}
    except OSError as error:  # from huggingface_hub, also in offline mode
        logger.warning("%s: weights that are not here are not looked up: %s", checkpoint.model, error)
        return found


def _on_disk(checkpoint: Checkpoint, component: str) -> StoredWeights:
    files = TensorFiles.open(checkpoint.component_folder(component), variant=checkpoint.variant)
    parameters: Counter[str] = Counter()
    for entry in files.entries.values():
        parameters[entry.dtype.name] += math.prod(entry.shape)
    size = sum(entry.dtype.itemsize * math.prod(entry.shape) for entry in files.entries.values())
    return StoredWeights(dict(parameters.most_common()), size, downloaded=True)


def _on_the_hub(checkpoint: Checkpoint, component: str, listing: _Listing) -> StoredWeights:
    """The weights of a component of a hub id.

    Args:
        checkpoint: The checkpoint.
        component: Its component.
        listing: As `hub.list_files`.

    Raises:
        OSError: The hub cannot be reached, or the component has no weights there.
    """
    single = checkpoint.separate.get(component)
    repository = checkpoint if single is None else single
    model, commit = repository.model, repository.revision
    if commit is None:
        raise OSError(f"{model} is a folder without weights of {component}")
    below = f"{component}/" if single is None else ""
    names = [name.removeprefix(below) for name in listing(model, commit) if name.startswith(below)]
    chosen = naming.choose([name for name in names if "/" not in name], checkpoint.variant)
    if chosen is None:
        raise OSError(f"{model} at {commit}: {component} has no safetensors weights")
    headers = map_ahead(
        lambda name: hub.read_header(model, commit, below + name), chosen.files, threads=_REQUESTS
    )
    tensors = [tensor for header in headers for tensor in header]
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        known = DTYPES.get(tensor.dtype)
        parameters[tensor.dtype if known is None else np.dtype(known).name] += tensor.values
    size = sum(tensor.bytes for tensor in tensors)
    return StoredWeights(dict(parameters.most_common()), size, downloaded=False)
