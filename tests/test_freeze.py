"""What `python -m tests.freeze` compares, and what it sees of a generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import freeze

OLD = {"frames": {"a/b": {"steps": [1, 2], "digest": "x"}}, "names": {"flag": {"default": 1}}}


def test_differences_are_told_by_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    new = {
        "frames": {"a/b": {"steps": [1, 3], "digest": "x"}, "a/c": {}},
        "names": {"flag": {"default": 1.0}},
    }
    assert not freeze.compare(OLD, new, allow_more=False)
    printed = capsys.readouterr().out
    assert "frames > a/b > steps[1]:\n    2 -> 3\n" in printed
    assert "frames > a/c:\n    + {}\n" in printed
    assert "names > flag > default:\n    1 -> 1.0\n" in printed
    assert "frames, names: 3 differences" in printed


def test_what_is_new_alone_may_be_allowed() -> None:
    more = {**OLD, "frames": {**OLD["frames"], "a/c": {}}}
    assert freeze.compare(OLD, more, allow_more=True)
    assert not freeze.compare(more, OLD, allow_more=True)


def test_a_comparison_says_so_by_its_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    for file, facts in zip(files, (OLD, {**OLD, "names": {}}), strict=True):
        file.write_text(json.dumps(facts), encoding="utf-8")
    for arguments, status in (([], 1), (["--only", "frames"], 0)):
        monkeypatch.setattr("sys.argv", ["freeze", "--compare", *map(str, files), *arguments])
        assert freeze.main() == status


def test_draws_are_seen_in_order_and_are_those_of_numpy() -> None:
    expected = np.random.Generator(np.random.PCG64(7)).standard_normal((2, 3))
    with freeze.recorded_draws() as draws:
        rng = np.random.Generator(np.random.PCG64(7))
        np.testing.assert_array_equal(rng.standard_normal((2, 3)), expected)
        np.random.default_rng(1).integers(5, size=4)
    assert draws == ["standard_normal float64 [2, 3]", "integers int64 [4]"]
    assert type(np.random.Generator(np.random.PCG64(7))) is np.random.Generator
