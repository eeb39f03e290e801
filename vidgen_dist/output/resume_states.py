"""Resume states: renderings that were saved between two steps, in the output, until their rows are done.

There is one file a row, replaced as a whole. A file that cannot be used (the row has changed, the file has
another format, it is torn) counts as none: the rendering begins at step 0. `ResumeStates` raises no error of
the storage: a row is rendered also where its state cannot be saved.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from vidgen_dist import __version__
from vidgen_dist.families.common.rendering import OnState, ResumeState
from vidgen_dist.output_layout import RESUME_STATES_FOLDER
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import safe_name
from vidgen_dist.storage.uris import redact
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent

FORMAT = 1
"""The format of the files. It must be raised with every change after which a rendering that goes on from an
older file would not make the frames of one that was never interrupted:

- the layout of the file, see `pack`;
- what a `ResumeState` has: the loop's or a sampler's arrays (their names, shapes or meaning), the generator,
  how steps are counted;
- the numerics of a family's encoders or steps: models, guidance, schedules, the order in which noise is
  drawn. What follows the last step, the decoder, does not count.

A new release alone is no reason: a run goes on with the files of the one before.
`tests/families/test_going_on.py` goes on from files that an earlier release has written, and fails if the
number should have been raised."""


@dataclass(frozen=True, eq=False)
class SavedState:
    """What a row's file is to hold.

    Args:
        row_id: The row's.
        fingerprint: Of all that decides its pixels.
        state: How far its rendering is; None where there is nothing to go on from, and so no file.
    """

    row_id: str
    fingerprint: str
    state: ResumeState | None


class ResumeStates:
    """The files of the rows that a worker renders; its threads may use it at the same time.

    Args:
        output: The run's output.
        on_event: Told what is saved, and what cannot be.
    """

    def __init__(self, output: Storage, on_event: OnWorkerEvent) -> None:
        self._output = output
        self._on_event = on_event
        self._seen: set[str] = set()

    def load(self, row_id: str, fingerprint: str) -> ResumeState | None:
        """How far an earlier rendering of a row came; None if it is not known.

        Args:
            row_id: The row's.
            fingerprint: Of all that decides its pixels.
        """
        path = _path(row_id)
        try:
            content = self._output.read_bytes(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("resumed", row_id, error)
            return None
        self._seen.add(row_id)
        try:
            return unpack(content, fingerprint)
        except ValueError as error:
            uri = redact(self._output.uri(path))
            self._complain("resumed", row_id, ValueError(f"{uri} {error}; the rendering begins at step 0"))
            return None

    def keep(self, saved: SavedState) -> None:
        """Write a row's file, or remove it where nothing is to be in it."""
        if saved.state is None:
            self.remove(saved.row_id)
            return
        content = pack(saved.state, saved.fingerprint)
        self._seen.add(saved.row_id)
        try:
            self._output.write_bytes(_path(saved.row_id), content)
        except OSError as error:
            self._complain("saved", saved.row_id, error)
        else:
            self._on_event(WorkerEvent("saved", saved.row_id, step=saved.state.step, bytes=len(content)))

    def leave(self, row_id: str) -> None:
        """A row is done: remove its file if there is one that this worker has read or written."""
        if row_id in self._seen:
            self.remove(row_id)

    def remove(self, row_id: str) -> None:
        """Remove a row's file; one that is not there is no error."""
        self._seen.discard(row_id)
        try:
            self._output.delete(_path(row_id))
        except OSError as error:
            self._complain("saved", row_id, error)

    def _complain(self, what: str, row_id: str, error: Exception) -> None:
        self._on_event(WorkerEvent(what, row_id, error=type(error).__name__, message=str(error)))


class StateSaver:
    """Which states of a rendering are saved: each k-th; when it is asked for, the latest and all after it.

    Args:
        every: k; None saves nothing.
        save: Takes what is to be saved, and returns at once.
    """

    def __init__(self, every: int | None, save: Callable[[SavedState], None]) -> None:
        self._every = every
        self._save = save
        self._all = False
        self._latest: SavedState | None = None
        # Steps end in one thread, and it is asked for in another.
        self._lock = threading.Lock()

    def listener(self, row_id: str, fingerprint: str) -> OnState | None:
        """What the rendering of a row is to tell its states to; None for nobody."""
        every = self._every
        if every is None:
            return None

        def stepped(state: ResumeState) -> None:
            with self._lock:
                self._latest = SavedState(row_id, fingerprint, state)
                if self._all or state.step % every == 0:
                    self._save_latest()

        return stepped

    def save_latest(self, *, and_all_after: bool = False) -> None:
        """Save what is being rendered as it is after its latest step, if that is not saved yet."""
        with self._lock:
            self._all = self._all or and_all_after
            self._save_latest()

    def forget(self) -> None:
        """What was rendered is rendered, or cannot be."""
        with self._lock:
            self._latest = None

    def distrust(self, row_id: str, fingerprint: str) -> None:
        """Let a row begin at step 0 when it is rendered again."""
        with self._lock:
            self._latest = None if self._every is None else SavedState(row_id, fingerprint, None)
            self._save_latest()

    def _save_latest(self) -> None:
        if self._latest is not None:
            self._save(self._latest)
            self._latest = None


def clear(output: Storage) -> None:
    """Remove all files, half written ones too; for an output none of whose rows is still to be rendered.

    Raises:
        OSError: The storage failed.
    """
    for path in output.sizes(RESUME_STATES_FOLDER):
        output.delete(path)


def pack(state: ResumeState, fingerprint: str) -> bytes:
    """A file: a digest, a line of JSON, the arrays as safetensors.

    Args:
        state: What it holds.
        fingerprint: Of all that decides the row's pixels.
    """
    head = {
        "format": FORMAT,
        # For people; the commits before there was a format read the files of their release alone.
        "release": __version__,
        "fingerprint": fingerprint,
        "step": state.step,
        "rng": dict(state.rng),
    }
    # safetensors writes the memory of an array that is not contiguous as if it were.
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    content = json.dumps(head).encode() + b"\n" + safetensors.numpy.save(arrays)
    return _digest(content) + b"\n" + content


def unpack(content: bytes, fingerprint: str) -> ResumeState:
    """What `pack` made a file of.

    Args:
        content: The file's.
        fingerprint: Of all that decides the pixels of the row that is to be rendered.

    Raises:
        ValueError: It is torn, has another format, or is of a row with other frames.
    """
    digest, _, rest = content.partition(b"\n")
    if digest != _digest(rest):
        raise ValueError("is torn, or of another format")
    line, _, arrays = rest.partition(b"\n")
    head = json.loads(line)
    # Release 0.1.0 began without the number.
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
