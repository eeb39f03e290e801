"""What a storage refuses is asked for again, but for what stays so."""

from __future__ import annotations

import errno
import threading

import pytest

from vidgen_dist.storage.retries import ATTEMPTS, with_retries


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("number", "attempts"),
    [
        *((number, 1) for number in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPERM)),
        # Credentials of an object store may be renewed meanwhile.
        *((number, ATTEMPTS) for number in (errno.EACCES, errno.EIO, errno.ETIMEDOUT)),
    ],
)
def test_what_a_disk_says_once_it_says_again(number: int, attempts: int) -> None:
    made = []

    def call() -> None:
        made.append(number)
        raise OSError(number, "refused")

    with pytest.raises(OSError, match="refused"):
        with_retries(call, hurry=threading.Event())
    assert len(made) == attempts
