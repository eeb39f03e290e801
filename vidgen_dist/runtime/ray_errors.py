"""Ray's errors for failed calls, as short descriptions that name no host."""

from __future__ import annotations

import re

import ray

from vidgen_dist.storage.uris import redact_message

_OUT_OF_MEMORY = re.compile("low on memory|memory pressure|OUT_OF_MEMORY|CRASH_OOM")


def describe_failure(error: BaseException) -> str:
    """Why a call has no answer: a short description that names no host."""
    message = str(error)
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"raised {type(error.cause).__name__}: {redact_message(str(error.cause))}"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or _OUT_OF_MEMORY.search(message):
        return "was killed: its node ran out of memory"
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "is out of reach"
    if isinstance(error, ray.exceptions.ActorDiedError):
        if error.actor_init_failed:
            # The last line is the error that its process raised; the others are its traceback.
            return f"could not be started: {message.strip().splitlines()[-1]}"
        return next((cause for part, cause in _DEATHS.items() if part in message), "died")
    return f"is lost: {type(error).__name__}"


_DEATHS = {
    "node has died": "died with its node",
    "ray.kill": "was ended by the driver",
    "worker process has died": "died: its process crashed, or was killed (for lack of memory, for example)",
}
"""Part of Ray's message about a death -> our description."""
