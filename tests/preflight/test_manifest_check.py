"""Manifests and rows that are refused before anything starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import fake_engine
from tests.preflight.plans import MakeManifest, MakeSpec, enter, plan_of, rows_of
from vidgen_dist.engine import OpenedModel
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.manifest_check import check_manifest
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.spec import ModelOptions

BAD_ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_frames": -1}, ["row 1", "'b'", "num_frames", "-1"]),
    ({"num_frames": 2.5}, ["row 1", "num_frames", "2.5", "whole number"]),
    ({"height": 12}, ["row 1", "height", "12", "multiple of 8"]),
    ({"seed": -5}, ["row 1", "seed", "-5"]),
    ({"id": "a"}, ["row 1", "id", "the same as that of row 0"]),
    ({"eta": 0.5}, ["row 1", "eta", "does not take it"]),
]


@pytest.mark.parametrize(("bad", "parts"), BAD_ROWS)
def test_a_bad_row_is_named(
    make_spec: MakeSpec, make_manifest: MakeManifest, bad: dict[str, Any], parts: list[str]
) -> None:
    empty = dict.fromkeys(bad)
    manifest = make_manifest(
        {**empty, "id": "a", "prompt": "x"},
        {"id": "b", "prompt": "y", **bad},
        {**empty, "id": "c", "prompt": "z"},
    )
    with pytest.raises(Refused) as refused:
        plan_of(make_spec(manifest))
    for part in [manifest, *parts]:
        assert part in str(refused.value)


def test_the_task_needs_its_image(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    with pytest.raises(Refused, match=r"row 0.*image"):
        plan_of(make_spec(make_manifest("one"), model__task="image-to-video"))


def test_passthrough_may_not_hide_the_ledgers_own(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"id": "a", "prompt": "x", "status": "mine"})
    with pytest.raises(Refused, match="'status' cannot be copied"):
        plan_of(make_spec(manifest, manifest__passthrough=["status"]))


def test_what_the_ledger_cannot_hold_is_refused_before_a_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([None, 1]), pa.array(["x", None])], ["a", "a"])
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"prompt": ["p", "q"], "odd": twice}), path)
    flags = {"manifest.passthrough": ["odd"]}
    for plan in (
        lambda: plan_of(make_spec(path, manifest__passthrough=["odd"])),
        lambda: check_manifest(path, flags),
    ):
        with pytest.raises(Refused, match="passthrough: column 'odd' has type struct<a: int64, a: string>"):
            plan()
    assert plan_of(make_spec(path)).total == 2


@pytest.mark.parametrize("content", [b"", b"prompt\na fox\n", b"PAR1 but cut"])
def test_a_manifest_that_is_not_parquet(make_spec: MakeSpec, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"m\.parquet.*Parquet"):
        plan_of(make_spec(str(path)))


def test_a_manifest_without_prompt(make_spec: MakeSpec, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match="'prompt'"):
        plan_of(make_spec(str(tmp_path / "m.parquet")))


def test_whatever_the_model_a_row_needs_a_prompt_or_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    texts = {"image": ["x.png", None, None], "prompt": [None, "a fox", None]}
    pq.write_table(pa.table(texts), tmp_path / "m.parquet")
    report = check_manifest(str(tmp_path / "m.parquet"), {})
    assert (report.bad_rows, dict(report.counts)) == (1, {"prompt": 1})
    assert "a text, or a value of image" in report.problems[0].message
    pq.write_table(pa.table({"image": ["x.png"]}), tmp_path / "m.parquet")
    assert check_manifest(str(tmp_path / "m.parquet"), {}).ok
    pq.write_table(pa.table({"promt": ["a fox"]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match=r"no column 'prompt' or 'image', which .* \(is 'promt' meant to be it"):
        check_manifest(str(tmp_path / "m.parquet"), {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Textless(ResolvedRequest):
    """A request for a model that has no text encoder."""

    num_frames: int
    guidance_scale: float


@pytest.fixture
def without_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake model takes no prompt."""

    def open_model(model: ModelOptions, device: str, ring: int = 1) -> OpenedModel:
        opened = fake_open_model(model, device, ring)
        of_task = dataclasses.replace(opened.rules.of_task, request=Textless)
        return dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, of_task=of_task))

    fake_open_model = fake_engine.open_model
    monkeypatch.setattr(fake_engine, "open_model", open_model)


@pytest.mark.usefixtures("without_text")
def test_a_model_that_takes_no_prompt(
    make_spec: MakeSpec, make_manifest: MakeManifest, caplog: pytest.LogCaptureFixture
) -> None:
    ids = list("abcd")
    bare = make_manifest(*({"id": row_id, "seed": None if row_id < "c" else 3} for row_id in ids))
    spec = make_spec(bare)
    plan = plan_of(spec)
    rows = rows_of(plan)
    assert not any("prompt" in row.request.values() for row in rows)
    assert not caplog.records
    enter(plan, rows[::2])
    assert plan_of(spec).records.is_done.tolist() == [True, False, True, False]

    told = make_manifest(*({"id": i, "prompt": f"a {i}", "seed": None if i < "c" else 3} for i in ids))
    again = plan_of(make_spec(told))
    # It does not count.
    assert again.records.is_done.tolist() == [True, False, True, False]
    assert [row.request for row in rows_of(again)] == [row.request for row in rows[1::2]]
    (warning,) = caplog.records
    assert "column 'prompt' is ignored: Fake text-to-video does not take it" in warning.getMessage()


@pytest.mark.usefixtures("without_text")
def test_another_field_that_a_model_does_not_take_is_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest({"id": "a", "negative_prompt": "x"})
    with pytest.raises(Refused, match="negative_prompt: 'x' is not allowed; Fake text-to-video does not"):
        plan_of(make_spec(manifest))
