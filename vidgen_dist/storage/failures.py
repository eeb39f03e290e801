"""Failures of storages: clients' errors become ours, and calls that may succeed later are repeated."""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vidgen_dist.errors import Refused
from vidgen_dist.storage.retry_policy import RetryPolicy
from vidgen_dist.storage.uris import redact, redact_message

PATIENCE = RetryPolicy(attempts=3, first_delay=0.25)
"""The policy for each call to a storage: a client that is asked to slow down, or that loses its connection,
mostly gets its answer at the second or third attempt. For longer failures, `retries` repeats a whole
operation.
"""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StorageError(OSError):
    """A storage operation failed; the message has the URI (without credentials) and the reason.

    Attributes:
        transient: Whether trying again later may help.
    """

    transient = False


class WriteConflict(StorageError):
    """A shared file is not as its writer expected: somebody else wrote or removed it."""


def retry_transient(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Repeat a call that failed for a transient reason."""

    @wraps(call)
    def repeated(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for delay in PATIENCE.delays():
            try:
                return call(*args, **kwargs)
            except StorageError as error:
                if not error.transient:
                    raise
            time.sleep(delay)
        return call(*args, **kwargs)

    return repeated


@contextmanager
def translate_errors(what: str, uri: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn errors of a file system (of this kind) into ours, with the URI and without credentials."""
    try:
        yield
    except (Refused, StorageError):
        raise
    except kind as error:
        cause = real_cause(error, uri)
        if is_missing(cause):
            raise FileNotFoundError(_error_message(what, uri, cause)) from None
        raise to_storage_error(what, uri, cause) from None


def to_storage_error(what: str, uri: str, cause: BaseException) -> StorageError:
    """A client's error at an operation on a URI as a StorageError."""
    named = StorageError(_error_message(what, uri, cause))
    named.transient = is_transient(cause)
    named.errno = getattr(cause, "errno", None) if named.transient else _errno_of(cause)
    return named


def truncated_read_error(what: str, uri: str, reason: str) -> StorageError:
    """The error for an incomplete answer; the next one may be complete."""
    error = StorageError(f"cannot {what} {redact(uri)}: {reason}")
    error.transient = True
    return error


def is_missing(error: BaseException) -> bool:
    """Whether an error says that there is no such file."""
    # SMB's client has its own class.
    missing = isinstance(error, FileNotFoundError) or getattr(error, "errno", None) == errno.ENOENT
    return missing or status_of(error) in (404, 410)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left, which another attempt will not change."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # Libraries pass the disk's error on in errors of their own; the last text is Python's.
    return _NO_ROOM.search(str(error)) is not None


_NO_ROOM = re.compile("No space left on device|Disk quota exceeded|No usable temporary directory")


def is_unwritable(error: BaseException) -> bool:
    """Whether an error at writing says that nothing can be written there.

    The storage is full or read-only, or permission is missing: the next write will fail, too.
    """
    refused = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return refused or is_full(error)


# HDFS (quotas, and no data node with space), MinIO, OSS, FTP, SMB, WebDAV.
_FULL_BY_NAME = re.compile(
    r"no space left|not enough (disk )?space|insufficient (storage|space|quota)|(disk|storage)[ _]?(is )?full"
    r"|quota ?exceeded|exceeded (storage|the quota)|quota of .* is exceeded"
    r"|could only be (replicated|written) to 0 ",
    re.IGNORECASE,
)


def _errno_of(error: BaseException) -> int | None:
    """The errno of an error that is not transient, also where a client has its own name for it."""
    number = getattr(error, "errno", None)
    if number == errno.EDQUOT:
        return number
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__
    statuses = {status_of(cause) for cause in seen}
    if 507 in statuses or any(_FULL_BY_NAME.search(f"{type(cause).__name__} {cause}") for cause in seen):
        return errno.ENOSPC
    if number is None and (isinstance(error, PermissionError) or statuses & {401, 403}):
        return errno.EACCES
    return number


_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = frozenset({errno.EAGAIN, errno.ESTALE})
# Clients of object stores and of HTTP have their own classes, which are not imported for this.
_PASSING_CLASS = re.compile(
    r".*(Timeout(Error)?|ServerDisconnectedError|ClientPayloadError|IncompleteRead|ChunkedEncodingError)"
)


def is_transient(error: BaseException) -> bool:
    """Whether an error, or one that caused it, is transient."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error in seen:
            continue
        passing = isinstance(
            error, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError
        )
        passing = passing or status_of(error) in _PASSING_STATUS
        passing = passing or getattr(error, "errno", None) in _PASSING_ERRNO
        if passing or _PASSING_CLASS.fullmatch(type(error).__name__):
            return True
        seen.append(error)
        # requests wraps errors in others that have them as arguments.
        waiting += [inner for inner in (error.__cause__, *error.args) if isinstance(inner, BaseException)]
    return False


def status_of(error: BaseException) -> Any:
    """The HTTP status in an error, by the names of clients of S3, HTTP, Google, Azure and the hub."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    names = ("status", "status_code", "code")
    statuses = (getattr(holder, name, None) for holder in (error, response) for name in names)
    return next((status for status in statuses if isinstance(status, int)), None)


def real_cause(error: BaseException, uri: str) -> BaseException:
    """The error, or its cause: fsspec's HTTP client calls everything that a host refuses "not found"."""
    hidden = isinstance(error, FileNotFoundError) and uri.lower().startswith("http")
    return error.__cause__ or error if hidden else error


def _error_message(what: str, uri: str, cause: BaseException) -> str:
    return f"cannot {what} {redact(uri)}: {_reason(cause, uri)}"


def _reason(error: BaseException, uri: str) -> str:
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    if isinstance(error, FileNotFoundError) and text in uri:
        text = "there is no such file"
    text = redact_message(text.replace(uri, redact(uri)))
    kind = "" if isinstance(error, OSError) else type(error).__name__
    return ": ".join(part for part in (kind, text) if part) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """An error's message without secrets, and where it was raised if it is not one of ours."""
    message = redact_message(str(error))
    if isinstance(error, OSError | ValueError | Refused):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{message}{place}"
