"""Loads published weights into a module's parameters, with one copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.errors import Refused, listed
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.sharding import read_again, shard
from vidgen_dist.weights.lora.merge import Read, Terms, merged
from vidgen_dist.weights.tensors import TensorFiles

SHOWN = 10
"""How many keys of one kind an error message lists."""


@dataclass(frozen=True)
class MatchedWeights:
    """A module, and the files with the weights that fit it.

    Args:
        module: Its parameters are empty, or are replaced.
        files: The files.
        sources: The module's names -> the checkpoint's keys.
    """

    module: nn.Module
    files: TensorFiles
    sources: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' shapes, by the module's names."""
        return {name: self.files.shape(key) for name, key in self.sources.items()}

    def load(
        self,
        *,
        dtype: str | None = None,
        own_dtypes: Mapping[str, str] | None = None,
        mesh: Mesh | None = None,
        terms: Terms | None = None,
    ) -> None:
        """Give every parameter its values.

        Each tensor is read, cast and assigned to its parameter without another copy, so peak memory is the
        weights plus one tensor.

        In a gang of several ranks, what the module's class declares as `sharded` is divided: each rank reads
        and keeps only its slices, see `parallel.sharding`. Every rank has all other parameters whole.

        Args:
            dtype: The new dtype of floating-point parameters, e.g. "bfloat16"; by default their present one.
                On CPU always float32, the only dtype that its kernels have.
            own_dtypes: The same for some parameters that are not sharded, by the beginning of their names.
            mesh: The gang that runs the module; all ranks load at the same time. By default this process
                alone.
            terms: What LoRAs add to the parameters, by name.
        """
        parameters = nn.named_parameters(self.module)
        wanted = "float32" if nn.device() == "cpu" else dtype
        read = self._reader(terms or {})
        shared: set[str] = set()
        if mesh is not None and mesh.size > 1:
            shared = shard(self.module, mesh.gang, read, lambda parameter: _dtype(parameter, wanted))
        for name in self.sources:
            if name not in shared:
                own = next(
                    (own for start, own in (own_dtypes or {}).items() if name.startswith(start)), wanted
                )
                of_device = wanted if nn.device() == "cpu" else own
                _assign(parameters[name], read(name, None), _dtype(parameters[name], of_device))

    def read_again(
        self, names: Collection[str], terms: Terms, on_read: Callable[[], None] = lambda: None
    ) -> None:
        """Read some parameters again, after `load`: they get the files' values with the LoRAs added.

        Takes no memory beyond that of one tensor, or of a block's share.

        Args:
            names: The parameters' names.
            terms: What LoRAs add to the parameters, by name.
            on_read: Called for each tensor, or part of one, that is read.
        """
        from_files = self._reader(terms)

        def read(name: str, rows: slice | None) -> np.ndarray:
            on_read()
            return from_files(name, rows)

        parameters = nn.named_parameters(self.module)
        whole = [name for name in names if name in parameters]
        for name in whole:
            _assign(parameters[name], read(name, None), parameters[name].dtype)
        if len(whole) < len(names):
            read_again(self.module, names, read)

    def _reader(self, terms: Terms) -> Read:
        return merged(lambda name, rows: self.files.read(self.sources[name], rows), terms)


class LazyWeights:
    """Weights that are read when they are needed.

    Args:
        matched: The module and its files.
        how: Arguments of `MatchedWeights.load` besides `terms`.
        terms: What LoRAs add to the parameters.
    """

    def __init__(self, matched: MatchedWeights, how: Mapping[str, Any], terms: Terms) -> None:
        self._matched = matched
        self._how = how
        self._terms = terms
        self.loaded = False

    def load(self) -> None:
        """Read them, unless that was done."""
        if not self.loaded:
            self._matched.load(**self._how, terms=self._terms)
            self.loaded = True

    def read_again(
        self, names: Collection[str], terms: Terms, on_read: Callable[[], None] = lambda: None
    ) -> None:
        """As `MatchedWeights.read_again`; weights that were not read yet will be read with these LoRAs."""
        self._terms = terms
        if self.loaded:
            self._matched.read_again(names, terms, on_read)


