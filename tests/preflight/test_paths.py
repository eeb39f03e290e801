"""Paths and URIs of runs: as workers get them, and as run.yaml keeps them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.preflight.plans import MakeManifest, MakeSpec, enter, plan_of, record, rows_of
from vidgen_dist.errors import Refused
from vidgen_dist.output.run_file import load_spec


def test_run_file_comes_back_and_goes_on_from_anywhere(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest("one")
    monkeypatch.chdir(tmp_path)
    plan = plan_of(make_spec(Path(manifest).name, output__uri="out", sampling__num_frames=4))
    record(plan)
    enter(plan, rows_of(plan))
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    again = load_spec(str(tmp_path / "out" / "run.yaml"))
    assert again.output.uri == str(tmp_path / "out")
    assert again.model.task == "text-to-video"
    assert plan_of(again).done == 1


def test_secrets_of_uris_are_not_written_down_and_asked_for_again(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    plan = plan_of(make_spec(make_manifest("one")))
    signed = "https://host/manifest.parquet?page=1&X-Amz-Signature=abcdef"
    image = "https://user:abcdef@host/fox.png?X-Amz-Signature=abcdef"
    for uris, lacking in (
        ({"manifest.uri": signed}, "manifest.uri: https://host/manifest.parquet"),
        ({"sampling.image": image}, "sampling.image: https://host/fox.png"),
    ):
        record(dataclasses.replace(plan, spec=plan.spec.override(uris)))
        assert "abcdef" not in (tmp_path / "out" / "run.yaml").read_text()
        again = load_spec(str(tmp_path / "out" / "run.yaml"))
        with pytest.raises(Refused, match=re.escape(lacking) + ".* give the whole URI again"):
            plan_of(again)
        # The run goes on with the URI as it was given.
        whole = {"manifest.uri": plan.spec.manifest.uri, "sampling.image": None}
        assert plan_of(again.override(whole)).total == 1


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://container@account.dfs.core.windows.net/data/*.parquet",
        "s3://bucket/what?/part-?.parquet",
        "s3://bucket/a#b@c.parquet",
        "sftp://me@host/data",
        "https://host/m.parquet?version=3",
    ],
)
def test_uris_are_written_down_as_they_were_given(
    uri: str, make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    plan = plan_of(make_spec(make_manifest("one")))
    record(dataclasses.replace(plan, spec=plan.spec.override({"manifest.uri": uri})))
    assert load_spec(str(tmp_path / "out" / "run.yaml")).manifest.uri == uri


def test_local_paths_are_written_down_plainly(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    image = "file://../away/../fox.png"
    plan = plan_of(
        make_spec(
            f"../{Path(make_manifest('one')).name}", sampling__image=image, model__task="image-to-video"
        )
    )
    assert plan.spec.manifest.uri == str(tmp_path / "manifest.parquet")
    assert plan.spec.sampling["image"] == str(tmp_path / "fox.png")
