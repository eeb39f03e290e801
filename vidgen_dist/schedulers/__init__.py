"""Samplers: from a checkpoint's `scheduler_config.json` to the steps of a rendering. Plain NumPy."""
