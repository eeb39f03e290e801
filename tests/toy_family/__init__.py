"""A package that brings a family of its own: `vidgen_toy`, whose entry point `pyproject.toml` names."""
