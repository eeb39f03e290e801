"""An entry: what became of one attempt at one row; the ledger's columns, and entries as rows in Arrow."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused, shortened

DONE = "done"
FAILED = "failed"
LOST = "lost"
STATUSES = (DONE, FAILED, LOST)
MAX_MESSAGE = 4000


@dataclass(frozen=True)
class LedgerColumn:
    """One of the ledger's own columns.

    Args:
        name: Its name.
        type: Its Arrow type.
        about: What it holds, as the documentation says it.
        nullable: Whether it may be null.
    """

    name: str
    type: pa.DataType
    about: str
    nullable: bool = True


LORA = pa.struct(
    [("id", pa.string()), ("revision", pa.string()), ("digest", pa.string()), ("scale", pa.float64())]
)
"""A LoRA in the ledger."""

COLUMNS = (
    LedgerColumn("id", pa.string(), "the row's identity", nullable=False),
    LedgerColumn(
        "status",
        pa.string(),
        "`done`; `failed`; or `lost`: `vidgen verify --repair` found the video missing or torn",
        nullable=False,
    ),
    LedgerColumn("uri", pa.string(), "where the video is, as a full URI or an absolute path"),
    LedgerColumn("bytes", pa.int64(), "size of the video's file; of all frames with `--format png`"),
    LedgerColumn(
        "sha256",
        pa.string(),
        "SHA-256 of the video's file; of all frames one after the other with `--format png`",
    ),
    LedgerColumn("frames", pa.int32(), "number of frames"),
    LedgerColumn("fps", pa.float64(), "frames per second, as the file says"),
    LedgerColumn("width", pa.int32(), "pixels"),
    LedgerColumn("height", pa.int32(), "pixels"),
    LedgerColumn("mean_luma", pa.float64(), "mean BT.709 luma of all pixels, 0 to 1"),
    LedgerColumn(
        "motion",
        pa.float64(),
        "mean absolute difference of successive frames, 0 to 1; null for a single frame",
    ),
    LedgerColumn(
        "clipped", pa.float64(), "share of pixels whose three channels are all 0 or all 255, 0 to 1"
    ),
    LedgerColumn("noisiness", pa.float64(), "how much the video looks like noise, 0 to 1; null below 64x64"),
    LedgerColumn(
        "flags",
        pa.list_(pa.field("element", pa.string())),
        "what seems wrong with the video: `black`, `frozen`, `blown-out`, `noise`",
    ),
    LedgerColumn("seed", pa.int64(), "seed of the noise"),
    LedgerColumn("fingerprint", pa.string(), "digest of everything that decides the pixels", nullable=False),
    LedgerColumn("model", pa.string(), "the checkpoint: hub id or folder"),
    LedgerColumn("revision", pa.string(), "the checkpoint's commit"),
    LedgerColumn(
        "loras",
        pa.list_(pa.field("element", LORA)),
        "the LoRAs that were added to its weights, in this order: id, commit, SHA-256 and scale",
    ),
    LedgerColumn("seconds_encode", pa.float64(), "seconds for prompt, image and clip"),
    LedgerColumn("seconds_denoise", pa.float64(), "seconds for all denoising steps"),
    LedgerColumn("seconds_decode", pa.float64(), "seconds for decoding the latents"),
    LedgerColumn("seconds_write", pa.float64(), "seconds for encoding and storing the file"),
    LedgerColumn(
        "attempt",
        pa.int32(),
        "1 for the first attempt at this id with this fingerprint, counted over all runs",
        nullable=False,
    ),
    LedgerColumn("worker", pa.string(), "who made the attempt; its log has the same name"),
    LedgerColumn("error_class", pa.string(), "class of the error, for a failed row or a lost video"),
    LedgerColumn("error_message", pa.string(), f"its message, at most {MAX_MESSAGE:,} characters"),
    LedgerColumn(
        "finished_at",
        pa.timestamp("us", tz="UTC"),
        "when the attempt ended, by the driver's clock",
        nullable=False,
    ),
)
"""The ledger's own columns, in their order."""

SCHEMA = pa.schema([pa.field(column.name, column.type, nullable=column.nullable) for column in COLUMNS])
"""The schema of `COLUMNS`; the manifest's `passthrough` columns follow them."""

