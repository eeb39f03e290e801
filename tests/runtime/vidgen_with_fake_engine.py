"""`vidgen`, rendering with the fast fake engine: `python -m tests.runtime.vidgen_with_fake_engine ARGS`."""

from vidgen_dist.cli import main
from vidgen_dist.runtime import engine

engine.ENGINE = "tests.runtime.fake_engine"

if __name__ == "__main__":
    main()
