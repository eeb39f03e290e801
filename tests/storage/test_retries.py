"""Failed operations are repeated, except for permanent failures."""

from __future__ import annotations

import errno
import threading

import pytest

from tests.policies import AT_ONCE
from vidgen_dist.storage.retries import with_retries


@pytest.mark.parametrize(
    ("number", "attempts"),
    [
        *((number, 1) for number in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPERM)),
        # Credentials of an object store may be renewed meanwhile.
        *((number, AT_ONCE.attempts) for number in (errno.EACCES, errno.EIO, errno.ETIMEDOUT)),
    ],
)
def test_what_a_disk_says_once_it_says_again(number: int, attempts: int) -> None:
    made = []

    def call() -> None:
        made.append(number)
        raise OSError(number, "refused")

    with pytest.raises(OSError, match="refused"):
        with_retries(call, hurry=threading.Event(), policy=AT_ONCE)
    assert len(made) == attempts
