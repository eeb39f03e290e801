"""The requests to S3, and their number."""

from __future__ import annotations

import os
from pathlib import Path

import boto3
import fsspec
import pytest
import s3fs

from vidgen_dist.errors import Refused
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.folder import Storage, open_storage


@pytest.fixture
def s3_calls(s3_bucket: str) -> tuple[Storage, list[str]]:
    """Storage on S3, and the list of the requests that the client makes."""
    output = open_storage(f"s3://{s3_bucket}/out")
    output.list()
    calls: list[str] = []
    fs = fsspec.filesystem("s3")
    original = type(fs)._call_s3

    async def noting(self, method, *args, **kwargs):
        calls.append(method)
        return await original(self, method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(fs), "_call_s3", noting)
        yield output, calls


def test_s3_gets_one_put_for_a_file_also_a_large_one(
    s3_calls: tuple[Storage, list[str]], s3_bucket: str, s3_endpoint: str, tmp_path: Path
) -> None:
    output, calls = s3_calls
    output.write_bytes("ledger/a.parquet", b"x")
    assert calls == ["put_object"]
    calls.clear()
    # Twice the size at which s3fs would send parts of its own accord.
    (tmp_path / "v.mp4").write_bytes(bytes(110 * 2**20))
    output.put_file(tmp_path / "v.mp4", "videos/v.mp4")
    assert calls == ["put_object"]
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    head = client.head_object(Bucket=s3_bucket, Key="out/videos/v.mp4")
    assert (head["ContentLength"], head["ContentType"]) == (110 * 2**20, "video/mp4")


def test_s3_file_beyond_one_put_is_sent_in_parts(s3_calls: tuple[Storage, list[str]], tmp_path: Path) -> None:
    output, calls = s3_calls
    (tmp_path / "v.mp4").write_bytes(os.urandom(2**10) * (101 * 2**10))
    output.put_file(tmp_path / "v.mp4", "v.mp4", one_put_bytes=2**20)
    assert "put_object" not in calls
    assert calls[-1] == "complete_multipart_upload"
    assert output.read_bytes("v.mp4") == (tmp_path / "v.mp4").read_bytes()


def test_s3_that_refuses_a_part_leaves_nothing(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = open_storage(f"s3://{s3_bucket}/out")
    output.write_bytes("v.mp4", b"old")
    original = s3fs.S3FileSystem._call_s3

    async def refusing(self, method, *args, **kwargs):
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise PermissionError("Access Denied")
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", refusing)
    (tmp_path / "v.mp4").write_bytes(bytes(101 * 2**20))
    for name in ("v.mp4", "new.mp4"):
        with pytest.raises(StorageError, match=f"cannot write s3://{s3_bucket}/out/{name}: Access Denied"):
            output.put_file(tmp_path / "v.mp4", name, one_put_bytes=2**20)
    assert output.list() == ["v.mp4"]
    assert output.read_bytes("v.mp4") == b"old"


def test_s3_listing_goes_beyond_one_page(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for n in range(25):
        client.put_object(Bucket=s3_bucket, Key=f"out/ledger/{n:05d}", Body=b"")
    client.put_object(Bucket=s3_bucket, Key="out/ledger/", Body=b"")  # a "folder" as the console makes it
    client.put_object(Bucket=s3_bucket, Key="out/ledger2/x", Body=b"")
    assert len(client.list_objects_v2(Bucket=s3_bucket)["Contents"]) == 10
    assert open_storage(f"s3://{s3_bucket}/out").list("ledger") == [f"ledger/{n:05d}" for n in range(25)]


@pytest.mark.usefixtures("s3_endpoint")
def test_a_bucket_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        Refused, match=r"s3://no-such-bucket/out cannot be used for output: .*bucket does not exist"
    ):
        open_storage("s3://no-such-bucket/out").check_writable()


def test_storage_that_answers_no_one_is_refused(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied for https://user:hunter2@example.com/x?X-Amz-Signature=hunter2")

    monkeypatch.setattr(fsspec.filesystem("s3"), "pipe_file", no_answer)
    with pytest.raises(Refused) as caught:
        open_storage(f"s3://{s3_bucket}/out").check_writable()
    assert f"s3://{s3_bucket}/out cannot be used for output" in str(caught.value)
    assert "Access Denied for https://example.com/x" in str(caught.value)
    assert "hunter2" not in str(caught.value)
