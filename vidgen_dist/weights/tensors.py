"""Reads tensors, or slices of them, one by one from the safetensors files of a component's folder."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

# NumPy represents bfloat16 and float8 by these types; safetensors finds bfloat16's once this is imported.
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from vidgen_dist.errors import Refused
from vidgen_dist.weights import naming
from vidgen_dist.weights.checkpoint_files import (
    check_readable,
    describe_unread_weights,
    is_folder,
    is_there,
    names_in,
    read_json,
    what_it_is,
)
from vidgen_dist.weights.quantised import refuse_files, refuse_tensors

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""The dtypes of safetensors that are read, by their names in headers."""


_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors refuses longer headers."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its file, shape and dtype; for float8 also the byte at which it starts."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int | None = None


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of one component. Opening reads the files' headers, `read` reads one tensor's data.

    Args:
        folders: Their folders, or their file.
        entries: Every tensor by its key.
    """

    folders: tuple[Path, ...]
    entries: Mapping[str, Entry]

    @classmethod
    def open(cls, *folders: Path | str, variant: str | None = None) -> TensorFiles:
        """Open the weights in folders: a file or shards in each, of `variant` if the folder has it.

        Raises:
            Refused: No safetensors weights; a missing shard; an index with a key that its shard lacks; a file
                that is cut short, unreadable or not safetensors; a dtype that NumPy does not have; quantised
                weights; a key in two folders.
        """
        paths = tuple(map(Path, folders))
        entries: dict[str, Entry] = {}
        for folder in paths:
            own = _entries(folder, variant)
            twice = sorted(own.keys() & entries.keys())
            if twice:
                raise Refused(
                    f"{folder}: {twice[0]} is in {entries[twice[0]].file.parent}, too; only one is allowed"
                )
            entries |= own
        return cls(paths, entries)

    @classmethod
    def open_file(cls, path: Path) -> TensorFiles:
        """Open a single file.

        Raises:
            Refused: It is missing, cut short, unreadable or not safetensors; a dtype that NumPy does not
                have; quantised weights.
        """
        entries = _header(path)
        refuse_tensors(path, {key: entry.dtype for key, entry in entries.items()})
        return cls((path,), entries)

    @property
    def place(self) -> str:
        """The folders or the file, for messages."""
        return " and ".join(map(str, self.folders))

    @property
    def keys(self) -> list[str]:
        return list(self.entries)

    def shape(self, key: str) -> tuple[int, ...]:
        return self.entries[key].shape

    def dtype(self, key: str) -> np.dtype:
        return self.entries[key].dtype

    def read(self, key: str, part: Any = None) -> np.ndarray:
        """Read a tensor, or a part of it.

        Args:
            key: The tensor's key.
            part: An array index: a slice or a tuple of slices. Nothing else is read.

        Returns:
            A new array with the file's dtype, which nothing else refers to; float8 becomes bfloat16, which
            holds all of its values.
        """
        # Opened for this tensor only: a file that stays mapped keeps every page that was read in memory, and
        # together with the copies that is the whole checkpoint twice.
        entry = self.entries[key]
        if entry.start is not None:
            return _float8(entry, entry.start, part)
        with _opened(entry.file) as file:
            data = file.get_tensor(key) if part is None else file.get_slice(key)[part]
        # MindSpore brings its own NumPy type for bfloat16, which safetensors may choose: the bits are the
        # same.
        return np.asarray(data).view(entry.dtype)


def _entries(folder: Path, variant: str | None) -> Mapping[str, Entry]:
    if not is_folder(folder):
        raise Refused(f"{folder}: no such folder of weights")
    names = names_in(folder)
    refuse_files(folder, names)
    chosen = naming.choose(names, variant)
    if chosen is None:
        raise Refused(_nothing_to_read(folder, names))
    entries = _sharded(folder / chosen.entry) if chosen.sharded else _header(folder / chosen.entry)
    refuse_tensors(folder / chosen.entry, {key: entry.dtype for key, entry in entries.items()})
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file.

    Raises:
        Refused: It is missing, cut short, unreadable or not safetensors.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # safetensors reports any file that it cannot open as missing.
    check_readable(path)
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        told = _missing_bytes(path) or what_it_is(path)
        raise Refused(f"{path}: not a whole safetensors file ({error}){told}") from error


def _missing_bytes(path: Path) -> str:
    """How many of its bytes a safetensors file has, if not all; otherwise empty."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            first, header = _parsed_header(file)
        whole = first + max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, struct.error):
        return ""
    return f"; it has {size:,} of {whole:,} bytes: copy or download it again" if size < whole else ""


