"""Resume states: renderings saved between two steps, kept in the output until their rows are done.

Each row has one file, which is replaced as a whole. If a file cannot be used (the row has changed, the file
has another format, it is torn), the rendering begins at step 0. `ResumeStates` raises no error of the
storage: a row is rendered even if its state cannot be saved.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from vidgen_dist.families.common.rendering import OnState, ResumeState
from vidgen_dist.output_layout import RESUME_STATES_FOLDER
from vidgen_dist.package import VERSION
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import safe_name
from vidgen_dist.storage.uris import redact
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent

FORMAT = 1
"""The format of the files. Raise it with every change after which a rendering resumed from an older file does
not make the frames of an uninterrupted one:

- the layout of the file, see `pack`;
- what a `ResumeState` has: the loop's or a sampler's arrays (their names, shapes or meaning), the generator,
  how steps are counted;
- the numerics of a family's encoders or steps: models, guidance, schedules, the order in which noise is
  drawn. What follows the last step, the decoder, does not count.

A new release alone is no reason: a run goes on with the files of the release before.
`tests/families/test_going_on.py` resumes from files that an earlier release has written, and fails if the
number should have been raised."""


@dataclass(frozen=True, eq=False)
class SavedState:
    """The content of a row's file.

    Args:
        row_id: The row's id.
        fingerprint: The row's fingerprint.
        state: How far its rendering is; None for no file, if there is nothing to resume from.
    """

    row_id: str
    fingerprint: str
    state: ResumeState | None


class ResumeStates:
    """The files of the rows that a worker renders; its threads may use it at the same time.

    Args:
        output: The run's output.
        on_event: Called for what is saved, and for what cannot be.
    """

    def __init__(self, output: Storage, on_event: OnWorkerEvent) -> None:
        self._output = output
        self._on_event = on_event
        self._seen: set[str] = set()

    def load(self, row_id: str, fingerprint: str) -> ResumeState | None:
        """How far an earlier rendering of a row came; None if that is not known.

        Args:
            row_id: The row's id.
            fingerprint: The row's fingerprint.
        """
        path = _path(row_id)
        try:
            content = self._output.read_bytes(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report_error("resumed", row_id, error)
            return None
        self._seen.add(row_id)
        try:
            return unpack(content, fingerprint)
        except ValueError as error:
            uri = redact(self._output.uri(path))
            self._report_error(
                "resumed", row_id, ValueError(f"{uri} {error}; the rendering begins at step 0")
            )
            return None

    def save(self, saved: SavedState) -> None:
        """Write a row's file, or remove it if it has no state."""
        if saved.state is None:
            self.remove(saved.row_id)
            return
        content = pack(saved.state, saved.fingerprint)
        self._seen.add(saved.row_id)
        try:
            self._output.write_bytes(_path(saved.row_id), content)
        except OSError as error:
            self._report_error("saved", saved.row_id, error)
        else:
            self._on_event(WorkerEvent("saved", saved.row_id, step=saved.state.step, bytes=len(content)))

    def remove_if_used(self, row_id: str) -> None:
        """Remove the file of a row that is done, if this worker has read or written it."""
        if row_id in self._seen:
            self.remove(row_id)

    def remove(self, row_id: str) -> None:
        """Remove a row's file; a missing file is no error."""
        self._seen.discard(row_id)
        try:
            self._output.delete(_path(row_id))
        except OSError as error:
            self._report_error("saved", row_id, error)

    def _report_error(self, kind: str, row_id: str, error: Exception) -> None:
        self._on_event(WorkerEvent(kind, row_id, error=type(error).__name__, message=str(error)))


class StateSaver:
    """Chooses the states of a rendering to save: each k-th, and on request the latest and all after it.

    Args:
        every: k; None saves nothing.
        save: Takes what is to be saved, and returns at once.
    """

    def __init__(self, every: int | None, save: Callable[[SavedState], None]) -> None:
        self._every = every
        self._save = save
        self._all = False
        self._latest: SavedState | None = None
        # Steps end in one thread, and requests come from another.
        self._lock = threading.Lock()

    def listener(self, row_id: str, fingerprint: str) -> OnState | None:
        """The callback that gets the states of a row's rendering; None if nothing is saved."""
        every = self._every
        if every is None:
            return None

        def take_state(state: ResumeState) -> None:
            with self._lock:
                self._latest = SavedState(row_id, fingerprint, state)
                if self._all or state.step % every == 0:
                    self._save_latest()

        return take_state

    def save_latest(self, *, and_all_after: bool = False) -> None:
        """Save the state after the latest step of the present rendering, if it is not saved yet."""
        with self._lock:
            self._all = self._all or and_all_after
            self._save_latest()

    def forget(self) -> None:
        """Forget the latest state: the rendering has ended."""
        with self._lock:
            self._latest = None

    def discard(self, row_id: str, fingerprint: str) -> None:
        """Remove what was saved of a row: its next rendering begins at step 0."""
        with self._lock:
            self._latest = None if self._every is None else SavedState(row_id, fingerprint, None)
            self._save_latest()

    def _save_latest(self) -> None:
        if self._latest is not None:
            self._save(self._latest)
            self._latest = None


def clear(output: Storage) -> None:
    """Remove all files, including incomplete ones, from an output that has no row left to render.

    Raises:
        OSError: The storage failed.
    """
    for path in output.sizes(RESUME_STATES_FOLDER):
        output.delete(path)


def pack(state: ResumeState, fingerprint: str) -> bytes:
    """The content of a file: a digest, a line of JSON, the arrays as safetensors.

    Args:
        state: The state.
        fingerprint: The row's fingerprint.
    """
    head = {
        "format": FORMAT,
        # For people. Commits from before there was a format read only the files of their own release.
        "release": VERSION,
        "fingerprint": fingerprint,
        "step": state.step,
        "rng": dict(state.rng),
    }
    # safetensors writes the memory of a non-contiguous array as if it were contiguous.
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    content = json.dumps(head).encode() + b"\n" + safetensors.numpy.save(arrays)
    return _digest(content) + b"\n" + content


def unpack(content: bytes, fingerprint: str) -> ResumeState:
    """The state in the content of a file, the inverse of `pack`.

    Args:
        content: The file's content.
        fingerprint: The fingerprint of the row to be rendered.

    Raises:
        ValueError: The file is torn, has another format, or is of a row with other frames.
    """
    digest, _, rest = content.partition(b"\n")
    if digest != _digest(rest):
        raise ValueError("is torn, or of another format")
    line, _, arrays = rest.partition(b"\n")
    head = json.loads(line)
    # The first commits of release 0.1.0 wrote no number.
    found = head.get("format", 1)
    if found != FORMAT:
        raise ValueError(f"has format {found}, and this release reads format {FORMAT}")
    if head["fingerprint"] != fingerprint:
        raise ValueError("is of another fingerprint")
    return ResumeState(head["step"], safetensors.numpy.load(arrays), head["rng"])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _path(row_id: str) -> str:
    return f"{RESUME_STATES_FOLDER}/{safe_name(row_id)}.state"
