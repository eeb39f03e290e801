"""The state of a ledger after merging its attempts, and looking up rows in it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import find_hashes, text_hashes
from vidgen_dist.ledger.attempts import id_hashes, in_runs, run_starts
from vidgen_dist.ledger.entries import DONE, FAILED, LOST


@dataclass(frozen=True, eq=False)
class LedgerState:
    """The merged state of a ledger. Made by `read_ledger`; plain arrays, may be sent to other processes.

    Attributes:
        done: Ids whose latest outcome is a video.
        failed: Ids whose latest outcome is a failure: the dead letters. An id whose video was lost and that
            has not been tried since is neither.
        failures: Number of dead letters by error class, the most frequent first.
        recent: Videos done in the `RECENT` seconds before the ledger was read.
        recent_seconds: Seconds since the first of them.
        newest: When the last of all attempts ended, in microseconds since 1970; 0 if there is none.
        parts: Paths of the parts that were read.
    """

    done: int
    failed: int
    failures: Mapping[str, int]
    recent: int
    recent_seconds: float
    newest: int
    parts: tuple[str, ...]
    # The attempt that counts for each id and fingerprint, sorted by `id_high`.
    _id_high: np.ndarray
    _id_low: np.ndarray
    _fingerprint: np.ndarray
    # Whether its video is there: done, not lost, and the id not done with another fingerprint later.
    _in_place: np.ndarray
    # Whether its video was lost and none has been done since, whatever failed.
    _lost: np.ndarray
    _attempts: np.ndarray
    # Whether it is the latest outcome of its id; each id has one.
    _latest: np.ndarray
    # The index in `_class_names` of a failure's error class; -1 for a video, also for a lost one.
    _error_class: np.ndarray
    _class_names: tuple[str, ...]

    def is_done(self, id: str, fingerprint: str) -> bool:
        """Whether the row's video with this fingerprint is there."""
        return bool(self.look_up(pa.array([id]), pa.array([fingerprint])).done[0])

    def attempts(self, id: str, fingerprint: str) -> int:
        """The highest attempt number of the row with this fingerprint; 0 if it was never tried."""
        return int(self.look_up(pa.array([id]), pa.array([fingerprint])).attempts[0])

    def has_entries(self, ids: pa.Array) -> np.ndarray:
        """Which ids have any entry: bool (N,)."""
        return self._find(id_hashes(ids), None) >= 0

    def look_up(self, ids: pa.Array, fingerprints: pa.Array) -> Outcomes:
        """What became of some rows.

        Args:
            ids, fingerprints: Texts (N,) without nulls.
        """
        index = self._find(id_hashes(ids), text_hashes(fingerprints)[:, 0])
        found = index >= 0
        return Outcomes(
            done=found & self._at(self._in_place, index, False),
            lost=self._at(self._lost, index, False),
            attempts=self._at(self._attempts, index, 0),
        )

    def dead_letters(self, ids: pa.Array, error_class: str | None = None) -> np.ndarray:
        """The indices of the dead letters of some ids, of this error class or any; -1 without: int64 (N,).

        The fingerprint does not matter: a row whose image was missing has none.
        """
        index = self._find_latest(ids)
        classes = self._at(self._error_class, index, -1)
        wanted = np.array(
            [error_class is None or name == error_class for name in self._class_names], np.bool_
        )
        dead = classes >= 0
        dead[dead] = wanted[classes[dead]]
        return np.where(dead, index, -1)

    def count(self, ids: Iterable[pa.Array]) -> IdCounts:
        """What became of some ids, by their latest outcomes, whatever their fingerprints.

        Args:
            ids: Texts without nulls, some at a time.
        """
        done, by_class = 0, np.zeros(len(self._class_names), np.int64)
        for some in ids:
            index = self._find_latest(some)
            classes = self._at(self._error_class, index, -1)
            by_class += np.bincount(classes[classes >= 0], minlength=len(by_class))
            done += int(np.count_nonzero((index >= 0) & (classes < 0) & ~self._at(self._lost, index, False)))
        return IdCounts(done, int(by_class.sum()), _most_frequent(self._class_names, by_class))

    def dead_letter_indices(self, ids: pa.Array, fingerprints: pa.Array) -> np.ndarray:
        """The indices of the dead letters among some rows, -1 for other rows: int64 (N,)."""
        index = self._find(id_hashes(ids), text_hashes(fingerprints)[:, 0])
        dead = self._at(self._latest, index, False) & (self._at(self._error_class, index, -1) >= 0)
        return np.where(dead, index, -1)

    def outcomes_of(self, ids: pa.Array, fingerprints: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The latest outcomes of some rows' ids.

        Returns:
            Its index, -1 for a fingerprint that is not the id's latest: int64 (N,). And the status of the
            entries that it comes from: text (N,).
        """
        index = self._find(id_hashes(ids), text_hashes(fingerprints)[:, 0])
        index = np.where(self._at(self._latest, index, False), index, -1)
        failed = self._at(self._error_class, index, -1) >= 0
        lost = self._at(self._lost, index, False)
        return index, np.where(failed, FAILED, np.where(lost, LOST, DONE))

    def dead_letter_attempts(self, places: np.ndarray) -> np.ndarray:
        """The highest attempt numbers of dead letters, by their indices: int32 (N,)."""
        return self._attempts[places]

    @staticmethod
    def _at(values: np.ndarray, index: np.ndarray, otherwise: Any) -> np.ndarray:
        if not len(values):
            return np.full(len(index), otherwise, values.dtype)
        return np.where(index >= 0, values[index], otherwise)

    def _find(self, ids: np.ndarray, fingerprints: np.ndarray | None) -> np.ndarray:
        """The index of each id, with its fingerprint if they are given; -1 for those that are not there."""
        others = [(self._id_low, ids[:, 1])]
        if fingerprints is not None:
            others.append((self._fingerprint, fingerprints))
        return find_hashes(self._id_high, ids[:, 0], others)

    def _find_latest(self, ids: pa.Array) -> np.ndarray:
        """The index of each id's latest outcome; -1 for those that are not there."""
        hashes = id_hashes(ids)
        others = [(self._id_low, hashes[:, 1]), (self._latest, np.ones(len(ids), np.bool_))]
        return find_hashes(self._id_high, hashes[:, 0], others)


@dataclass(frozen=True)
class IdCounts:
    """Ids by their latest outcomes.

    Attributes:
        done: Ids whose latest outcome is a video.
        failed: Ids whose latest outcome is a failure.
        failures: The failures by error class, the most frequent first.
    """

    done: int
    failed: int
    failures: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of some rows, each with its fingerprint.

    Attributes:
        done: Whether the video is there: bool (N,).
        lost: Whether the video was lost and has not been done since: bool (N,).
        attempts: The highest attempt number, 0 without any attempt: int32 (N,).
    """

    done: np.ndarray
    lost: np.ndarray
    attempts: np.ndarray


@dataclass(frozen=True, eq=False)
class Share:
    """A share of the ids, settled.

    Attributes:
        best: The attempt that counts for each id and fingerprint, sorted by these: `ATTEMPT` (N,).
        in_place: Whether its video is there: done, not lost, and the id not done with another fingerprint
            later.
        latest: Whether it is the latest outcome of its id.
        done: Ids whose latest outcome is a video.
        classes: The number of dead letters of each error class, by the class's number.
        recent: The number of recent videos.
        first_recent: When the first of them was done, in microseconds since 1970.
    """

    best: np.ndarray
    in_place: np.ndarray
    latest: np.ndarray
    done: int
    classes: np.ndarray
    recent: int
    first_recent: int


def settle(best: np.ndarray, since: int) -> Share:
    """Chooses the attempt that counts for each id and fingerprint, and each id's video and latest outcome.

    Args:
        best: The latest failure and the latest settled attempt of each id and fingerprint, sorted by these.
        since: Videos done from this time on are recent, in microseconds since 1970.
    """
    in_place = best["settled"].copy()
    several, chosen = _by_time(best, in_runs(best, "id_high", "id_low"))
    settled = chosen["settled"]
    in_place[several[settled]] = _last_of_id(chosen[settled])
    in_place &= ~best["lost"]

    counts = _effective_attempts(best, in_place)
    best, in_place = best[counts], in_place[counts]
    latest = np.ones(len(best), np.bool_)
    several, chosen = _by_time(best, in_runs(best, "id_high", "id_low"))
    latest[several] = _last_of_id(chosen)
    dead = latest & ~best["settled"]
    times = best["finished_at"][in_place]
    times = times[times >= since]
    return Share(
        best=best,
        in_place=in_place,
        latest=latest,
        done=int(np.count_nonzero(latest & best["settled"] & ~best["lost"])),
        classes=np.bincount(best["error_class"][dead]),
        recent=len(times),
        first_recent=int(times.min(initial=np.iinfo(np.int64).max)),
    )


def _effective_attempts(best: np.ndarray, in_place: np.ndarray) -> np.ndarray:
    """Which of the two best attempts of an id and fingerprint counts: bool (N,).

    A video in place counts, whatever failed later. One that was lost or replaced by another fingerprint's
    video counts only if nothing failed later. Both attempts get the highest attempt number of the two.
    """
    counts = np.ones(len(best), np.bool_)
    starts = run_starts(best, "id_high", "id_low", "fingerprint")
    failed = starts[np.diff(starts, append=len(best)) > 1]
    settled = failed + 1
    failure = ~in_place[settled] & (best["finished_at"][failed] > best["finished_at"][settled])
    counts[failed], counts[settled] = failure, ~failure
    attempts = best["attempts"]
    attempts[failed] = attempts[settled] = np.maximum(attempts[failed], attempts[settled])
    best["lost"][failed] = best["lost"][settled]
    return counts


def _by_time(best: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The attempts at some places, sorted by id and time: their places, and the attempts."""
    chosen = best[places]
    keys = ("fingerprint", "attempt", "lost", "settled", "finished_at", "id_low", "id_high")
    order = np.lexsort([chosen[key] for key in keys])
    return places[order], chosen[order]


def _last_of_id(attempts: np.ndarray) -> np.ndarray:
    """Whether each of some attempts, sorted by id, is the last of its id."""
    last = np.zeros(len(attempts), np.bool_)
    last[-1:] = True
    last[run_starts(attempts, "id_high", "id_low")[1:] - 1] = True
    return last


def join_shares(
    shares: list[Share], classes: Mapping[str, int], parts: tuple[str, ...], newest: int
) -> LedgerState:
    """The state of the ids of all shares, in their order; `classes` has the error classes' numbers."""
    names = tuple(classes)
    counts = np.zeros(len(names), np.int64)
    for share in shares:
        counts[: len(share.classes)] += share.classes
    recent = sum(share.recent for share in shares)
    first = min(share.first_recent for share in shares)

    def column(name: str) -> np.ndarray:
        return np.concatenate([share.best[name] for share in shares])

    errors = column("error_class")
    errors[column("settled")] = -1
    return LedgerState(
        done=sum(share.done for share in shares),
        failed=int(counts.sum()),
        failures=_most_frequent(names, counts),
        recent=recent,
        recent_seconds=max(0.0, time.time() - first / 1e6) if recent else 0.0,
        newest=newest,
        parts=parts,
        _id_high=column("id_high"),
        _id_low=column("id_low"),
        _fingerprint=column("fingerprint"),
        _in_place=np.concatenate([share.in_place for share in shares]),
        _lost=column("lost"),
        _attempts=column("attempts"),
        _latest=np.concatenate([share.latest for share in shares]),
        _error_class=errors,
        _class_names=names,
    )


def _most_frequent(names: Sequence[str], counts: np.ndarray) -> dict[str, int]:
    """The names with a count above zero and their counts, the most frequent first."""
    found = {names[number]: int(counts[number]) for number in np.flatnonzero(counts)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
