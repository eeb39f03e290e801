"""Jobs of a Ray cluster that render runs: submitted, listed, followed and stopped through its dashboard.

Ray's client of its Jobs API sends the token (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`). It waits without a limit for
an answer, so every call here runs in a thread that may be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import math
import os
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from vidgen_dist.errors import INTERRUPTED, REFUSED, Refused
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.package import VERSION
from vidgen_dist.preflight.submission import Submission
from vidgen_dist.runtime.connection import in_one_line
from vidgen_dist.runtime.driver.result import DEAD_LETTERS, DONE
from vidgen_dist.spec import parse_seconds
from vidgen_dist.storage.uris import redact

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that name the dashboard, as for Ray's own `ray job`: the first one that is set."""

# `exec`: Ray's signals are for vidgen, not for a shell that starts it.
ENTRYPOINT = f"exec {shlex.join(['vidgen', 'render', RUN_FILE])}"

STOP_MARGIN = 60
"""Seconds beside a run's grace until Ray kills a job that it stops: the run still writes its ledger."""

_STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""How long Ray waits for a job that it stops; it reads it in the process that watches over the job."""

_VERSION, _MODEL, _OUTPUT, _STOP_SECONDS = "vidgen", "model", "output", "stop_seconds"
"""Keys of a job's metadata. Who has the first one is a job of ours."""

_ENDED = ("stopped", "succeeded", "failed")

T = TypeVar("T")


@dataclass(frozen=True)
class JobPolicy:
    """How patient one is with a dashboard.

    Args:
        answer_seconds: Seconds for an answer.
        upload_seconds: Seconds for the package and the submission.
        silence_seconds: Seconds without a line of a log after which the connection is made anew. A run prints
            one every 15 s; a dead connection prints none, and reports no error either.
        reconnect_seconds: Seconds after which a log that cannot be followed is given up.
        poll_seconds: Seconds between two attempts, or two looks at a job.
    """

    answer_seconds: float = 30.0
    upload_seconds: float = 600.0
    silence_seconds: float = 90.0
    reconnect_seconds: float = 120.0
    poll_seconds: float = 1.0


@dataclass(frozen=True)
class Job:
    """A job that renders a run.

    Args:
        id: The job's id.
        status: `pending`, `running`, `stopped`, `succeeded` or `failed`.
        model, output: Of its run.
        since: When it was submitted.
        ended: When it ended; None if it has not.
        exit_code: The exit status of its `vidgen render`; None where Ray does not tell it.
        stop_seconds: Seconds that it may take to stop.
        message: What Ray says of it.
    """

    id: str
    status: str
    model: str
    output: str
    since: datetime | None
    ended: datetime | None
    exit_code: int | None
    stop_seconds: int
    message: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in _ENDED

    @property
    def exit_status(self) -> int:
        """The run's own exit status; by the job's status where Ray does not tell it, or it is another."""
        if self.exit_code in (DONE, DEAD_LETTERS, REFUSED, INTERRUPTED):
            return self.exit_code
        return {"succeeded": DONE, "stopped": INTERRUPTED}.get(self.status, DEAD_LETTERS)


class LostJob(Exception):
    """A job cannot be followed any more; it may go on."""


def find_address(given: str | None) -> str:
    """The address of the dashboard.

    Args:
        given: What `--address` gives.

    Raises:
        Refused: There is none, or it is not a dashboard's.
    """
    sources = {"--address": given, **{name: os.environ.get(name) for name in ADDRESS_VARIABLES}}
    for source, address in sources.items():
        if not address:
            continue
        if not address.lower().startswith(("http://", "https://")):
            # Ray would look for a cluster there for minutes.
            raise Refused(f"{source} {redact(address)}: not a dashboard's address; allowed: http://HEAD:8265")
        return address.rstrip("/")
    names = " or ".join(ADDRESS_VARIABLES)
    raise Refused(f"no cluster: give its dashboard with --address http://HEAD:8265, or set {names}")


