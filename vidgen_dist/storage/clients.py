"""Clients of storages: fsspec's file system for a URI, or an error that says why there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from vidgen_dist.errors import Refused
from vidgen_dist.storage.failures import StorageError, to_storage_error
from vidgen_dist.storage.uris import (
    has_password,
    is_local,
    lacks_secret,
    local_path,
    redact,
    redact_message,
    scheme_of,
)

LOCAL = frozenset({"file", "local"})
S3 = frozenset({"s3", "s3a"})
# Storages on which `pipe_file` shows the whole object or nothing.
OBJECT_STORES = S3 | {"gs", "gcs", "az", "abfs", "abfss", "oss", "obs", "memory"}
WEB = frozenset({"http", "https"})

# Clients' names for size, content and time of change.
_TIMES = ("mtime", "modificationTime", "LastModified", "Last-Modified", "created")
_VERSION_KEYS = ("size", "ETag", "etag", "ino", *_TIMES)

_EXTRAS = {"s3": "pip install 'vidgen-dist[s3]'", "s3a": "pip install 'vidgen-dist[s3]'"}
_NEEDS_HOST = S3 | WEB | {"gs", "gcs", "abfs", "abfss", "ftp", "sftp", "ssh", "smb", "webhdfs"}


def filesystem_of(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a URI and the path on it.

    Raises:
        Refused: The URI cannot be parsed, is misspelt, holds a password or lacks a secret, or its package is
            not installed.
        StorageError: The client cannot be made: a host does not answer, or a library or a setting is missing.
    """
    kind = scheme_of(uri)
    # The host of a web address may be an IPv6 address.
    if "::" in uri and uri.count("://") > (kind in WEB):
        raise Refused(f"{redact(uri)}: chained URIs (::) are not supported; copy the files out first")
    if is_local(uri):
        return fsspec.filesystem("file"), local_path(uri)
    if len(kind) == 1:
        # fsspec takes it for a drive of Windows, that is, for a local path.
        raise Refused(f"{redact(uri)}: Protocol not known: {kind}")
    if lacks_secret(uri):
        raise Refused(f"{redact(uri)}: was recorded without its secret; give the whole URI again")
    if has_password(uri):
        raise Refused(
            f"{redact(uri)}: the URI holds a password; give credentials through the environment or "
            "fsspec's configuration"
        )
    if kind in _NEEDS_HOST and re.match(r"[^:]*:///+[^/]", uri):
        raise Refused(f"{redact(uri)}: there is no host or bucket after {kind}://")
    fs, path = _connect(uri, kind)
    if "?" in uri and "?" not in path and not re.search(r"^hdfs:[^?]*\?replication=\d+$", uri):
        raise Refused(
            f"{redact(uri)}: what follows ? is not part of a path of {kind}://; write * in a glob, "
            "and put settings into fsspec's configuration"
        )
    if kind == "webhdfs":
        _check_all_answers(fs)
    return fs, path


def _connect(uri: str, kind: str) -> tuple[Any, str]:
    try:
        if kind in WEB:
            return fsspec.filesystem(kind, client_kwargs=_client_settings(kind)), uri
        return url_to_fs(uri)
    except ImportError as error:
        hint = _EXTRAS.get(kind, redact_message(str(error)))
        raise Refused(f"{redact(uri)}: reading {kind}:// needs another package: {hint}") from None
    except ValueError as error:
        raise Refused(f"{redact(uri)}: {redact_message(str(error))}") from None
    except TypeError as error:
        # For example Databricks' client without a token.
        settings = f"FSSPEC_{kind.upper()}_NAME=VALUE, or in fsspec's configuration"
        raise Refused(
            f"{redact(uri)}: {redact_message(str(error))}; settings are given as {settings}"
        ) from None
    except Exception as error:  # noqa: BLE001
        # Some clients connect when they are made, and may raise anything.
        raise to_storage_error("connect to", uri, error) from None


def open_filesystem(uri: str) -> tuple[Any, str]:
    """`filesystem_of` before any work has begun: a client that cannot be made is `Refused`, too."""
    try:
        return filesystem_of(uri)
    except StorageError as error:
        raise Refused(str(error)) from None


def is_same_place(uri: str, other: str) -> bool:
    """Whether two URIs name the same file or folder, though they are written differently.

    Local links and mounts of the same folder are followed, if the folder exists. Elsewhere the path and the
    client must be the same: another name of a host counts as another place.

    Raises:
        Refused: As `open_filesystem`.
    """
    (fs, path), (other_fs, other_path) = open_filesystem(uri), open_filesystem(other)
    if has_protocol(fs, LOCAL) and has_protocol(other_fs, LOCAL):
        if os.path.exists(path) and os.path.exists(other_path):
            return os.path.samefile(path, other_path)
        return os.path.realpath(path) == os.path.realpath(other_path)
    return fs == other_fs and path.rstrip("/") == other_path.rstrip("/")


def has_protocol(fs: Any, protocols: frozenset[str]) -> bool:
    """Whether a file system has one of these protocols."""
    protocol = fs.protocol
    return not protocols.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)


def replaces_by_rename(fs: Any) -> bool:
    """Whether files are written aside and renamed: neither on this machine's disk nor on an object store."""
    return not has_protocol(fs, LOCAL | OBJECT_STORES | WEB)


def version_marks(info: Mapping[str, Any]) -> str:
    """The attributes of a file, as a client gives them, that change when it is written again."""
    return " ".join(str(info.get(key)) for key in _VERSION_KEYS)


def _client_settings(kind: str) -> dict[str, Any]:
    configured = fsspec.config.conf.get(kind, {}).get("client_kwargs", {})
    # HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which the clients of other storages follow by themselves.
    return {"trust_env": True, **configured}


def _check_all_answers(fs: Any) -> None:
    """Make fsspec's WebHDFS client check the answers of data nodes, too."""
    hooks = fs.session.hooks["response"]
    if _raise_for_status not in hooks:
        hooks.append(_raise_for_status)


def _raise_for_status(response: Any, *_: Any, **__: Any) -> None:
    if response.status_code < 400:
        return
    try:
        error = response.json()["RemoteException"]
        kind, message = str(error["exception"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        kind, message = "", response.reason
    if kind == "FileNotFoundException":
        raise FileNotFoundError(message)
    if kind in ("SecurityException", "AccessControlException"):
        raise PermissionError(message)
    response.reason = message
    response.raise_for_status()
