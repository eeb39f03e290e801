"""Parquet out: what became of each row; resume; dead letters.

`OUTPUT/ledger/` is a folder of Parquet parts, one row an attempt at a manifest row. A part is written once,
by one writer, and never changed, so any number of workers write at the same time and a reader needs no
lock. Parts of one run share one schema: the folder opens as one table in pandas, DuckDB and `datasets`.

An entry is written after its video is whole under its final name (`media.commit_video`). A video that was
not entered when a run was killed is entered by the next one, without being rendered again.

Among the entries of one id and one fingerprint `done` beats `failed`, as long as that video is in place, and
else the later beats the earlier. Later is what was entered later: whoever enters attempts dates them, after
all that the ledger holds, so that no two clocks are compared. A video of another fingerprint takes the same
file's place, so a row counts as done for the fingerprint that was done last. A `lost` entry repeats id,
fingerprint, attempt and time of the `done` entry that it takes back: with it the row is done with no
fingerprint, as if it had not been tried, until a later `done` or `failed` says else. The order in which parts
are read and entries that are there twice change nothing.
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
from vidgen_dist.ledger.queries import DEAD_LETTERS, Summary, dead_letters, summary
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
