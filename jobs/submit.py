"""Submit a run file to a Ray cluster as a Ray job, and follow it.

    python jobs/submit.py http://HEAD:8265 run.yaml --option output.uri=s3://bucket/videos

The run file is checked here first. The cluster runs `vidgen render run.yaml --address auto`: vidgen_dist
must be installed there (`cluster/Dockerfile`), and manifest and output must be reachable from there;
relative paths are refused.
`ray job stop ID` lets the rows that are being rendered finish only within Ray's RAY_JOB_STOP_WAIT_TIME_S,
3 seconds by default; finished rows are kept either way.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from vidgen_dist import printing
from vidgen_dist.cli.assignments import (
    KEY_VALUE,
    SAMPLING,
    is_key_of_spec,
    read_mapping,
    read_options,
    read_pair,
)
from vidgen_dist.errors import Refused
from vidgen_dist.output.run_file import load_run
from vidgen_dist.output_layout import RUN_FILE
from vidgen_dist.preflight.sampling import check_sampling, sampling_media
from vidgen_dist.runtime.connection import in_one_line
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.uris import is_relative

ENTRYPOINT = shlex.join(["vidgen", "render", RUN_FILE, "--address", "auto"])


def read_spec(uri: str, options: Sequence[str] = (), settings: Sequence[str] = ()) -> RunSpec:
    """The run file with `KEY=VALUE` texts put over it.

    Args:
        uri: The run file.
        options: What follows each `--option`: dotted keys of the file.
        settings: What follows each `--set`: fields of rows. Dotted keys are taken as well: before there was
            `--option`, they were given here.

    Raises:
        Refused: The file cannot be read, or a key or value is not allowed.
    """
    names = [read_pair("--set", text)[0] for text in settings]
    if "seed" in names:
        raise Refused(
            "--set seed: is ambiguous; --option seed=N is the run's seed, from which each row gets its own; "
            "--option sampling.seed=N is one seed for all rows"
        )
    keys = [text for name, text in zip(names, settings, strict=True) if is_key_of_spec(name)]
    fields = [text for name, text in zip(names, settings, strict=True) if not is_key_of_spec(name)]
    given = {
        **read_options(keys, "--set"),
        **read_mapping(SAMPLING, fields, "--set"),
        **read_options(options),
    }
    spec = load_run(uri, given)
    check_sampling(spec)
    return spec


def connect(address: str) -> JobSubmissionClient:
    """The cluster that jobs are submitted to.

    Raises:
        Refused: The address is not a dashboard's, or no dashboard answers there.
    """
    if not address.lower().startswith(("http://", "https://")):
        # Ray would look for a cluster there for minutes.
        raise Refused(f"{address}: not a dashboard's address; allowed: http://HEAD:8265")
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise Refused(f"{address}: no dashboard answers: {in_one_line(error)}") from error


def submit(client: JobSubmissionClient, spec: RunSpec) -> str:
    """Submit a run to the cluster and return the job's id.

    Raises:
        Refused: A path means another file there, or the cluster does not accept the job.
    """
    _check_paths(spec)
    with tempfile.TemporaryDirectory(prefix="vidgen-job-") as folder:
        (Path(folder) / RUN_FILE).write_text(spec.to_yaml(), encoding="utf-8")
        try:
            return client.submit_job(
                entrypoint=ENTRYPOINT,
                runtime_env={"working_dir": folder},
                metadata={"model": spec.model.id, "output": spec.output.uri},
            )
        except Exception as error:
            raise Refused(f"the cluster does not accept the job: {in_one_line(error)}") from error


def _check_paths(spec: RunSpec) -> None:
    media = {f"sampling.{name}": uri for name, uri in sampling_media(spec).items()}
    for key, path in {"manifest.uri": spec.manifest.uri, "output.uri": spec.output.uri, **media}.items():
        if is_relative(path):
            raise Refused(f"{key}: {path!r} is not allowed; a URI or {_ABSOLUTE}")
    model = spec.model.id
    # Without a folder of that name it is a hub id.
    if is_relative(model) and (model.startswith((".", "~")) or Path(model).is_dir()):
        raise Refused(f"model.id: {model!r} is not allowed; a hub id or {_ABSOLUTE}")


_ABSOLUTE = "an absolute path: the cluster's hosts work in another folder than this command"


async def follow(client: JobSubmissionClient, job: str) -> None:
    """Print what the job prints until it ends."""
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit a run file and, without `--no-wait`, follow the job.

    Exit status: 0 all rows done, 1 some failed or the job cannot be followed, 2 refused, 130 interrupted.
    """
    printing.guard()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", help="the cluster's dashboard, http://HEAD:8265")
    parser.add_argument("run_file", help="a run.yaml: path or URI")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar=KEY_VALUE,
        help="any option by its dotted key in the file, such as topology.watchdog.denoise=30",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar=KEY_VALUE,
        help="a sampling default by its column's name, such as num_frames=49",
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and leave")
    given = parser.parse_args(arguments)
    try:
        spec = read_spec(given.run_file, given.option, given.set)
        client = connect(given.address)
        job = submit(client, spec)
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    print(job)
    if given.no_wait:
        return 0
    try:
        asyncio.run(follow(client, job))
        status = client.get_job_status(job)
    except KeyboardInterrupt:
        print(f"the job goes on; `ray job stop {job}` stops it", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - Ray raises what comes, and the job does not depend on it
        print(f"{job}: cannot be followed ({in_one_line(error)}); the job may go on", file=sys.stderr)
        return 1
    print(f"{job}: {status.value}", file=sys.stderr)
    return 0 if status == JobStatus.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
