"""URIs: which are paths of this machine, how messages show a URI, and how files record it.

Where a URI can hold a secret:

=====================================  ==========================================================
``http``, ``https``, ``webdav``        a user, a password; parameters of the query (signatures, tokens)
``s3``, ``s3a``                        ``key:secret@`` before the bucket, as Hadoop had it
``ftp sftp ssh smb hdfs webhdfs`` …    a password; a delegation token in the query. The user is not secret,
                                       and without it the URI may not open
``abfs abfss az adl wasb wasbs``       a signature in the query; what is before ``@`` is the container
``gs``, ``gcs``, ``oss``, ``obs``      nothing, except a signature in the query if somebody pasted one
paths, ``file``, ``memory``            nothing
=====================================  ==========================================================

In keys of object stores ``?``, ``#`` and ``@`` are ordinary characters, and ``?`` is also a glob's. `redact`
is for what people read, and leaves out more than it must. `to_record` is for URIs that are opened again: it
leaves out only secrets, and puts ``***`` in their places.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import fsspec

from vidgen_dist.errors import Refused

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What stands before the host. A secret key may hold slashes; a port has only digits.
_PASSWORD = re.compile(r"[^/@:\[]*:(?!\d*(?:[/?#]|$))[^@]*@")
_LOCAL = frozenset({"file", "local"})
_WITH_CONTAINER = frozenset({"abfs", "abfss", "az", "adl", "wasb", "wasbs"})
_OBJECT_STORES = _WITH_CONTAINER | {"s3", "s3a", "gs", "gcs", "oss", "obs", "hf", "memory"}
# Where a user alone gives access: it is a token, or half of a pair of keys.
_USER_IS_SECRET = frozenset({"http", "https", "webdav", "webdavs", "s3", "s3a"})
_WEB = frozenset({"http", "https", "webdav", "webdavs"})
# `github://owner:repository@commit/path` and Amazon's names of access points have colons of their own.
_NO_USER = re.compile(r"(github://|s3a?://arn:)", re.IGNORECASE)

_HIDDEN = "***"
_SIGNING = re.compile(r".*(sig|signature|token|secret|passwd|password|credential)s?", re.IGNORECASE)
_SECRET = re.compile(
    rf"({_SIGNING.pattern})|.*(key|keyid|accessid|auth|authorization|pwd|pass|jwt|hmac|session|sas|policy|code"
    r"|delegation)",
    re.IGNORECASE,
)
_NO_SECRET = frozenset({"versionid", "version", "generation", "revision", "ref", "snapshot"})
# Long, without spaces, with digits and letters: a token, whatever its name.
_LIKE_TOKEN = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+/=_~-]{20,}")


class _UriParts(NamedTuple):
    """The scheme with ``://``, the user with ``@``, host and path, and the query with ``?``."""

    scheme: str
    user: str
    place: str
    query: str


