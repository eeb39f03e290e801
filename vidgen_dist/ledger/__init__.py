"""Parquet out: what became of each row; resume; dead letters.

`OUTPUT/ledger/` is a folder of Parquet parts, one row per attempt at a manifest row. A part is written once,
by one writer, and never changed, so any number of workers can write at the same time and a reader needs no
lock. Parts of one run share one schema: the folder opens as one table in pandas, DuckDB and `datasets`.

An entry is written after its video is whole under its final name (`media.commit_video`). If a run is killed
before it enters a video, the next run enters it without rendering it again.

Among the entries of one id and one fingerprint, `done` beats `failed` as long as that video is in place;
otherwise the later entry beats the earlier. Later means entered later: whoever enters attempts dates them
after everything that the ledger holds, so two clocks are never compared. A video of another fingerprint
replaces the same file, so a row counts as done for the fingerprint that was done last. A `lost` entry repeats
id, fingerprint, attempt and time of the `done` entry that it revokes. After it the row is done with no
fingerprint, as if it had not been tried, until a later `done` or `failed` entry. Neither the order in which
parts are read nor entries that occur twice change anything.
"""

from vidgen_dist.ledger.attempt_merge import RECENT, read_ledger
from vidgen_dist.ledger.compaction import Compaction, compact
from vidgen_dist.ledger.entries import (
    DONE,
    FAILED,
    LOST,
    MAX_MESSAGE,
    OPTIONAL_COLUMNS,
    SCHEMA,
    LedgerEntry,
    check_passthrough,
    ledger_schema,
)
from vidgen_dist.ledger.entry_writer import LedgerWriter
from vidgen_dist.ledger.parts import (
    COMPACTED,
    LARGE,
    PART_TIME,
    has_later_parts,
    open_part,
    part_names,
    read_part,
    read_parts,
    read_passthrough_schema,
    with_earlier_types,
)
from vidgen_dist.ledger.queries import DEAD_LETTERS, Summary, dead_letters, latest, summary
from vidgen_dist.ledger.state import LedgerState, Outcomes

__all__ = [
    "COMPACTED",
    "DEAD_LETTERS",
    "DONE",
    "FAILED",
    "LARGE",
    "LOST",
    "MAX_MESSAGE",
    "OPTIONAL_COLUMNS",
    "PART_TIME",
    "RECENT",
    "SCHEMA",
    "Compaction",
    "LedgerEntry",
    "LedgerState",
    "LedgerWriter",
    "Outcomes",
    "Summary",
    "check_passthrough",
    "compact",
    "dead_letters",
    "has_later_parts",
    "latest",
    "ledger_schema",
    "open_part",
    "part_names",
    "read_ledger",
    "read_part",
    "read_parts",
    "read_passthrough_schema",
    "summary",
    "with_earlier_types",
]
