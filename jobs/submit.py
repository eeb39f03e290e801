"""Submit a run file to a Ray cluster from a machine that has Ray alone, and follow the job.

    python jobs/submit.py http://HEAD:8265 run.yaml --option output.uri=s3://bucket/videos

It needs `ray[default]` and nothing of ours; who has vidgen_dist uses `vidgen submit`, which checks the run
first and takes a local manifest along. The cluster runs `vidgen render run.yaml --address auto`, which checks
the run there: manifest, output, model, images and LoRAs must be reachable from the cluster's hosts. Relative
paths of manifest, output and prompt cache are refused.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

PLACES = ("manifest.uri", "output.uri", "model.prompt_cache")
FLAGS = ("--option", "--set")
STATUSES = (0, 1, 2, 130)
"""The exit statuses of `vidgen render`."""


def entrypoint(given: Mapping[str, Sequence[str]]) -> str:
    """The job's command.

    Args:
        given: Flag -> what follows each use of it; `vidgen render` reads it on the cluster.
    """
    flags = [word for flag in FLAGS for text in given.get(flag, ()) for word in (flag, text)]
    return f"exec {shlex.join(['vidgen', 'render', 'run.yaml', '--address', 'auto', *flags])}"


def relative_places(text: str, options: Sequence[str]) -> list[str]:
    """What names another file on the cluster, or none: `KEY: path` each.

    Args:
        text: The run file.
        options: What follows each `--option`.
    """
    run = yaml.safe_load(text)
    places = dict(option.partition("=")[::2] for option in options)
    for key in PLACES:
        section, name = key.split(".")
        within = run.get(section) if isinstance(run, dict) else None
        places.setdefault(key, within.get(name) if isinstance(within, dict) else None)
    return [f"{key}: {places[key]}" for key in PLACES if _is_relative(places[key])]


def _is_relative(place: Any) -> bool:
    path = place.removeprefix("file://") if isinstance(place, str) else ""
    return bool(path) and "://" not in path and not os.path.isabs(path)


async def follow(client: JobSubmissionClient, job: str) -> None:
    """Print what the job prints until it ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit a run file and, without `--no-wait`, follow the job.

    Exit status: the run's own; 1 if the job cannot be followed, 2 refused, 130 interrupted.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="the cluster's dashboard, http://HEAD:8265")
    parser.add_argument("run_file", type=Path, help="a run.yaml")
    for flag in FLAGS:
        parser.add_argument(
            flag, action="append", default=[], metavar="KEY=VALUE", help="as of vidgen render"
        )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and leave")
    given = parser.parse_args(arguments)
    if not given.address.startswith(("http://", "https://")):
        # Ray would look for a cluster there for minutes.
        parser.error(f"{given.address}: not a dashboard's address; allowed: http://HEAD:8265")
    try:
        text = given.run_file.read_text(encoding="utf-8")
        relative = relative_places(text, given.option)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"{given.run_file}: {error}")
    if relative:
        parser.error(f"{', '.join(relative)}: a relative path; allowed: URIs, and paths that the cluster has")
    try:
        client = JobSubmissionClient(given.address)
        with tempfile.TemporaryDirectory(prefix="vidgen-job-") as folder:
            (Path(folder) / "run.yaml").write_text(text, encoding="utf-8")
            job = client.submit_job(
                entrypoint=entrypoint({"--option": given.option, "--set": given.set}),
                runtime_env={"working_dir": folder},
            )
    except Exception as error:  # noqa: BLE001 - Ray raises what comes, plain `Exception` too
        parser.error(f"{given.address}: {error}")
    print(job, flush=True)
    if given.no_wait:
        return 0
    try:
        asyncio.run(follow(client, job))
        found = client.get_job_info(job)
    except KeyboardInterrupt:
        print(f"the job goes on; `ray job stop {job}` stops it", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the job does not depend on it
        print(f"{job}: cannot be followed ({error}); the job may go on", file=sys.stderr)
        return 1
    print(f"{job}: {found.status.value}", file=sys.stderr)
    if found.driver_exit_code in STATUSES:
        return found.driver_exit_code
    return {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130}.get(found.status, 1)


if __name__ == "__main__":
    sys.exit(main())
