"""The result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vidgen_dist.errors import INTERRUPTED
from vidgen_dist.observability.progress import RunProgress
from vidgen_dist.output.status_file import State
from vidgen_dist.output_layout import LEDGER_FOLDER, VIDEOS_FOLDER
from vidgen_dist.preflight.plan import Plan
from vidgen_dist.storage.folder import Storage

DONE, DEAD_LETTERS = 0, 1

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Args:
        total: Rows of the manifest.
        done_before: Rows that were done before the run.
        done: Rows that the run did.
        failed: Rows that it gave up.
        failures: The first of them, each in a line.
        output: Where its videos and its ledger are.
        videos_per_minute: From the first loaded model to the end.
        exit_status: 0 all rows done, 1 some failed or the run could not go on, 130 interrupted.
        message: Why it ended before all rows were done, or that there was nothing to render.
        sent: Purpose -> bytes per video that a gang's first rank sent to the others.
        lora_changes: How often the LoRAs in a gang's weights were changed.
        recovered: Done rows whose videos were stored already, by a run or a gang that was killed.
    """

    total: int
    done_before: int
    done: int
    failed: int
    failures: tuple[str, ...]
    output: Storage
    videos_per_minute: float
    exit_status: int
    message: str = ""
    sent: Mapping[str, float] = field(default_factory=dict)
    recovered: int = 0
    lora_changes: int = 0

    @property
    def pending(self) -> int:
        """Rows that are neither done nor given up."""
        return self.total - self.done_before - self.done - self.failed

    def lines(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        before = f" ({self.done_before:,} of them before)" if self.done_before else ""
        lines = [("done", f"{self.done_before + self.done:,}{before}"), ("failed", f"{self.failed:,}")]
        if self.recovered:
            lines.append(
                ("adopted", f"{self.recovered:,} finished videos of a run or a gang that was killed")
            )
        if self.pending:
            lines.append(("pending", f"{self.pending:,}"))
        if self.videos_per_minute:
            lines.append(("pace", f"{self.videos_per_minute:.1f} videos/min"))
        if self.lora_changes:
            lines.append(("loras", f"{self.lora_changes:,} changes of LoRAs"))
        if self.sent:
            parts = sorted(self.sent.items(), key=lambda part: -part[1])
            by_purpose = ", ".join(f"{what} {_size(count)}" for what, count in parts)
            lines.append(("sent", f"{_size(sum(self.sent.values()))} a video by rank 0: {by_purpose}"))
        videos, ledger = self.output.uri(VIDEOS_FOLDER), self.output.uri(LEDGER_FOLDER)
        return [*lines, ("videos", videos), ("ledger", ledger)]


def result_of(
    plan: Plan, progress: RunProgress, failures: tuple[str, ...], exit_status: int, message: str
) -> RunResult:
    return RunResult(
        total=plan.total,
        done_before=plan.done,
        done=progress.done,
        failed=progress.failed,
        failures=failures,
        output=plan.output,
        videos_per_minute=progress.videos_per_minute(),
        exit_status=exit_status,
        message=message,
    )


def state_of(result: RunResult) -> State:
    """The state in `status.json` of a run that has ended."""
    if not result.pending:
        return "finished"
    return "interrupted" if result.exit_status == INTERRUPTED else "stopped"


def _size(count: float) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
