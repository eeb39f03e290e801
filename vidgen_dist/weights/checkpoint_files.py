"""A checkpoint's files: whether they exist and can be read, and what a file is that cannot be parsed."""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidgen_dist.errors import Refused

_AGAIN = "copy or download it again"
_CONVERT = (
    "diffusers' DiffusionPipeline.from_pretrained(MODEL).save_pretrained(FOLDER) writes safetensors, and "
    "some repositories of the hub have them at another --revision"
)
_BEGINNINGS = (
    (rb"version https://git-lfs", "a git-lfs pointer: run `git lfs pull` in the checkpoint's folder"),
    (rb"\s*<(!doctype html|html|head|body)", f"an HTML page, such as a login or a server's error: {_AGAIN}"),
    (rb"\s*<(\?xml|error)", f"an XML text, such as a storage's error: {_AGAIN}"),
    (rb"GGUF", "a GGUF file, whose weights are quantised: take the checkpoint's safetensors"),
    (rb"PK\x03\x04|\x80[\x02-\x05]", f"a pickled PyTorch file: {_CONVERT}"),
    (rb"\x89HDF", "an HDF5 file: take the checkpoint's safetensors"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd", "a compressed file: unpack it"),
    (rb"\0{64}", f"zeros, as a copy that was cut short leaves: {_AGAIN}"),
)
"""What files begin with, and what they are."""

_NOT_READ = {
    "pickled": (".bin", ".ckpt", ".pt", ".pth", ".pkl"),
    "quantised": (".gguf", ".ggml"),
    "of another framework": (".msgpack", ".h5", ".onnx", ".onnx_data", ".pdparams", ".tflite", ".npz"),
}
"""Name endings of weight files that are not read."""


def is_there(path: Path) -> bool:
    """Whether a folder has a file of this name, even if it is unreadable or a broken link.

    Raises:
        Refused: The folder may not be entered.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def is_folder(path: Path) -> bool:
    """Whether this is a folder.

    Raises:
        Refused: It is a broken link, or is in a folder that may not be entered.
    """
    if not is_there(path):
        return False
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise unreadable(path, error) from error


def names_in(folder: Path) -> list[str]:
    """The names of a folder's files, sorted; unreadable files too.

    Raises:
        Refused: The folder does not exist, or may not be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not (folder / name).is_dir())
    except OSError as error:
        raise unreadable(folder, error) from error


def check_readable(path: Path) -> None:
    """Check that a file can be opened.

    Raises:
        Refused: It cannot; the message says why.
    """
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> Refused:
    """The error that says why a file or folder cannot be read."""
    if error.errno in (errno.EACCES, errno.EPERM):
        why = f"no permission to read it for the user {_user()}, or to enter a folder above it"
    elif path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
        why = (
            f"it is a link to {os.readlink(path)}, which does not lead to a file: if this is the hub's "
            "cache, download the model again"
        )
    elif error.errno == errno.ENOENT:
        why = "the file is missing"
    elif error.errno == errno.EISDIR:
        why = "it is a folder; a file is needed"
    else:
        why = f"it cannot be read ({error.strerror or error})"
    return Refused(f"{path}: {why}")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user without a name, as in containers
        return str(os.geteuid())


def what_it_is(path: Path) -> str:
    """What an unparsable file is, as the end of a message; empty if unknown."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    if not start:
        return f"; it is empty: {_AGAIN}"
    for pattern, told in _BEGINNINGS:
        if re.match(pattern, start, re.IGNORECASE):
            return f"; it is {told}"
    return ""


def describe_unread_weights(names: Iterable[str]) -> str:
    """Which weight files in a folder are not read, as the end of a message; empty if there are none."""
    found = sorted(names)
    told = []
    for kind, ends in _NOT_READ.items():
        of_kind = [name for name in found if name.endswith(ends)]
        if of_kind:
            more = f" and {len(of_kind) - 3} more" if len(of_kind) > 3 else ""
            told.append(f"{', '.join(of_kind[:3])}{more} ({kind}) is not read")
    if not told:
        return ""
    return f"; {', '.join(told)}: {_CONVERT}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        Refused: The file is missing or unreadable, is not JSON (with the line), or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        told = f"{path}, line {error.lineno}: not JSON ({error.msg}){what_it_is(path)}"
        raise Refused(told) from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: cannot be read as UTF-8 text ({error}){what_it_is(path)}") from None
    except RecursionError:
        raise Refused(f"{path}: not JSON of a config: it is nested too deeply") from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(value, dict):
        raise Refused(f"{path}: must hold a JSON object, holds {type(value).__name__}")
    return value
