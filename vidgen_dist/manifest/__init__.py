"""The manifest: Parquet in, one row one video.

A manifest is a Parquet file, a folder of them or a glob, on any storage. Its columns are the fields of a row
(see `vidgen_dist.request`); most models require only `prompt`. The column `priority` decides only the order
(see `row_order`). A null takes the run's default. Relative paths of images and clips start from the folder of
the row's file. Rows are read front to back and in batches, so a manifest, and any row group of it, may be far
larger than memory.

A row is identified by its `id` column or, where that is missing or null, by a digest of its request's
fields. The digest does not depend on the order of columns or rows, on the file, on the run's defaults or on
whether a column is absent or null.
"""

from vidgen_dist.manifest.bad_rows_file import BAD_ROWS_SCHEMA, create_bad_rows_file
from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.columns import (
    PRIORITY,
    Column,
    RowSchema,
    column_of,
    describe_missing,
    describe_required,
    describe_unknown,
    known_columns,
)
from vidgen_dist.manifest.footers import INPUT_SUFFIXES
from vidgen_dist.manifest.identity import row_digest
from vidgen_dist.manifest.parquet_files import PARQUET_SUFFIXES, ManifestFile, find_files
from vidgen_dist.manifest.problems import (
    BadRows,
    Fault,
    ProbeError,
    Problem,
    describe_problems,
    find_bad_rows,
)
from vidgen_dist.manifest.reader import Manifest, open_manifest
from vidgen_dist.manifest.row_order import ordered_rows
from vidgen_dist.manifest.rows import Row, resolve_media_paths
from vidgen_dist.manifest.seeds import row_seed, row_seeds
from vidgen_dist.manifest.validation import (
    CheckReport,
    Reason,
    check,
    find_repeated_ids,
    repeated_hashes,
)

__all__ = [
    "BAD_ROWS_SCHEMA",
    "INPUT_SUFFIXES",
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
    "create_bad_rows_file",
    "describe_missing",
    "describe_problems",
    "describe_required",
    "describe_unknown",
    "find_bad_rows",
    "find_files",
    "find_repeated_ids",
    "known_columns",
    "open_manifest",
    "ordered_rows",
    "repeated_hashes",
    "resolve_media_paths",
    "row_digest",
    "row_seed",
    "row_seeds",
]
