"""The options of faults: what a run tolerates."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vidgen_dist.spec.option import Option, Part
from vidgen_dist.spec.values import Duration, Failures


class FaultsOptions(Part):
    """What a run tolerates; it does not change pixels. The declarations say what the fields are."""

    GROUP: ClassVar = "Faults"

    max_attempts: Annotated[
        int,
        Field(ge=1, le=100, strict=True),
        Option(
            "Attempts for a row whose gang dies or that runs out of memory.",
            flag="--max-attempts",
            details="Then it is a dead letter. Other errors are final at once; storage retries by itself.",
        ),
    ] = 3
    max_failures: Annotated[
        Failures | None,
        Option(
            "Stop when more rows than this have failed: a number, or a share of the rows tried.",
            flag="--max-failures",
            metavar="N|P%",
            unset="never",
            details="The exit status is then 1. A share, such as `5%`, counts from the 100th row that was "
            "tried, or as a share of all rows where there are fewer. Bad rows count as a share of all "
            "rows: they are known before any row is tried.",
        ),
    ] = None
    bad_rows: Annotated[
        Literal["refuse", "fail"],
        Option(
            "For rows found bad before the start: refuse the run, or fail them and render the others.",
            flag="--bad-rows",
            metavar="refuse|fail",
            details="Rows that fail in this way are dead letters.",
        ),
    ] = "refuse"
    grace: Annotated[
        Duration,
        Option(
            "Time to finish rows after SIGTERM, such as 30s or 10m.",
            flag="--grace",
            details="After that they are given up and wait for the next run. Choose less than the scheduler "
            "allows: Kubernetes and Slurm allow 30 s.",
        ),
    ] = "20s"

    def failures_allowed(self, tried: int, rows: int, bad: int = 0) -> float | Fraction:
        """Rows that may have failed, beside bad ones; negative if those are too many.

        Args:
            tried: Rows that are done or failed so far, without bad ones.
            rows: Rows that the run is to render.
            bad: Bad rows beside them.
        """
        if self.max_failures is None:
            return math.inf
        if isinstance(self.max_failures, int):
            return self.max_failures - bad
        # Exactly: 29% of 100 rows are 29.
        share = Fraction(self.max_failures.strip().rstrip("% ")) / 100
        left = share * (rows + bad) - bad
        return left * max(tried, min(rows, 100)) / rows if rows else left
