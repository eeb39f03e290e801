"""The manifest: Parquet in, one row one video.

A manifest is a Parquet file, a folder of them or a glob, on any storage. Its columns are
`RenderRequest`'s fields, of which only `prompt` is required, and `priority`, which decides the order alone
(see `ordering`). A null takes the run's default. A relative `image` or `video` is taken relative to the
folder of the file that the row is in. Rows are read front to back and in batches, so a manifest, and any row
group of it, may be far larger than memory.

A row is identified by its `id` column or, where that is missing or null, by a digest of its request's
fields. The digest does not depend on the order of columns or rows, on the file, on the run's defaults or on
whether a column is absent or null.
"""

from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.checking import CheckReport, Problem, check, later_places, repeated_hashes
from vidgen_dist.manifest.columns import COLUMNS, KNOWN_COLUMNS, PRIORITY, Column, describe_unknown
from vidgen_dist.manifest.files import INPUT_SUFFIXES, PARQUET_SUFFIXES, ManifestFile, find_files
from vidgen_dist.manifest.identity import row_digest
from vidgen_dist.manifest.opening import Manifest, open_manifest
from vidgen_dist.manifest.ordering import ordered_rows
from vidgen_dist.manifest.rows import Row

__all__ = [
    "COLUMNS",
    "INPUT_SUFFIXES",
    "KNOWN_COLUMNS",
    "PARQUET_SUFFIXES",
    "PRIORITY",
    "Batch",
    "CheckReport",
    "Column",
    "Manifest",
    "ManifestFile",
    "Problem",
    "Row",
    "check",
    "describe_unknown",
    "find_files",
    "later_places",
    "open_manifest",
    "ordered_rows",
    "repeated_hashes",
    "row_digest",
]
