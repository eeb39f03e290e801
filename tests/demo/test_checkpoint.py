"""The checkpoint that ships with the package: what it shows of prompts that training never saw."""

from __future__ import annotations

from collections import Counter

from tests.demo_model.clips import held_out_clips
from tests.demo_model.evaluate import evaluate
from vidgen_dist.demo import checkpoint_path

LEAST = {"ground": 11, "colour": 11, "shape": 7, "motion": 11}
"""Of 12 clips. The card's table has a higher share of each: this leaves room for chance, not for a fault."""


def test_it_shows_what_its_prompts_say() -> None:
    results = evaluate(checkpoint_path(), held_out_clips(12))
    right = Counter(name for result in results for name, is_right in result.right.items() if is_right)
    misses = "\n".join(str(result.miss) for result in results if not all(result.right.values()))
    assert all(right[name] >= least for name, least in LEAST.items()), f"{dict(right)}\n{misses}"