class Dashboard:
    """The dashboard of a Ray cluster.

    Args:
        address: Such as `http://HEAD:8265`.
        connect: Makes Ray's client for an address.
        policy: How patient one is with it.

    Raises:
        Refused: No dashboard answers there, it refuses the token, or the cluster's Ray is too old.
    """

    def __init__(
        self,
        address: str,
        connect: Callable[[str], Any] | None = None,
        policy: JobPolicy = JobPolicy(),
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._shown = redact(address)
        self._policy = policy
        # Ray is loaded before the dashboard's time begins.
        connect = connect or _ray_client()
        with _without_address_variables():
            self._client = self._ask(lambda: connect(address))
        _check_version(self._shown, self._client)

    def submit(self, submission: Submission) -> str:
        """Submit a run and return the job's id.

        Raises:
            Refused: The package cannot be made, or the cluster does not accept the job.
        """
        spec = submission.spec
        stop_seconds = math.ceil(parse_seconds(spec.faults.grace)) + STOP_MARGIN
        with tempfile.TemporaryDirectory(prefix="vidgen-job-") as folder:
            submission.write(folder)
            return self._ask(
                lambda: self._client.submit_job(
                    entrypoint=ENTRYPOINT,
                    runtime_env={"working_dir": folder, "env_vars": {_STOP_VARIABLE: str(stop_seconds)}},
                    metadata={
                        _VERSION: VERSION,
                        _MODEL: redact(spec.model.id),
                        _OUTPUT: redact(spec.output.uri),
                        _STOP_SECONDS: str(stop_seconds),
                    },
                ),
                self._policy.upload_seconds,
            )

    def jobs(self) -> list[Job]:
        """All jobs that were submitted by `vidgen submit`, the oldest first; raises as `job`."""
        found = [_job(details) for details in self._ask(self._client.list_jobs)]
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(filter(None, found), key=lambda job: (job.since or never, job.id))

    def job(self, job_id: str) -> Job:
        """A job.

        Raises:
            Refused: There is no such job, it is not one of vidgen's, or the dashboard does not answer.
        """
        job = _job(self._ask(lambda: self._client.get_job_info(job_id), of=job_id))
        if job is None:
            raise Refused(f"{job_id}: was not submitted by `vidgen submit`; for it there is `ray job`")
        return job

    def log(self, job_id: str) -> str:
        """What a job has printed so far; raises as `job`."""
        return self._ask(lambda: self._client.get_job_logs(job_id), of=job_id)

    def stop(self, job_id: str, note: Callable[[str], None]) -> Job:
        """Stop a job, and wait until it has ended.

        Args:
            job_id: The job.
            note: Called with what is being waited for, in a line.

        Returns:
            The job as it ended; or as it is if it has not ended in its time.

        Raises:
            Refused: As `job`.
        """
        job = self.job(job_id)
        if not job.is_over:
            self._ask(lambda: self._client.stop_job(job_id), of=job_id)
            note(f"{job_id} was asked to stop; it has {job.stop_seconds} s to finish rows in progress")
        end = time.monotonic() + job.stop_seconds + self._policy.answer_seconds
        while not job.is_over and time.monotonic() < end:
            time.sleep(self._policy.poll_seconds)
            job = self.job(job_id)
        return job

    def follow(self, job_id: str, show: Callable[[str], None], note: Callable[[str], None]) -> Job:
        """Show what a job prints until it ends.

        A connection that is lost is made anew; what was shown is not shown again.

        Args:
            job_id: The job.
            show: Called with each piece of the log.
            note: Called with what happens to the connection, in a line.

        Returns:
            The job as it ended.

        Raises:
            Refused: As `job`.
            LostJob: The dashboard has not answered for long.
        """
        job = self.job(job_id)
        shown = 0
        last_answer = time.monotonic()
        told = False

        def take(at: int, text: str) -> None:
            nonlocal shown, last_answer, told
            last_answer, told = time.monotonic(), False
            if at + len(text) > shown:
                show(text[max(0, shown - at) :])
                shown = at + len(text)

        while True:
            try:
                asyncio.run(self._tail(job_id, take))
                job = self.job(job_id)
                last_answer, told = time.monotonic(), False
                if job.is_over:
                    return job
            except _Lost as lost:
                left = last_answer + self._policy.reconnect_seconds - time.monotonic()
                if left <= 0:
                    raise LostJob(f"{job_id}: cannot be followed ({lost}); it may go on") from None
                if not told:
                    note(f"connection lost ({lost}); trying again for {math.ceil(left)} s")
                    told = True
            time.sleep(self._policy.poll_seconds)

    async def _tail(self, job_id: str, take: Callable[[int, str], None]) -> None:
        """Hand on a job's log, each piece with its place, until it ends or is silent.

        Raises:
            _Lost: There is no connection.
            Refused: The dashboard refuses the token.
        """
        at = 0
        try:
            async with contextlib.aclosing(self._client.tail_job_logs(job_id)) as pieces:
                while True:
                    piece = await asyncio.wait_for(anext(pieces), self._policy.silence_seconds)
                    take(at, piece)
                    at += len(piece)
        except (StopAsyncIteration, TimeoutError):
            return
        except Exception as error:
            raise self._refusal(error) from error

    def _ask(self, request: Callable[[], T], seconds: float | None = None, of: str = "") -> T:
        """What the dashboard answers.

        Args:
            request: A call of Ray's client.
            seconds: How long to wait, if not as usual.
            of: The job that it is about.

        Raises:
            _Lost: It does not answer.
            Refused: It refuses.
        """
        seconds = seconds or self._policy.answer_seconds
        try:
            return _within(seconds, request)
        except TimeoutError:
            raise _Lost(f"{self._shown}: the dashboard does not answer within {seconds:g} s") from None
        except Exception as error:
            raise self._refusal(error, of) from error

    def _refusal(self, error: Exception, of: str = "") -> Refused:
        """What to say of an error of Ray's client, or of its connection."""
        import requests
        from aiohttp import ClientConnectionError

        if isinstance(error, Refused):
            return error
        reason = in_one_line(error)
        kind, status = type(error).__name__, getattr(error, "status", None)
        if status == 401 or (kind == "AuthenticationError" and "Authentication required" in reason):
            return Refused(
                f"{self._shown}: the cluster requires a token: set RAY_AUTH_MODE=token; the token is read "
                "from RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
            )
        if status == 403 or kind == "AuthenticationError":
            return Refused(
                f"{self._shown}: the cluster refuses the token; RAY_AUTH_TOKEN, the file of "
                "RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token must have the cluster's"
            )
        if of and "status code 404" in reason:
            return Refused(f"{of}: no such job at {self._shown}; see `vidgen jobs list`")
        if isinstance(error, (ConnectionError, ClientConnectionError, requests.ConnectionError)):
            return _Lost(f"{self._shown}: no dashboard answers: {reason}")
        return _Lost(f"{self._shown}: {reason}")


class _Lost(Refused):
    """No answer, or none that says what is wrong: another attempt may get one."""


_TALKATIVE = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)