class LazyModel:
    """A model whose weights are read at its first call.

    In a gang, all ranks call it for the first time for the same row.

    Args:
        model: The model.
        weights: Its weights.
    """

    def __init__(self, model: nn.Module, weights: LazyWeights) -> None:
        self._model = model
        self._weights = weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._weights.load()
        return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def load_weights(
    module: nn.Module,
    *folders: Path | str,
    variant: str | None = None,
    dtype: str | None = None,
    own_dtypes: Mapping[str, str] | None = None,
    rename: Callable[[str], str | None] | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Give every parameter of a module its values from safetensors files.

    Args:
        module, folders, variant, rename: As for `match_weights`.
        dtype, own_dtypes, mesh: As for `MatchedWeights.load`.

    Raises:
        Refused: As `match_weights`.
    """
    matched = match_weights(module, *folders, variant=variant, rename=rename)
    matched.load(dtype=dtype, own_dtypes=own_dtypes, mesh=mesh)


def match_weights(
    module: nn.Module,
    *folders: Path | str,
    variant: str | None = None,
    rename: Callable[[str], str | None] | None = None,
) -> MatchedWeights:
    """Compare the keys and shapes in the files' headers with a module's parameters; nothing else is read.

    Args:
        module: Its parameters' names are the checkpoint's keys.
        folders: The component's folder; several, if parts of it are in folders of their own.
        variant: Variant of the files; the plain files if a folder has no such variant.
        rename: Takes a checkpoint's key, returns the module's name, or None to skip the tensor. If two keys
            get one name (tied weights, stored twice), the key that equals the name is read.

    Raises:
        Refused: Missing or surplus keys, or shapes that differ from the module's; the message names the keys
            (up to 10 of each kind) and both shapes. Also whatever `TensorFiles.open` refuses.
    """
    files = TensorFiles.open(*folders, variant=variant)
    sources = _sources(files, rename)
    complaint = _mismatch(files, sources, nn.named_parameters(module))
    if complaint:
        raise Refused(f"{files.place}: these weights do not belong to a {type(module).__name__}: {complaint}")
    return MatchedWeights(module, files, sources)


def _sources(files: TensorFiles, rename: Callable[[str], str | None] | None) -> dict[str, str]:
    """Module's name -> checkpoint's key."""
    if rename is None:
        return {key: key for key in files.keys}
    sources: dict[str, str] = {}
    for key in files.keys:
        name = rename(key)
        if name is None:
            continue
        if name in sources and name not in (key, sources[name]):
            raise Refused(f"{files.place}: {sources[name]} and {key} both stand for {name}; only one may")
        if name not in sources or name == key:
            sources[name] = key
    return sources


def _mismatch(files: TensorFiles, sources: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
    """What does not match, as a sentence; empty if everything does."""
    missing = [name for name in parameters if name not in sources]
    surplus = [key for name, key in sources.items() if name not in parameters]
    shapes = [
        f"{key} is {files.shape(key)} in the file and {tuple(parameters[name].shape)} in the model"
        for name, key in sources.items()
        if name in parameters and files.shape(key) != tuple(parameters[name].shape)
    ]
    whole = [
        f"{key} is {files.dtype(key)}"
        for name, key in sources.items()
        if name in parameters and files.dtype(key).kind in "iub"
    ]
    kinds = (
        ("missing", missing),
        ("surplus", surplus),
        ("of another shape", shapes),
        ("of whole numbers", whole),
    )
    return "; ".join(f"{len(keys)} {kind}: {listed(keys, SHOWN)}" for kind, keys in kinds if keys)


def _dtype(parameter: nn.Parameter, wanted: str | None) -> Any:
    """The parameter's new dtype."""
    return nn.dtype(wanted) if wanted is not None and parameter.dtype in _FLOATS else parameter.dtype


def _assign(parameter: nn.Parameter, data: np.ndarray, dtype: Any) -> None:
    if parameter.dtype != dtype:
        parameter.set_dtype(dtype)
    parameter.set_data(nn.from_numpy(data, dtype))


_FLOATS = (nn.float32, nn.float16, nn.bfloat16)
