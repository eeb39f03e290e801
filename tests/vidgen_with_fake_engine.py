"""`vidgen`, rendering with the fast fake engine: `python -m tests.vidgen_with_fake_engine ARGS`.

Constants of the runtime, which tests would else wait for, may be given in `VIDGEN_TEST_CONSTANTS`:
`{"output.lease.INTERVAL_SECONDS": 0.5}`.
"""

import importlib
import json
import os

from vidgen_dist import engine
from vidgen_dist.cli import main

engine.ENGINE = "tests.fake_engine"

if __name__ == "__main__":
    for name, value in json.loads(os.environ.get("VIDGEN_TEST_CONSTANTS", "{}")).items():
        module, _, constant = name.rpartition(".")
        holder = importlib.import_module(f"vidgen_dist.{module}")
        assert hasattr(holder, constant), name
        setattr(holder, constant, value)
    main()
