"""Files, folders and globs are listed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import open_storage
from vidgen_dist.storage.listing import expand, would_find


def test_files_folders_and_globs_expand(root: str) -> None:
    output = open_storage(root)
    for name in (
        "b.parquet",
        "a.parquet",
        "sub/c.parquet",
        "_SUCCESS",
        ".a.parquet.crc",
        "_temporary/d.parquet",
        "_committed_1",
        ".part=1/f.parquet",
        "sub/_part=1/g.parquet",
    ):
        output.write_bytes(name, b"x")
    assert expand(output.uri("a.parquet")) == [output.uri("a.parquet")]
    # As Spark has it, a partition may have such a name.
    all_of_them = ("a.parquet", "b.parquet", "sub/_part=1/g.parquet", "sub/c.parquet")
    assert expand(root) == [output.uri(name) for name in all_of_them]
    assert expand(root + "/") == expand(root)
    assert expand(root + "/*.parquet") == [output.uri("a.parquet"), output.uri("b.parquet")]
    assert expand(root + "/**/*.parquet") == expand(root)
    assert expand(root + "/?.parquet") == expand(root + "/[ab].parquet") == expand(root + "/*.parquet")
    for uri in expand(root):
        assert read_bytes(uri) == b"x"
    output.write_bytes("x[1].parquet", b"y")
    assert expand(output.uri("x[1].parquet")) == [output.uri("x[1].parquet")]
    output.write_bytes("_hidden/e.parquet", b"z")
    assert expand(output.uri("_hidden") + "/*") == [output.uri("_hidden/e.parquet")]


def test_what_would_be_found_is_what_expands(root: str) -> None:
    output = open_storage(root)
    names = ("a.parquet", "sub/b.parquet", "sub/sub/c.parquet", "_out/d.parquet", "subway/.e/f.parquet")
    for name in names:
        output.write_bytes(name, b"x")
    patterns = ("", "/", "/sub", "/su", "/*", "/*.parquet", "/*/*.parquet", "/**/*.parquet", "/**", "/_out")
    for pattern in patterns:
        found = [output.uri(name) for name in names if would_find(root + pattern, output.uri(name))]
        assert sorted(found) == expand(root + pattern), pattern
    assert not would_find("/elsewhere", "memory://elsewhere/a.parquet")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_storage(tmp_path)
    output.write_bytes("ledger/a", b"1")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(StorageError, match=r"cannot list .*ledger: Permission denied"):
        output.list("ledger")
