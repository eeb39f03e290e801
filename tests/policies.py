"""Policies of tests that would else wait."""

from __future__ import annotations

from vidgen_dist.storage.retry_policy import RetryPolicy

AT_ONCE = RetryPolicy(first_delay=0.0)
"""A storage that refuses is asked again at once."""