OPTIONAL_COLUMNS = ("mean_luma", "motion", "clipped", "noisiness", "flags", "loras")
"""Columns that parts of earlier versions may lack; they are read as nulls."""


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """What became of one attempt at one row; the fields are the ledger's columns.

    Attributes:
        id: The row's identity.
        status: "done", "failed" or "lost": since the `done` entry with the same id, fingerprint, attempt and
            `finished_at`, its video was found to be missing or torn.
        fingerprint: Digest of everything that decides the pixels.
        attempt: 1 for the first attempt at this id with this fingerprint, and so on, over all runs.
        finished_at: When the attempt ended; with a time zone, kept as UTC. Of two entries of a row it shows
            which is the later.
        uri: Where the video is, as a full URI or absolute path, so that it opens from anywhere; None for a
            failed row. If an output is moved as a whole, the part after the last `/videos/` is still the path
            in the new place's `videos/`. For a lost video, where it was.
        bytes, sha256, frames, fps, width, height: The video file's, see `media.EncodedVideo`.
        mean_luma, motion, clipped, noisiness: Measured on the frames before encoding, see `quality.Quality`;
            also for a rejected video. `motion` is None for a single frame, `noisiness` for small frames.
        flags: What seems to be wrong with the video, from `quality.FLAGS`; None if it was not measured.
        seed: Seed of the noise.
        model, revision: The checkpoint: hub id or folder, and commit.
        loras: The LoRAs that were added to its weights, mappings with the fields of `LORA`; None for none.
        seconds_encode, seconds_denoise, seconds_decode, seconds_write: Seconds of each stage that ran.
        worker: Who made the attempt.
        error_class, error_message: For a failed row or a lost video; messages are cut to `MAX_MESSAGE`
            characters.
        extra: Values of the passthrough columns, as Python values or Arrow scalars; a missing one is null.

    Raises:
        ValueError: Another status, a done row without its URI, a failed row without its error, or a time
            without a zone.
    """

    id: str
    status: str
    fingerprint: str
    attempt: int
    finished_at: datetime
    uri: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    mean_luma: float | None = None
    motion: float | None = None
    clipped: float | None = None
    noisiness: float | None = None
    flags: Sequence[str] | None = None
    seed: int | None = None
    model: str | None = None
    revision: str | None = None
    loras: Sequence[Mapping[str, Any]] | None = None
    seconds_encode: float | None = None
    seconds_denoise: float | None = None
    seconds_decode: float | None = None
    seconds_write: float | None = None
    worker: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = {DONE: "uri", FAILED: "error_class", LOST: "error_class"}.get(self.status)
        if needed is None:
            raise ValueError(f"status: {self.status!r} is not allowed; allowed: {', '.join(STATUSES)}")
        if getattr(self, needed) is None:
            raise ValueError(f"{needed}: may not be missing when the status is {self.status!r}")
        if self.finished_at.tzinfo is None:
            raise ValueError(f"finished_at: {self.finished_at} has no time zone")


def ledger_schema(passthrough: pa.Schema | None = None) -> pa.Schema:
    """`SCHEMA`, followed by the passthrough columns, which may be null.

    Raises:
        Refused: A passthrough column has the name of one of the ledger's own columns.
    """
    extra = [column.remove_metadata().with_nullable(True) for column in passthrough or ()]
    clashes = sorted({column.name for column in extra} & set(SCHEMA.names))
    if clashes:
        raise Refused(
            f"passthrough: column {clashes[0]!r} cannot be copied to the ledger, which has a column of that "
            f"name; rename it in the manifest. The ledger's own columns: {', '.join(SCHEMA.names)}"
        )
    return pa.schema([*SCHEMA, *extra])


def check_passthrough(passthrough: pa.Schema) -> None:
    """Check that a ledger can have these columns beside its own.

    Raises:
        Refused: It cannot; the message names the column, and its type if the type is the reason.
    """
    ledger_schema(passthrough)
    for column in passthrough:
        try:
            if name := _repeated_member(column.type):
                raise ValueError(f"it has two members {name!r}, and a Python dictionary can have one")
            # Entries without the row's values have nulls.
            _write_and_read(pa.table({column.name: pa.array([None], column.type)}))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise Refused(
                f"passthrough: column {column.name!r} has type {column.type}, which the ledger cannot hold "
                f"({error}); leave it out, or make it a text in the manifest"
            ) from None


def _repeated_member(kind: pa.DataType) -> str | None:
    """A name that two members of a struct share, in a type or nested in it; None if there is none."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    names = [field.name for field in fields]
    repeated = next((name for name in names if names.count(name) > 1), None)
    return repeated or next(filter(None, (_repeated_member(field.type) for field in fields)), None)


def _write_and_read(table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    pq.read_table(pa.BufferReader(sink.getvalue()))


def entry_rows(entries: Sequence[LedgerEntry], schema: pa.Schema) -> pa.RecordBatch:
    """Entries as rows of a ledger with this schema. Many at once cost a tenth per entry of what one costs.

    Raises:
        ValueError: A column cannot hold its value, or a passthrough column is unknown; the message names the
            entry if it is the only one.
    """
    rows = [_values(entry, schema) for entry in entries]
    arrays = []
    for column in schema:
        values = [row.get(column.name) for row in rows]
        try:
            if isinstance(column.type, pa.UuidType):
                values = [None if value is None else uuid.UUID(value) for value in values]
            array = pa.array(values, column.type)
            if array.null_count and not column.nullable:
                raise ValueError("may not be missing")
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            whose = f"ledger entry {shortened(entries[0].id)!r}" if len(entries) == 1 else "ledger entries"
            raise ValueError(
                f"{whose}: {column.name}: {str(values[0])[:100]!r} is not allowed; "
                f"allowed: {column.type} ({error})"
            ) from error
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


_OWN = [column.name for column in fields(LedgerEntry) if column.name != "extra"]


def _values(entry: LedgerEntry, schema: pa.Schema) -> dict[str, Any]:
    """Column -> value."""
    values = {name: getattr(entry, name) for name in _OWN}
    if entry.error_message is not None:
        # Messages quote whatever failed, even if it is not valid text.
        text = entry.error_message.encode("utf-8", "backslashreplace").decode()
        values["error_message"] = shortened(text, MAX_MESSAGE)
    if entry.extra:
        unknown = sorted(set(entry.extra) - (set(schema.names) - set(values)))
        if unknown:
            whose = f"ledger entry {shortened(entry.id)!r}"
            raise ValueError(f"{whose}: unknown passthrough column {unknown[0]!r}")
        values |= entry.extra
    return values
