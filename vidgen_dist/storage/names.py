"""Names of files: of rows, and those that readers pass over."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata

from vidgen_dist.output_layout import VIDEOS_FOLDER

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_SAFE_NAME = re.compile(r"(?!.*--)[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9_-])?")
# Names that Windows keeps for devices, with any extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(row_id: str) -> str:
    """The file name of a row: one for each id, also where case does not count.

    An id of up to 100 lower-case ASCII letters, digits, ``_``, ``-`` and ``.`` is its own name, but for
    ``videos`` and what Windows keeps for devices. Any other id becomes a readable part of at most 60
    characters, ``--`` and 100 bits of its SHA-256; as an id with ``--`` in it is not its own name, the two
    kinds never meet. The name holds no separator, does not begin with a dot and is never a name such as
    ``..``, so that a path made from it stays in its folder.
    """
    # A video's path in its output is what follows the last `/videos/`: no part of it may have that name.
    taken = row_id == VIDEOS_FOLDER or _DEVICE_NAME.fullmatch(row_id)
    if _SAFE_NAME.fullmatch(row_id) and not taken:
        return row_id
    ascii_text = unicodedata.normalize("NFKD", row_id[:1000]).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9_]+", "-", ascii_text)[:60].strip("-") or "row"
    digest = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()
    return f"{readable}--{base64.b32encode(digest).decode().lower()[:20]}"


def is_temporary(path: str) -> bool:
    """Whether a path is the temporary name under which a file is written before it appears."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def is_hidden(path: str) -> bool:
    """Whether readers of data sets pass over a relative path: a part of it begins with ``_`` or ``.``.

    As for Spark, ``_name=value``, a folder of a partition, is not hidden.
    """
    return any(part[:1] == "." or (part[:1] == "_" and "=" not in part) for part in path.split("/"))


def check_relative_path(path: str) -> str:
    """`path`, when it is a relative path that cannot leave its folder."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path
