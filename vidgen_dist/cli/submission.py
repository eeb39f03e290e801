"""Commands about a cluster's jobs: submit, and jobs list, logs and stop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from vidgen_dist.cli.flags import Flags, help_of, with_argument, with_flags
from vidgen_dist.cli.terminal import make_console, print_error, print_next
from vidgen_dist.errors import INTERRUPTED, Refused, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from vidgen_dist.runtime.submission import Dashboard, Job

_NOT_FOUND = 127
"""Exit status of a shell that does not find the command."""

_SHOWN_MESSAGE = 300

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The cluster's dashboard, such as http://HEAD:8265.",
        show_default="RAY_API_SERVER_ADDRESS or RAY_ADDRESS",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Follow = Annotated[bool, typer.Option("--follow", help="Show the log until the job ends.")]


# The cluster is the dashboard's own.
@with_flags("render", without=("topology.address", "manifest.keep"))
def submit(
    run_file: Annotated[str, typer.Argument(metavar="RUN.YAML", help="A run file.")],
    output: Annotated[str | None, typer.Argument(metavar="[OUTPUT]", help=help_of("output.uri"))] = None,
    *,
    options: Flags,
    address: Address = None,
    shared: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder that all hosts of the cluster have under the same path; paths in it are allowed. "
            "May be repeated.",
        ),
    ] = None,
    follow: Follow = False,
) -> None:
    """Submit a run to a Ray cluster as a job, with its manifest if that is a local file.

    Prints the job's id. Exit status with --follow: the run's own.

    Examples:
        vidgen submit run.yaml --address http://HEAD:8265
        vidgen submit run.yaml s3://bucket/videos --address http://HEAD:8265 --follow
        vidgen submit run.yaml /nfs/videos --shared /nfs      # RAY_ADDRESS names the cluster
    """
    from vidgen_dist.output.run_file import load_run
    from vidgen_dist.preflight.sampling import check_sampling
    from vidgen_dist.preflight.submission import prepare_submission

    given = options if output is None else with_argument(options, "output.uri", "OUTPUT", output)
    spec = load_run(run_file, given)
    # What needs no other file is refused before a cluster is asked.
    check_sampling(spec)
    dashboard, place = _dashboard(address)
    submission = prepare_submission(spec, shared or ())
    for line in (*submission.notes, *submission.plan):
        print_error(line)
    job_id = dashboard.submit(submission)
    print(job_id, flush=True)
    if follow:
        _follow(dashboard, job_id, place)
    print_next(f"`vidgen jobs logs {job_id} --follow --address {place}`")


def list_jobs(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the jobs that `vidgen submit` has submitted to a cluster.

    Examples:
        vidgen jobs list --address http://HEAD:8265
    """
    dashboard, _ = _dashboard(address)
    jobs = dashboard.jobs()
    if as_json:
        print(json.dumps([_as_json(job) for job in jobs]))
        return
    if not jobs:
        print("no jobs of `vidgen submit`")
        return
    rows = [("job", "status", "since", "model", "output")]
    for job in jobs:
        since = "unknown" if job.since is None else f"{job.since:%Y-%m-%d %H:%M:%S}Z"
        rows.append((job.id, job.status, since, job.model, job.output))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # People copy ids and URIs: a line is not broken.
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def show_log(job: JobId, address: Address = None, follow: Follow = False) -> None:
    """Print what a job has printed. Exit status with --follow: the run's own.

    Examples:
        vidgen jobs logs JOB --address http://HEAD:8265 --follow
    """
    dashboard, place = _dashboard(address)
    if follow:
        _follow(dashboard, job, place)
    dashboard.job(job)
    print(dashboard.log(job), end="")


def stop_job(job: JobId, address: Address = None) -> None:
    """Stop a job and wait for its end: rows in progress get the run's grace, finished rows are kept.

    Examples:
        vidgen jobs stop JOB --address http://HEAD:8265
    """
    dashboard, place = _dashboard(address)
    try:
        stopped = dashboard.stop(job, print_error)
    except KeyboardInterrupt:
        print_error(f"not waited for; see `vidgen jobs list --address {place}`")
        raise typer.Exit(INTERRUPTED) from None
    if not stopped.is_over:
        raise Refused(f"{job}: is still {stopped.status}; Ray's log of it is on its node")
    print(f"{job}: {stopped.status}")


def _dashboard(address: str | None) -> tuple[Dashboard, str]:
    """The dashboard and its address, as a command line takes it."""
    from vidgen_dist.runtime.submission import Dashboard, find_address
    from vidgen_dist.storage.uris import redact

    found = find_address(address)
    return Dashboard(found), redact(found)


def _follow(dashboard: Dashboard, job_id: str, place: str) -> None:
    """Show a job's log until it ends, and leave with its run's exit status."""
    from vidgen_dist.runtime.submission import LostJob

    try:
        with _LogView(make_console()) as view:
            job = dashboard.follow(job_id, view.show, print_error)
    except KeyboardInterrupt:
        print_error(f"the job goes on; `vidgen jobs stop {job_id} --address {place}` stops it")
        raise typer.Exit(INTERRUPTED) from None
    except LostJob as error:
        print_error(f"{error}; `vidgen jobs logs {job_id} --follow --address {place}` goes on")
        raise typer.Exit(1) from None
    print_error(f"{job_id}: {job.status}")
    if job.exit_code == _NOT_FOUND:
        print_error("the cluster has no `vidgen`: install vidgen_dist on its hosts")
    elif job.exit_code is None and job.status == "failed":
        print_error(shortened(" ".join(job.message.split()), _SHOWN_MESSAGE))
    raise typer.Exit(job.exit_status)


def _as_json(job: Job) -> dict[str, Any]:
    values = dataclasses.asdict(job)
    return {name: value.isoformat() if name in _TIMES and value else value for name, value in values.items()}


_TIMES = ("since", "ended")


class _LogView:
    """Prints a log as it comes; on a terminal, the run's progress is one line that changes.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self.show: Callable[[str], None] = self._show if console.is_terminal else self._print

    def __enter__(self) -> _LogView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
            print(self._rest, end="", flush=True)

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)

    def _show(self, text: str) -> None:
        from vidgen_dist.observability.progress import is_progress_line

        # The last line may not be whole yet.
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if is_progress_line(line):
                self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            else:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
