"""`vidgen`, rendering with the fast fake engine: `python -m tests.vidgen_with_fake_engine ARGS`.

In front of the arguments of `vidgen` there may be `--policies` and their JSON: `tests.commands.fake_vidgen`
makes the beginning of such a command line; and `--attached`, to end with the process that started it.
"""

import json
import os
import sys

from tests.ray_processes import leave_out_monitors
from vidgen_dist import engine
from vidgen_dist.background import attached
from vidgen_dist.cli import main
from vidgen_dist.runtime.driver.policies import RunPolicies

engine.ENGINE = "tests.fake_engine"


def read_policies(text: str) -> RunPolicies:
    """Policies that `dataclasses.asdict` and JSON have made a text of."""
    usual = RunPolicies()
    return RunPolicies(**{name: type(getattr(usual, name))(**of) for name, of in json.loads(text).items()})


if __name__ == "__main__":
    # As a run sets it before it imports Ray, which reads it then.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    leave_out_monitors()
    policies = None
    if sys.argv[1:2] == ["--policies"]:
        policies = read_policies(sys.argv[2])
        del sys.argv[1:3]
    if sys.argv[1:2] == ["--attached"]:
        del sys.argv[1]
        attached.main(policies)
    else:
        main(policies)
