"""Which texts are paths and which are URIs, how URIs are shown, and how they are recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.storage.uris import (
    absolute,
    has_password,
    is_local,
    lacks_secret,
    local_path,
    misspelling,
    redact,
    resolve_path,
    to_record,
)

# --- paths of this machine -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("dbfs:/x", "dbfs:///x"),
        ("hdfs:/x/*.parquet", "hdfs:///x/*.parquet"),
        ("s3:/b/x", "s3://b/x"),
        ("s3:b/x", "s3://b/x"),
        ("S3:/b/x", "S3://b/x"),
        ("s3:b", "s3://b"),
        ("s3:\\b\\x", "s3://b/x"),
        ("s3//b/x", "s3://b/x"),
        ("https:/host/x?sig=hunter2", "https://host/x"),
        ("https:/me:hunter2@host/x", "https://host/x"),
        ("https:host/x", "https://host/x"),
        ("file:/data/x", "file:///data/x"),
        ("file:data/x", "file:///data/x"),
        ("abfs:/c/x", "abfs://c/x"),
        ("wasbs:c@account/x", "wasbs://c@account/x"),
        ("myfs:/b/x", "myfs://b/x"),
        ("my_fs://b/x", "my_fs://b/x"),
        (" s3://b/x", "s3://b/x"),
        ("'s3://b/x'", "s3://b/x"),
        ('"hdfs:/x"', "hdfs:///x"),
    ],
)
def test_misspelt_uris_are_no_paths(uri: str, meant: str) -> None:
    for call in (local_path, absolute, lambda path: resolve_path(path, "/data/m.parquet")):
        with pytest.raises(Refused, match="neither an existing path nor a URI") as caught:
            call(uri)
        assert f"write {meant}, or ./" in str(caught.value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "C:/x", "C:\\x", "c:x", "x", "out/s3:/x", "./s3:/b/x", "../dbfs:/x", "/s3:/b/x", "12:30/x", "take:2",
        "a::b #1?x=%20é", "s3", "s3/b/x", "out//x", "data//x", "~/dbfs:/x", "-:/x", "a?b.png",
    ],
)  # fmt: skip
def test_paths_that_look_like_uris_stay_paths(path: str) -> None:
    assert misspelling(path) is None
    assert is_local(path)
    assert local_path(path) == os.path.abspath(os.path.expanduser(path))


def test_a_path_that_is_there_is_meant(tmp_path: Path) -> None:
    (tmp_path / "dbfs:").mkdir()
    (tmp_path / "dbfs:" / "x").touch()
    (tmp_path / "s3:b").touch()
    assert local_path("dbfs:/x") == str(tmp_path / "dbfs:" / "x")
    assert local_path("s3:b") == str(tmp_path / "s3:b")
    with pytest.raises(Refused):
        local_path("dbfs:/y")
    # Beside a file, it is there or not.
    assert resolve_path("dbfs:/x", str(tmp_path / "m.parquet")) == str(tmp_path / "dbfs:" / "x")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a%20b", "/a b"),
        ("file:///a b", "/a b"),
        ("file:///a%2520b", "/a%20b"),
        ("file:///%E2%9C%93", "/✓"),
        ("file:///50%", "/50%"),
        ("file:///a+b?c#d", "/a+b?c#d"),
        ("FILE:///a%20b", "/a b"),
        ("file://localhost/a", "/a"),
        ("file:////a", "/a"),
        ("file:///a/../b", "/b"),
        ("/a%20b", "/a%20b"),
        ("local:///a%20b", "/a%20b"),
    ],
)
def test_file_uris_are_decoded_and_paths_are_not(uri: str, path: str) -> None:
    assert local_path(uri) == path


def test_file_uris_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_path("file://../a%20b") == str(tmp_path.parent / "a b")
    assert local_path("file://./x") == str(tmp_path / "x")
    assert local_path("file://~/x") == str(tmp_path / "home" / "x")


@pytest.mark.parametrize("uri", ["file://data/x", "FILE://server/share/x", "file://x", "file://1.2.3.4/x"])
def test_files_of_other_hosts_are_refused(uri: str) -> None:
    for call in (local_path, lambda path: resolve_path(path, "s3://b/m.parquet")):
        with pytest.raises(Refused, match="it names a host"):
            call(uri)


@pytest.mark.parametrize("uri", ["", "file://", "local://"])
def test_an_empty_path_is_refused(uri: str) -> None:
    with pytest.raises(Refused, match="an empty path"):
        local_path(uri)


@pytest.mark.parametrize(
    ("path", "base", "expected"),
    [
        ("img/a.png", "/data/m.parquet", "/data/img/a.png"),
        ("../a.png", "s3://bucket/m/x.parquet", "s3://bucket/a.png"),
        ("a.png", "s3://bucket/m.parquet", "s3://bucket/a.png"),
        ("/abs/a.png", "s3://bucket/m.parquet", "/abs/a.png"),
        ("https://host/a.png?x=../y", "/data/m.parquet", "https://host/a.png?x=../y"),
    ],
)
def test_paths_are_resolved_beside_a_file(path: str, base: str, expected: str) -> None:
    assert resolve_path(path, base) == expected


def test_what_is_no_path_is_not_put_beside_a_file() -> None:
    for uri in ("s3://b/x", "data:image/png;base64,AAAA", "~/x"):
        assert resolve_path(uri, "/data/m.parquet") == uri


# --- what is shown, and what is written down -----------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown", "recorded"),
    [
        ("https://user:pw@host/a b.png?sig=pw", "https://host/a b.png", "https://host/a b.png?sig=***&***"),
        ("https://host?sig=pw", "https://host", "https://host?sig=***"),
        ("https://pw@host/a", "https://host/a", "https://host/a?***"),
        (
            "https://host/a?page=2&X-Amz-Signature=pw",
            "https://host/a",
            "https://host/a?page=2&X-Amz-Signature=***",
        ),
        ("https://host/a?download=true#part", "https://host/a", "https://host/a?download=true#part"),
        ("https://host/a?access_token=pw&x=1", "https://host/a", "https://host/a?access_token=***&x=1"),
        ("https://host/a?t=eyJhbGciOiJIUzI1NiIsInR5cCI6", "https://host/a", "https://host/a?t=***"),
        ("https://host/a?eyJhbGciOiJIUzI1NiIsInR5cCI6", "https://host/a", "https://host/a?***"),
        (
            "https://host/a?versionId=3HL4kqtJlcpXroDTDmJ",
            "https://host/a",
            "https://host/a?versionId=3HL4kqtJlcpXroDTDmJ",
        ),
        ("https://host:8080/a:b@c", "https://host:8080/a:b@c", "https://host:8080/a:b@c"),
        ("https://host:8080?x=a@b", "https://host:8080", "https://host:8080?x=a@b"),
        ("http://[::1]:8080/a@b", "http://[::1]:8080/a@b", "http://[::1]:8080/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b", "s3://bucket/a@b"),
        ("s3://bucket/part-?.parquet", "s3://bucket/part-?.parquet", "s3://bucket/part-?.parquet"),
        ("s3://bucket/what?key=1#2@3", "s3://bucket/what?key=1#2@3", "s3://bucket/what?key=1#2@3"),
        ("s3://KEY:se/cr/et@bucket/a@b", "s3://bucket/a@b", "s3://bucket/a@b?***"),
        ("s3://bucket/a?X-Amz-Signature=pw", "s3://bucket/a", "s3://bucket/a?X-Amz-Signature=***"),
        (
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/me/a@b",
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/me/a@b",
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/me/a@b",
        ),
        ("gs://bucket/a?b#c", "gs://bucket/a?b#c", "gs://bucket/a?b#c"),
        (
            "abfs://container@account.dfs.core.windows.net/a?.parquet",
            "abfs://container@account.dfs.core.windows.net/a?.parquet",
            "abfs://container@account.dfs.core.windows.net/a?.parquet",
        ),
        ("abfss://c@a/x?sv=1&sig=pw", "abfss://c@a/x", "abfss://c@a/x?sv=1&sig=***"),
        (
            "hf://datasets/me/x@refs%2Fpr%2F1/a",
            "hf://datasets/me/x@refs%2Fpr%2F1/a",
            "hf://datasets/me/x@refs%2Fpr%2F1/a",
        ),
        ("sftp://me@host/a", "sftp://host/a", "sftp://me@host/a"),
        ("smb://group;me:pw@host/share/a", "smb://host/share/a", "smb://host/share/a?***"),
        ("hdfs://me@name:8020/a#b", "hdfs://name:8020/a#b", "hdfs://me@name:8020/a#b"),
        (
            "webhdfs://name:9870/a?delegation=pw",
            "webhdfs://name:9870/a",
            "webhdfs://name:9870/a?delegation=***",
        ),
        ("ftp://me:pw@host/a", "ftp://host/a", "ftp://host/a?***"),
        (
            "github://owner:repository@main/a",
            "github://owner:repository@main/a",
            "github://owner:repository@main/a",
        ),
        ("/data/what?sig=.png", "/data/what?sig=.png", "/data/what?sig=.png"),
        ("file:///data/what?sig=1", "file:///data/what?sig=1", "file:///data/what?sig=1"),
    ],
)
def test_what_is_shown_and_what_is_written_down(uri: str, shown: str, recorded: str) -> None:
    assert redact(uri) == shown
    assert to_record(uri) == recorded
    assert lacks_secret(recorded) == (recorded != uri)
    assert not lacks_secret(uri)
    # What was written down is read, and written down again.
    assert to_record(recorded) == recorded
    assert has_password(uri) == (":pw@" in uri or ":se/cr/et@" in uri)


_TEXT = st.text(st.characters(exclude_characters="*", exclude_categories=["Cs"]), max_size=12)


@given(st.sampled_from(["s3", "gs", "abfs", "https", "sftp", "webhdfs", "memory"]), _TEXT, _TEXT)
def test_a_record_without_a_secret_is_the_uri(scheme: str, path: str, end: str) -> None:
    uri = f"{scheme}://host/{path}/{end}"
    assert lacks_secret(to_record(uri)) == (to_record(uri) != uri)
