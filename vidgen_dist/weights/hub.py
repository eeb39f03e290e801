"""What the Hugging Face hub has, and what this machine has of it."""

from __future__ import annotations

import errno
import glob
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vidgen_dist.errors import Refused
from vidgen_dist.storage.uris import is_local, local_path
from vidgen_dist.weights.checkpoint_files import is_folder, is_there

_OF_FOLDERS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST),
)
"""Errors that come from a local folder, not from the hub."""


class TensorHeader(NamedTuple):
    """A tensor as a file's header describes it: dtype as safetensors names it, number of values, bytes."""

    dtype: str
    values: int
    bytes: int


# huggingface_hub is imported where it is used: it takes a while, and a folder does not need it.


def folder_of(key: str, model: str, of_revision: str, revision: str | None, allowed: str) -> Path | None:
    """The folder that a user named; None if it is a hub id.

    Args:
        key: What messages call it: `model` or `adapter`.
        model: Hub id or folder.
        of_revision: What messages call the revision.
        revision: The revision that the user asked for.
        allowed: What is allowed, for messages.

    Raises:
        Refused: Neither a folder nor a hub id; a folder with a revision.
    """
    folder = Path(local_path(model) if is_local(model) else model)
    if is_folder(folder):
        if revision is not None:
            raise Refused(f"{of_revision} {revision!r}: {model} is a folder, which has none; leave it out")
        return folder.resolve()
    if is_there(folder):
        raise Refused(f"{key} {model!r} is a file{single_file([folder.name])}; allowed: {allowed}")
    if not _is_hub_id(model):
        raise Refused(f"{key} {model!r} is neither a folder that exists nor a hub id; allowed: {allowed}")
    return None


def single_file(names: Sequence[str]) -> str:
    """What to do with a single-file checkpoint, as the end of a message; empty if there is none."""
    found = [
        name for name in names if name.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"))
    ]
    if not found:
        return ""
    return (
        f": {found[0]} looks like a checkpoint in a single file; diffusers turns it into a folder: "
        "PIPELINE.from_single_file(FILE).save_pretrained(FOLDER)"
    )


def _is_hub_id(model: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return "/" in model


@contextmanager
def refusals(key: str, model: str, revision: str | None, lacking: str, allowed: str) -> Iterator[None]:
    """Turn errors of the hub, and of the connection to it, into `Refused`.

    Args:
        key: What messages call it: `model` or `adapter`.
        model: Hub id.
        revision: The revision that the user asked for.
        lacking: What is wrong with a repository that lacks the file that is located.
        allowed: What is allowed.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise Refused(_explained(key, model, revision, lacking, allowed, error)) from error


def locate(model: str, revision: str | None, name: str) -> tuple[str, Path]:
    """A revision's commit, and the folder of the local cache that has one of its files.

    Raises:
        OSError: There is no such file, or the hub cannot be reached and the cache lacks it.
    """
    from huggingface_hub import hf_hub_download

    # Asks the hub for the revision's commit; without a connection, the cache.
    with _quiet_attempts(), _http_errors():
        path = Path(hf_hub_download(model, name, revision=revision))
    folder = path.parents[name.count("/")]
    return folder.name, folder


def list_files(model: str, revision: str | None) -> list[str]:
    """The names of a revision's files.

    Raises:
        OSError: The hub cannot be reached, or has no such model or revision.
    """
    from huggingface_hub import HfApi

    with _quiet_attempts(), _http_errors():
        info = HfApi().model_info(model, revision=revision)
    return [file.rfilename for file in info.siblings or []]


def read_header(model: str, commit: str, name: str) -> list[TensorHeader]:
    """The tensors of a safetensors file on the hub; of its content, only the header is asked for.

    Raises:
        OSError: The hub cannot be reached, or has no such file, or it is not safetensors.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    with _quiet_attempts(), _http_errors():
        try:
            header = HfApi().parse_safetensors_file_metadata(model, name, revision=commit)
        except SafetensorsParsingError as error:
            raise OSError(f"{model} at {commit}: {name}: {_first_line(error)}") from error
    return [
        TensorHeader(tensor.dtype, math.prod(tensor.shape), tensor.data_offsets[1] - tensor.data_offsets[0])
        for tensor in header.tensors.values()
    ]


def cached_revision(model: str, revision: str | None) -> tuple[str, Path] | None:
    """A revision's commit and its folder as the local cache has them; None if it has none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # No file is asked for: the folder may lack some of the revision's.
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None
    return folder.name, folder


def download(model: str, commit: str, folder: Path, names: Sequence[str]) -> None:
    """Download files of a commit into its folder of the cache, unless they are there.

    Raises:
        Refused: The connection broke off.
        OSError: The hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _http_errors():
        snapshot_download(model, revision=commit, allow_patterns=[glob.escape(name) for name in names])
    # If the connection is lost on the way, snapshot_download returns the files that are there.
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise Refused(f"{model} at {commit}: the download broke off before {', '.join(lacking)}")


@contextmanager
def cached_only(model: str, why: Exception) -> Iterator[None]:
    """Add to `Refused` why only the cache could be used."""
    try:
        yield
    except Refused as error:
        where = f"{model}: the hub cannot be reached ({_first_line(why)}) and the cached copy is not complete"
        raise Refused(f"{where}: {error}") from why


@contextmanager
def _http_errors() -> Iterator[None]:
    """Within, all errors of the HTTP library are `OSError`. huggingface_hub 1 and 2 raise others, too.

    Raises:
        OSError: The HTTP library raised an error.
    """
    from huggingface_hub import errors

    try:
        yield
    except OSError:
        raise
    # The base of all errors of the library that this release uses.
    except errors.HTTPError as error:
        raise ConnectionError(_first_line(error)) from error


@contextmanager
def _quiet_attempts() -> Iterator[None]:
    """Keep huggingface_hub from printing why each attempt failed: `refusals` says it once."""
    log = logging.getLogger("huggingface_hub.utils._http")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _explained(
    key: str, model: str, revision: str | None, lacking: str, allowed: str, error: Exception
) -> str:
    """What a user can do about a failed download."""
    from huggingface_hub import constants, errors

    tried = f"{key} {model!r}: no such folder, and the hub at {constants.ENDPOINT}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{key} {model!r} is gated: accept its conditions at {constants.ENDPOINT}/{model}, then log in "
            f"with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{key} {model!r}: the hub has no revision {revision!r} of it; allowed: a branch, tag or commit"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{tried} has no such model, or it is private and needs `hf auth login`; allowed: {allowed}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        at = f" at revision {revision!r}" if revision else ""
        return (
            f"{tried} cannot be reached ({_first_line(error.__cause__ or error)}); it is not in the cache "
            f"{constants.HF_HUB_CACHE} either{at}; allowed: {allowed}"
        )
    if isinstance(error, OSError) and error.errno in _OF_FOLDERS:
        return (
            f"{key} {model!r}: the hub's cache {constants.HF_HUB_CACHE} cannot be written "
            f"({error.strerror}); HF_HOME or HF_HUB_CACHE names another folder"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{key} {model!r}: {lacking}; allowed: {allowed}"
    return f"{tried} did not deliver it: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    # requests quotes everything that urllib3 says around the reason why there is no connection.
    reasons = [getattr(inner, "reason", None) for inner in error.args]
    error = next((reason for reason in reasons if isinstance(reason, Exception)), error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
