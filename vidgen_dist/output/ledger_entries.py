"""How a run makes ledger entries, and reads them back for small runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerEntry
from vidgen_dist.media import EncodedVideo
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.quality import Quality, flags
from vidgen_dist.spec import LoraOptions, ModelOptions
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact_message, to_record

SECONDS = {name for name in ledger.SCHEMA.names if name.startswith("seconds_")}


@dataclass(frozen=True)
class RowAttempt:
    """An attempt to render a row, whose outcome is entered.

    Args:
        model: The checkpoint and its LoRAs, their revisions commits.
        worker: Name of the gang in the ledger; "driver" if none rendered the row.
        row: The row.
        fingerprint: The row's fingerprint.
    """

    model: ModelOptions
    worker: str
    row: PendingRow
    fingerprint: str

    def entry(self, status: str, **outcome: Any) -> LedgerEntry:
        """The entry of this attempt, which ends now; `outcome` are the fields that depend on how it ended."""
        return LedgerEntry(
            id=self.row.id,
            status=status,
            fingerprint=self.fingerprint,
            attempt=self.row.attempt,
            finished_at=datetime.now(UTC),
            seed=self.row.request.seed,
            model=self.model.id,
            revision=self.model.revision,
            loras=self._loras or None,
            worker=self.worker,
            extra=self.row.passthrough,
            **outcome,
        )

    @property
    def _loras(self) -> list[dict[str, Any]]:
        """The run's LoRAs and the row's."""
        known = {lora.id: lora for lora in self.model.row_loras or ()}
        of_row = [
            known.get(place, LoraOptions(id=place)).model_copy(update={"scale": scale})
            for place, scale in self.row.request.loras
        ]
        return [_recorded(lora) for lora in (*self.model.loras, *of_row)]


def _recorded(lora: LoraOptions) -> dict[str, Any]:
    """A LoRA as the ledger has it."""
    return {
        "id": to_record(lora.id),
        "revision": lora.revision,
        "digest": lora.digest,
        "scale": lora.scale,
    }


def done_entry(
    attempt: RowAttempt, video: EncodedVideo, uri: str, seconds: Mapping[str, float], quality: Quality
) -> LedgerEntry:
    """The entry of a video that is stored at `uri`; `seconds` are those of each stage."""
    stages = {f"seconds_{stage}": value for stage, value in seconds.items() if f"seconds_{stage}" in SECONDS}
    return attempt.entry(
        ledger.DONE,
        uri=uri,
        bytes=video.bytes,
        sha256=video.sha256,
        frames=video.frames,
        fps=video.fps,
        width=video.width,
        height=video.height,
        **stages,
        **_measured(quality),
    )


def failed_entry(
    attempt: RowAttempt, error_class: str, message: str, quality: Quality | None = None
) -> LedgerEntry:
    """The entry of a row that is given up: a dead letter, with the quality of its video if measured."""
    return attempt.entry(
        ledger.FAILED,
        error_class=error_class,
        # For a row that killed its gangs, the message quotes Ray and the ranks.
        error_message=redact_message(message),
        **({} if quality is None else _measured(quality)),
    )


def _measured(quality: Quality) -> dict[str, Any]:
    return dataclasses.asdict(quality) | {"flags": flags(quality)}


def latest_entries(output: Storage) -> dict[str, dict[str, Any]]:
    """Id -> its latest entry, by column. All entries are kept in memory: for small runs."""
    latest: dict[str, dict[str, Any]] = {}

    def keep_latest(_name: str, table: pa.Table) -> None:
        for entry in table.to_pylist():
            before = latest.get(entry["id"])
            if before is None or before["finished_at"] <= entry["finished_at"]:
                latest[entry["id"]] = entry

    ledger.read_parts(output, ledger.SCHEMA.names, keep_latest)
    return latest
