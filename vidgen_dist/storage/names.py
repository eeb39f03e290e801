"""Names of files: the names for rows, and names that readers ignore."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata

from vidgen_dist.output_layout import VIDEOS_FOLDER

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_SAFE_NAME = re.compile(r"(?!.*--)[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9_-])?")
# Names that Windows reserves for devices, with any extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(row_id: str) -> str:
    """The file name of a row: different for each id, even where case does not count.

    An id of up to 100 lower-case ASCII letters, digits, ``_``, ``-`` and ``.`` is its own name, except
    ``videos`` and what Windows reserves for devices. Any other id becomes a readable part of at most 60
    characters, ``--`` and 100 bits of its SHA-256. The two kinds never clash, because an id with ``--`` in it
    is not its own name. A name holds no separator, does not begin with a dot and is never ``..`` or the like,
    so a path made from it stays in its folder.
    """
    # A video's path in its output is what follows the last `/videos/`: no part of it may be called so.
    taken = row_id == VIDEOS_FOLDER or _DEVICE_NAME.fullmatch(row_id)
    if _SAFE_NAME.fullmatch(row_id) and not taken:
        return row_id
    ascii_text = unicodedata.normalize("NFKD", row_id[:1000]).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9_]+", "-", ascii_text)[:60].strip("-") or "row"
    digest = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()
    return f"{readable}--{base64.b32encode(digest).decode().lower()[:20]}"


def is_temporary(path: str) -> bool:
    """Whether a path has the temporary name under which a file is written before it appears."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def is_hidden(path: str) -> bool:
    """Whether readers of data sets ignore a relative path: a part of it begins with ``_`` or ``.``.

    A partition's folder, ``_name=value``, is not hidden, as in Spark.
    """
    return any(part[:1] == "." or (part[:1] == "_" and "=" not in part) for part in path.split("/"))


def check_relative_path(path: str) -> str:
    """The path itself.

    Raises:
        ValueError: It is not a relative path, or could leave its folder.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path
