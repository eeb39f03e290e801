"""LoRAs that rows name: opened before the run, counted by content, missing ones named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.preflight.plans import enter, plan_of, record, rows_of
from vidgen_dist.errors import Refused
from vidgen_dist.output.run_file import read_run_file
from vidgen_dist.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
MakeManifest = Callable[..., str]


def lora(path: Path, value: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x.diff": np.full((2, 2), value, np.float32)}, path)
    return str(path)


def test_rows_name_loras_and_scales_alone_or_in_lists(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", 2)
    lists = make_manifest(
        {"id": "1", "prompt": "x", "lora": [a, b], "lora_scale": [0.5, None]},
        {"id": "2", "prompt": "x", "lora": [b], "lora_scale": None},
        {"id": "3", "prompt": "x", "lora": [], "lora_scale": []},
        {"id": "4", "prompt": "x", "lora": None, "lora_scale": None},
    )
    plan = plan_of(make_spec(lists))
    found = {row.id: row.request.loras for row in rows_of(plan)}
    assert found == {"1": ((a, 0.5), (b, 1.0)), "2": ((b, 1.0),), "3": (), "4": ()}
    decided = {each.id: each.digest for each in plan.decided.model.row_loras or ()}
    assert decided == plan.row_loras.digests
    assert decided.keys() == {a, b}
    assert decided[a] != decided[b]


def test_a_file_beside_the_manifest(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    lora(tmp_path / "loras" / "a.safetensors")
    manifest = make_manifest({"id": "1", "prompt": "x", "lora": "loras/a.safetensors", "lora_scale": 0.5})
    (row,) = rows_of(plan_of(make_spec(manifest)))
    assert row.request.loras == ((str(tmp_path / "loras" / "a.safetensors"), 0.5),)


def test_rows_with_the_same_loras_follow_each_other(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", 2)
    rows = [{"id": str(i), "prompt": "x", "lora": (a, b)[i % 2]} for i in range(6)]
    plan = plan_of(make_spec(make_manifest(*rows)))
    assert [row.id for row in rows_of(plan)] == ["0", "2", "4", "1", "3", "5"]


def test_a_changed_file_renders_its_rows_again_and_no_others(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path
) -> None:
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", 2)
    manifest = make_manifest(
        {"id": "1", "prompt": "x", "lora": a},
        {"id": "2", "prompt": "x", "lora": b},
        {"id": "3", "prompt": "x", "lora": None},
    )
    spec = make_spec(manifest)
    plan = plan_of(spec)
    enter(plan, rows_of(plan))
    assert rows_of(plan_of(spec)) == []
    # Another place with the same content is the same LoRA.
    Path(b).rename(tmp_path / "c.safetensors")
    lora(tmp_path / "b.safetensors", 3)
    assert [row.id for row in rows_of(plan_of(spec))] == ["2"]


@pytest.mark.parametrize(
    ("place", "scale", "told"),
    [
        ("./none.safetensors", None, r"row 1 \(id '2'\): lora: .*none.safetensors.*neither a folder"),
        ("not a place", None, "lora: 'not a place' is not allowed"),
        (None, 0.5, "lora_scale: .*0.5.* the row has no lora"),
    ],
)
def test_a_row_whose_lora_cannot_be_opened_is_named(
    make_spec: MakeSpec,
    make_manifest: MakeManifest,
    tmp_path: Path,
    place: str | None,
    scale: float | None,
    told: str,
) -> None:
    a = lora(tmp_path / "a.safetensors")
    manifest = make_manifest(
        {"id": "1", "prompt": "x", "lora": a, "lora_scale": 2.0},
        {"id": "2", "prompt": "x", "lora": place, "lora_scale": scale},
    )
    with pytest.raises(Refused, match=told):
        plan_of(make_spec(manifest))
    plan = plan_of(make_spec(manifest, faults__bad_rows="fail"))
    assert [row.id for row in rows_of(plan)] == ["1"]


def test_scales_that_do_not_match(make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path) -> None:
    a = lora(tmp_path / "a.safetensors")
    manifest = make_manifest({"id": "1", "prompt": "x", "lora": [a, a], "lora_scale": [1.0]})
    with pytest.raises(Refused, match=r"lora_scale: .* one number for each of the row's 2 LoRAs"):
        plan_of(make_spec(manifest))


def test_a_runs_loras_count_for_all_rows_and_are_recorded(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    manifest = make_manifest({"id": "1", "prompt": "x"})
    assert make_spec(manifest, model__loras=["a.safetensors:0.5"]).model.loras[0].id == "a.safetensors"
    with pytest.raises(Refused, match=r"model.loras.0.id: https://host/a.safetensors.* without the secret"):
        plan_of(make_spec(manifest, model__loras=["https://host/a.safetensors?token=***"]))
    plan = plan_of(make_spec(manifest, model__loras=["a.safetensors:0.5"]))
    assert plan.spec.model.loras[0].id == str(tmp_path / "a.safetensors")
    record(plan)
    run = read_run_file(plan.output)
    assert run is not None
    assert run.model.row_loras is None


def test_a_relative_folder_is_refused(
    make_spec: MakeSpec, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers would take it for a hub id: they have another current folder."""
    lora(tmp_path / "loras" / "a" / "lora.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"lora: 'loras/a' is not allowed; .* as ./loras/a"):
        plan_of(make_spec(make_manifest({"id": "1", "prompt": "x", "lora": "loras/a"})))
    (row,) = rows_of(plan_of(make_spec(make_manifest({"id": "1", "prompt": "x", "lora": "./loras/a"}))))
    assert row.request.lora == (str(tmp_path / "loras" / "a"),)


def test_secrets_of_a_place_are_not_shown(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    place = "https://me:hidden@localhost:1/a.safetensors"
    with pytest.raises(Refused, match=r"a\.safetensors") as error:
        plan_of(make_spec(make_manifest({"id": "1", "prompt": "x", "lora": place})))
    assert "hidden" not in str(error.value)


def test_lists_that_are_all_empty(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"id": "1", "prompt": "x", "lora": [], "lora_scale": []})
    (row,) = rows_of(plan_of(make_spec(manifest)))
    assert row.request.loras == ()


def test_rows_carry_their_priority(make_spec: MakeSpec, make_manifest: MakeManifest) -> None:
    rows = [{"id": "1", "prompt": "x", "priority": None}, {"id": "2", "prompt": "x", "priority": 3}]
    found = [(row.id, row.priority) for row in rows_of(plan_of(make_spec(make_manifest(*rows))))]
    assert found == [("2", 3), ("1", 0)]