def scheme_of(uri: str) -> str:
    """The scheme in lower case; empty if there is none."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def _parts(uri: str) -> _UriParts:
    found = _SCHEME.match(uri)
    scheme, rest = (found[0], uri[found.end() :]) if found else ("", uri)
    user = ""
    if not _NO_USER.match(uri):
        if password := _PASSWORD.match(rest):
            user = password[0]
        else:
            user = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
            user = f"{user}@" if user else ""
    place, mark, query = rest[len(user) :].partition("?")
    return _UriParts(scheme, user, place, mark + query)


def has_password(uri: str) -> bool:
    """Whether a user and a password stand before the host."""
    return not is_local(uri) and ":" in _parts(uri).user


def redact(uri: str) -> str:
    """The URI without anything that is or may be secret, as messages show it; see the table above."""
    if is_local(uri):
        return uri
    kind, parts = scheme_of(uri), _parts(uri)
    user = parts.user if kind in _WITH_CONTAINER and ":" not in parts.user else ""
    is_key = kind in _OBJECT_STORES and not _has_signature(parts.query)
    place = parts.place.partition("#")[0] if kind in _WEB else parts.place
    return parts.scheme + user + place + (parts.query if is_key else "")


def to_record(uri: str) -> str:
    """The URI as files record it to be opened again: with ``***`` for secrets, see `lacks_secret`."""
    if is_local(uri):
        return uri
    kind, parts = scheme_of(uri), _parts(uri)
    query = "".join(_hide_secret(piece, kind) for piece in re.split(r"(?<=[?&;])", parts.query))
    if parts.user and (":" in parts.user or kind in _USER_IS_SECRET):
        return parts.scheme + parts.place + query + ("&" if query else "?") + _HIDDEN
    return parts.scheme + parts.user + parts.place + query


def without_secrets(uri: str) -> str:
    """The URI in a form for others: unchanged if it holds no secret, otherwise as `redact` shows it."""
    return uri if to_record(uri) == uri else redact(uri)


def lacks_secret(uri: str) -> bool:
    """Whether `to_record` made the URI from one with a secret, so that it does not open."""
    if is_local(uri):
        return False
    return re.search(r"[=?&;]\*\*\*(?=[&;]|$)", _parts(uri).query) is not None


def _has_signature(query: str) -> bool:
    names = re.findall(r"[?&;]([^?&;=]*)=", query)
    return any(_SIGNING.fullmatch(name) for name in names)


def _hide_secret(piece: str, kind: str) -> str:
    """A piece of a query, `name=value&`, without its value if that is a secret."""
    found = re.fullmatch(r"([^=&;]*=)?([^&;]*)([&;]?)", piece)
    if found is None or not found[2]:
        return piece
    name, value, end = found[1] or "", found[2], found[3]
    called = name.rstrip("=")
    if kind in _OBJECT_STORES:
        secret = _SIGNING.fullmatch(called) is not None
    else:
        like_token = called.lower() not in _NO_SECRET and _LIKE_TOKEN.fullmatch(unquote(value)) is not None
        secret = like_token or _SECRET.fullmatch(called) is not None
    return name + (_HIDDEN if secret else value) + end


def redact_message(text: str) -> str:
    """A text without secrets: URIs in it as `redact` shows them, and without the values of secret settings.

    Secret settings are environment variables and entries of fsspec's configuration whose names end like
    `AWS_SECRET_ACCESS_KEY` or `HF_TOKEN`.
    """
    text = re.sub(_SCHEME.pattern + r"[^\s'\"<>]*", lambda found: redact(found[0]), text)
    for secret in _secrets(os.environ) + _secrets(fsspec.config.conf):
        text = text.replace(secret, _HIDDEN)
    return text


_SECRET_NAME = re.compile(r".*(secret|token|password|key|connection_string)", re.IGNORECASE)
# Shorter values would remove ordinary words from messages.
_SECRET_LENGTH = 8


def _secrets(settings: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _secrets(value)
        elif isinstance(value, str) and len(value) >= _SECRET_LENGTH and _SECRET_NAME.fullmatch(name):
            found.append(value)
    return found


# --- paths of this machine -----------------------------------------------------------------------------


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    kind = scheme_of(uri)
    return not kind or kind in _LOCAL


def is_relative(uri: str) -> bool:
    """Whether the URI is a path that depends on the current folder or on the user."""
    return is_local(uri) and not os.path.isabs(_SCHEME.sub("", uri, count=1))


def local_path(uri: str) -> str:
    """The absolute path that a local URI names, without ``..`` (links are not followed).

    `file://` URIs are decoded (`%20` is a space); paths are taken literally.

    Raises:
        Refused: It is empty, names a host, or is a misspelt URI of another storage, see `misspelling`.
    """
    if wrong := misspelling(uri):
        raise Refused(f"{_redact_path(uri)}: {wrong}")
    found = _SCHEME.match(uri)
    path = uri[found.end() :] if found else uri
    if not path:
        raise Refused("an empty path; give a file or a folder")
    if found and found[1].lower() == "file":
        path = unquote(path.removeprefix("localhost"), errors="surrogateescape")
    # Two slashes at the start have no meaning here, but abspath would keep them.
    return os.path.abspath(os.path.expanduser(re.sub(r"^//+", "/", path)))


def absolute(uri: str) -> str:
    """A local path made absolute, see `local_path`; any other URI unchanged."""
    return local_path(uri) if is_local(uri) else uri


def misspelling(uri: str) -> str | None:
    """Why a URI is probably not meant as a local path, and what to write instead; None if it may be.

    An existing path is taken literally, whatever it looks like; so is one that begins with ``/``, ``.`` or
    ``~``.
    """
    if scheme_of(uri) == "file":
        host, _, path = _SCHEME.sub("", uri, count=1).partition("/")
        # Relative paths after `file://` have always been accepted.
        if host[:1] in ("", ".", "~") or host == "localhost":
            return None
        return (
            f"it names a host, {host!r}, but file:// reads only files of this machine; write "
            f"file:///{path or host} for the path /{path or host}, or {host}/{path} for one in this folder"
        )
    if not uri or _SCHEME.match(uri) or uri.startswith(("/", ".", "~")):
        return None
    meant = _intended_uri(uri)
    # The disk is checked last: there are many paths, and most look like paths.
    if meant is None or os.path.lexists(uri):
        return None
    path = f"./{_redact_path(uri)} for a path"
    return f"it is neither an existing path nor a URI; write {redact(meant)}, or {path}"


def _redact_path(path: str) -> str:
    """A path as messages show it: without what would be secret in the URI that was probably meant."""
    meant = _intended_uri(path)
    if meant is None:
        return path
    given, shown = (_SCHEME.sub("", uri, count=1).lstrip("/") for uri in (meant, redact(meant)))
    return path.replace(given, shown)


def _intended_uri(path: str) -> str | None:
    """The URI that a relative path was probably meant to be; None if it is an ordinary path."""
    bare = path.strip(" \t\r\n'\"`<>")
    if _SCHEME.match(bare):
        return bare
    word, colon, rest = bare.partition("/")[0].partition(":")
    after = bare[len(word) + len(colon) :]
    kind = word.lower()
    # One letter is a drive of Windows; data: URIs have no slashes.
    if len(word) < 2 or kind == "data":
        return None
    lost_slash = colon and not rest and after.startswith("/")
    lost_slashes = colon and kind in _known_schemes()
    lost_colon = not colon and after.startswith("//") and kind in _COMMON
    if lost_slash or lost_slashes or lost_colon:
        return f"{word}:{'///' if kind in _ROOTED else '//'}" + after.replace("\\", "/").lstrip("/")
    return None


_COMMON = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "http", "https", "hf", "ftp", "sftp"})
# Their paths may begin at the root; others begin with a host or a bucket.
_ROOTED = frozenset({"file", "local", "dbfs", "hdfs", "viewfs"})


@cache
def _known_schemes() -> frozenset[str]:
    """The schemes of URIs, including those whose packages are not installed."""
    others = {"azure", "cos", "cosn", "nfs", "obs", "ofs", "s3n", "viewfs", "wasb", "wasbs"}
    return frozenset(fsspec.available_protocols()) | others


def resolve_path(path: str, base: str) -> str:
    """`path` unchanged if it is absolute or a URI, otherwise resolved against the folder of the file `base`.

    Raises:
        Refused: It is a misspelt URI, see `misspelling`.
    """
    if scheme_of(path) == "file":
        local_path(path)
    if _SCHEME.match(path) or os.path.isabs(path) or path.startswith(("~", "data:")):
        return path
    scheme = _SCHEME.match(base)
    start = scheme.end() if scheme else 0
    beside = base[:start] + posixpath.normpath(posixpath.join(posixpath.dirname(base[start:]), path))
    if (wrong := misspelling(path)) and not (is_local(beside) and os.path.lexists(beside)):
        raise Refused(f"{_redact_path(path)}: {wrong}")
    return beside


def split(uri: str) -> tuple[str, str]:
    """The folder's URI and the file's name; a local path is made absolute.

    The name is empty if there are only a scheme and a host: a bucket is not a file.
    """
    whole = absolute(uri)
    scheme = _SCHEME.match(whole)
    folder, slash, name = whole[scheme.end() if scheme else 0 :].rpartition("/")
    if scheme:
        return (scheme[0] + folder, name) if slash else (whole, "")
    return folder or "/", name