def _ray_client() -> Callable[[str], Any]:
    """Ray's client, which asks the dashboard for its version when it is made."""
    from ray.job_submission import JobSubmissionClient

    for module in _TALKATIVE:
        logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)
    return JobSubmissionClient


@contextlib.contextmanager
def _without_address_variables() -> Iterator[None]:
    """Hide the variables from Ray, for which they come before the address that it is given."""
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _check_version(shown: str, client: Any) -> None:
    """Refuse a cluster whose Ray is older than the one that vidgen needs there, too."""
    # Ray offers it nowhere else, except in another request.
    theirs = getattr(client, "_server_ray_version", None)
    oldest = oldest_ray()
    if theirs and oldest and _numbers(theirs) < _numbers(oldest):
        raise Refused(f"{shown}: the cluster has Ray {theirs}; vidgen needs {oldest} or later there")


def oldest_ray() -> str | None:
    """The oldest Ray that this package runs with; None if the package is not installed."""
    try:
        needed = importlib.metadata.requires("vidgen-dist") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (re.match(r"ray\b.*?>=\s*([\d.]+)", text) for text in needed)
    return next((match[1] for match in found if match), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _within(seconds: float, function: Callable[[], T]) -> T:
    """What the function returns or raises.

    Raises:
        TimeoutError: It takes longer; its thread is left behind.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(seconds)


def _job(details: Any) -> Job | None:
    """A job as Ray describes it; None if it is not one of ours."""
    metadata = details.metadata or {}
    if _VERSION not in metadata or not details.submission_id:
        return None
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)).lower(),
        model=metadata.get(_MODEL, ""),
        output=metadata.get(_OUTPUT, ""),
        since=_time(details.start_time),
        ended=_time(details.end_time),
        exit_code=details.driver_exit_code,
        stop_seconds=int(metadata.get(_STOP_SECONDS, STOP_MARGIN)),
        message=details.message or "",
    )


def _time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
