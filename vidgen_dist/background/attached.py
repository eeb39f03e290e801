"""`python -m vidgen_dist.background.attached ARGS` is `vidgen ARGS`, tied to the process that started it.

It takes the end of its standard input, which that process holds open, as a SIGTERM: rows that are being
rendered have the run's grace. Before the message of what is refused it prints `REFUSAL`, so that its reader
can tell the message from lines before it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vidgen_dist.processes import terminate_at_the_end_of

if TYPE_CHECKING:
    from vidgen_dist.runtime.driver.policies import RunPolicies

REFUSAL = "\x1e"
"""ASCII's record separator, which no message has."""


def main(policies: RunPolicies | None = None) -> None:
    """See the module, and `vidgen_dist.cli.main`."""
    terminate_at_the_end_of(sys.stdin.fileno())
    from vidgen_dist import cli
    from vidgen_dist.cli.terminal import print_error

    cli.main(policies, on_refused=lambda message: print_error(f"{REFUSAL}{message}"))


if __name__ == "__main__":
    main()