def _header(path: Path) -> dict[str, Entry]:
    with _opened(path) as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        described = {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
    unknown = sorted({dtype for _, dtype in described.values()} - DTYPES.keys())
    if unknown:
        raise Refused(f"{path}: dtype {', '.join(unknown)}; allowed are {', '.join(DTYPES)}")
    starts = _starts(path) if any(dtype.startswith("F8_") for _, dtype in described.values()) else {}
    return {
        key: Entry(path, shape, np.dtype(DTYPES[dtype]), starts[key] if dtype.startswith("F8_") else None)
        for key, (shape, dtype) in described.items()
    }


def _starts(path: Path) -> dict[str, int]:
    """The byte at which each tensor of a safetensors file starts."""
    with path.open("rb") as file:
        first, header = _parsed_header(file)
    return {key: first + entry["data_offsets"][0] for key, entry in header.items()}


def _parsed_header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """The byte from which offsets are counted, and the header's entry of each tensor."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST_HEADER:
        raise ValueError(f"{length} bytes cannot be a header's length")
    header = json.loads(file.read(length))
    return 8 + length, {key: entry for key, entry in header.items() if key != "__metadata__"}


def _float8(entry: Entry, start: int, part: Any) -> np.ndarray:
    """A float8 tensor, or a part of it, as bfloat16; safetensors asks NumPy for dtypes that it lacks."""
    length = math.prod(entry.shape)
    if not length:
        return np.zeros(entry.shape, ml_dtypes.bfloat16)[... if part is None else part]
    check_readable(entry.file)
    mapped = np.memmap(entry.file, np.uint8, "r", start, (length,))
    data = mapped.view(np.ndarray).view(entry.dtype).reshape(entry.shape)
    return data[... if part is None else part].astype(ml_dtypes.bfloat16)


def _sharded(index: Path) -> dict[str, Entry]:
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    missing = [name for name in shards if not is_there(index.parent / name)]
    if missing:
        raise Refused(f"{index}: it names the shard {', '.join(missing)}, which is missing")
    headers = {name: _header(index.parent / name) for name in shards}
    for key, name in weight_map.items():
        if key not in headers[name]:
            raise Refused(f"{index}: it places {key} in {name}, which does not contain it")
    for name in shards:
        unnamed = [key for key in headers[name] if key not in weight_map]
        if unnamed:
            raise Refused(f"{index}: it does not name {', '.join(unnamed[:10])} of {name}")
    return {key: headers[name][key] for key, name in sorted(weight_map.items())}


def read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of a sharded checkpoint's index: key -> the shard's file name.

    Raises:
        Refused: Not JSON, or without a `weight_map` of names.
    """
    weight_map = read_json(path).get("weight_map")
    allowed = "weight_map must be an object of tensor keys to file names in the same folder"
    if not isinstance(weight_map, dict) or not weight_map:
        raise Refused(f"{path}: {allowed}")
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise Refused(f"{path}: {key}: {name!r}; {allowed}")
    return weight_map


def _nothing_to_read(folder: Path, names: list[str]) -> str:
    allowed = (
        "allowed are diffusion_pytorch_model.safetensors, model.safetensors and their shards with an index"
    )
    variants = sorted(naming.variants(names))
    if variants:
        return f"{folder}: has weights of the variant {', '.join(variants)} only; name it with --variant"
    if any(name.endswith(".safetensors") for name in names):
        found = ", ".join(name for name in names if name.endswith(".safetensors"))
        return f"{folder}: found {found} but no index and no file under a known name; {allowed}"
    return f"{folder}: no safetensors weights{describe_unread_weights(names)}; {allowed}"
