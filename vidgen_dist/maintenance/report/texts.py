"""Numbers as people read them, in cards and charts alike."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration, with as many digits as it deserves."""
    if seconds < 0.001:
        return f"{seconds * 1000:.1g} ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h"


def file_size(size: float) -> str:
    """Bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def count(number: int, what: str) -> str:
    """A count with its unit: `1 row`, `2,000 rows`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
