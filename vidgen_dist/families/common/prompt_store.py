"""A store of encoded prompts, for later runs over the same prompts: they load and run no encoder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import typing
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vidgen_dist.errors import Refused
from vidgen_dist.storage.folder import Storage
from vidgen_dist.weights.digests import digest_of

logger = logging.getLogger(__name__)

FORMAT = "1"
"""Raised when a family encodes prompts differently, or entries change: those of before are not used."""

_KEY, _DIGEST = "key", "sha256"


@dataclass(frozen=True)
class PromptStore:
    """Encoded prompts by the digest of all that decides them, each a safetensors file of its own.

    An entry is written whole, and two writers of one key write the same content: many may write at once. An
    entry that is torn, or not what its name says, is not used, and is written again.

    Args:
        folder: Where they are.
        encoders: Digest of what decides the encoding of every prompt: model, dtype, pipeline.
    """

    folder: Storage
    encoders: str

    def key(self, text: str, decides: Hashable, loras: Sequence[tuple[str, float]]) -> str:
        """An entry's key.

        Args:
            text: The prompt.
            decides: Other values of the request that the encoding depends on.
            loras: Digests and scales of the LoRAs in the encoders.
        """
        parts = {"text": text, "decides": repr(decides), "loras": json.dumps(list(loras))}
        return digest_of({"format": FORMAT, "encoders": self.encoders, **parts})

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of an entry by name; None if there is none that can be used."""
        try:
            content = self.folder.read_bytes(_path(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(f"encoded prompts cannot be read from {self.folder.uri()}: {error}")
            return None
        try:
            return _parsed(key, content)
        except (SafetensorError, ValueError, KeyError) as error:
            logger.warning("%s: not used, and written again: %s", self.folder.uri(_path(key)), error)
            return None

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep an entry. A storage that refuses it is warned of: the video does not need it."""
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        content = save(arrays, metadata={_KEY: key, _DIGEST: _digest(arrays)})
        try:
            self.folder.write_bytes(_path(key), content)
        except (OSError, Refused) as error:
            _warn(f"encoded prompts cannot be kept in {self.folder.uri()}: {error}")


@functools.cache
def _warn(told: str) -> None:
    """Warn once in a process."""
    logger.warning("%s", told)


def _path(key: str) -> str:
    return f"{key[:2]}/{key}.safetensors"


def _parsed(key: str, content: bytes) -> dict[str, np.ndarray]:
    arrays = load(content)
    length = int.from_bytes(content[:8], "little")
    said = json.loads(content[8 : 8 + length])["__metadata__"]
    if said[_KEY] != key:
        raise ValueError(f"it is that of {said[_KEY]}")
    if said[_DIGEST] != _digest(arrays):
        raise ValueError("its content is not what was written")
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {values.shape}\0".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def condition_class(pipeline: type) -> type[Any]:
    """The dataclass of a pipeline's encoded prompts: the second parameter of `PromptedPipeline`.

    Raises:
        TypeError: The class does not say it.
    """
    for base in (base for kind in pipeline.__mro__ for base in vars(kind).get("__orig_bases__", ())):
        arguments = typing.get_args(base)
        if len(arguments) >= 2 and dataclasses.is_dataclass(arguments[1]):
            return typing.cast("type[Any]", arguments[1])
    raise TypeError(f"{pipeline.__name__} does not say the class of its conditions")
