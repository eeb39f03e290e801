"""`python -m vidgen_dist` is `vidgen`."""

from vidgen_dist.cli import main

if __name__ == "__main__":
    main()
