"""The manifest: Parquet in, one row one video.

A manifest is a Parquet file, a folder of them or a glob, on any storage. Its columns are the fields of a row
(see `vidgen_dist.request`), of which most models require `prompt` alone, and `priority`, which decides the
order alone (see `ordering`). A null takes the run's default. Relative paths of images and clips are taken
relative to the folder of the file that the row is in. Rows are read front to back and in batches, so a
manifest, and any row group of it, may be far larger than memory.

A row is identified by its `id` column or, where that is missing or null, by a digest of its request's
fields. The digest does not depend on the order of columns or rows, on the file, on the run's defaults or on
whether a column is absent or null.
"""

from vidgen_dist.manifest.bad_rows_file import LISTED, list_bad_rows
from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.columns import (
    PRIORITY,
    Column,
    RowSchema,
    column_of,
    describe_missing,
    describe_unknown,
    known_columns,
    needed,
)
from vidgen_dist.manifest.footers import INPUT_SUFFIXES
from vidgen_dist.manifest.identity import row_digest
from vidgen_dist.manifest.parquet_files import PARQUET_SUFFIXES, ManifestFile, find_files
from vidgen_dist.manifest.problems import BadRows, Fault, ProbeError, Problem, find_bad
from vidgen_dist.manifest.reader import Manifest, open_manifest
from vidgen_dist.manifest.row_order import ordered_rows
from vidgen_dist.manifest.rows import Row, with_paths_beside
from vidgen_dist.manifest.validation import (
    CheckReport,
    Reason,
    check,
    later_places,
    repeated_hashes,
)

__all__ = [
    "INPUT_SUFFIXES",
    "LISTED",
    "PARQUET_SUFFIXES",
    "PRIORITY",
    "BadRows",
    "Batch",
    "CheckReport",
    "Column",
    "Fault",
    "Manifest",
    "ManifestFile",
    "ProbeError",
    "Problem",
    "Reason",
    "Row",
    "RowSchema",
    "check",
    "column_of",
    "describe_missing",
    "describe_unknown",
    "find_bad",
    "find_files",
    "known_columns",
    "later_places",
    "list_bad_rows",
    "needed",
    "open_manifest",
    "ordered_rows",
    "repeated_hashes",
    "row_digest",
    "with_paths_beside",
]
