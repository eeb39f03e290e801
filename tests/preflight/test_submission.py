"""What a cluster is handed with a run, and what is refused before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import open_manifest
from vidgen_dist.output.run_file import load_spec
from vidgen_dist.preflight.submission import prepare_submission
from vidgen_dist.spec import RunSpec

CHECKPOINT = Path(__file__).parents[1] / "references" / "cogvideox" / "2b" / "checkpoint"

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def spec_for(make_spec: MakeSpec) -> MakeSpec:
    """A spec whose paths are all but the manifest's of the cluster."""

    def make(manifest: str, **flags: Any) -> RunSpec:
        return make_spec(manifest, **{"output.uri": "s3://bucket/out", **flags})

    return make


def test_a_local_manifest_goes_along(
    make_manifest: Callable[..., str],
    spec_for: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = make_manifest("a fox", {"prompt": "a dog"})
    monkeypatch.chdir(tmp_path)
    submission = prepare_submission(spec_for("manifest.parquet", **{"topology.address": "head:6379"}))
    package = tmp_path / "package"
    package.mkdir()
    submission.write(package)
    monkeypatch.chdir(package)
    there = load_spec("run.yaml")
    assert list(open_manifest(there.manifest.uri).ids()) == list(open_manifest(manifest).ids())
    assert (there.manifest.keep, there.topology.address) == (True, "auto")
    assert there.output.uri == "s3://bucket/out"
    assert submission.plan[0].startswith("plan: unknown here: model 'fake'")


def test_a_folder_goes_along(spec_for: MakeSpec, tmp_path: Path) -> None:
    for name in ("b.parquet", "a/b.parquet", "readme.txt"):
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"prompt": [name]}), tmp_path / "rows" / name)
    submission = prepare_submission(spec_for(f"file://{tmp_path}/rows"))
    assert list(submission.files) == ["manifest/a/b.parquet", "manifest/b.parquet"]
    assert submission.spec.manifest.uri == "manifest"


def test_a_manifest_of_the_cluster_stays_where_it_is(
    make_manifest: Callable[..., str], spec_for: MakeSpec, tmp_path: Path
) -> None:
    manifest = make_manifest({"prompt": "a fox", "image": "fox.png"})
    shared = prepare_submission(spec_for(manifest), [str(tmp_path)])
    assert (shared.files, shared.spec.manifest.uri, shared.notes) == ({}, manifest, ())
    gone = prepare_submission(spec_for("s3://no-such-bucket/m.parquet"))
    assert gone.spec.manifest.uri == "s3://no-such-bucket/m.parquet"
    assert "the manifest is not checked here, but by the job" in gone.notes[0]


def test_a_large_manifest_is_refused(make_manifest: Callable[..., str], spec_for: MakeSpec) -> None:
    spec = spec_for(make_manifest("a fox"))
    with pytest.raises(Refused, match=r"manifest\.uri: .* bytes; allowed for a local manifest: 100; copy it"):
        prepare_submission(spec, max_bytes=100)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "a fox", "image": "fox.png"}, "image"),
        ({"prompt": "a fox", "image": "/data/fox.png"}, "image"),
        ({"prompt": "a fox", "lora": ["./fox.safetensors"]}, "lora"),
    ],
)
def test_files_beside_the_manifest_are_refused(
    make_manifest: Callable[..., str], spec_for: MakeSpec, row: dict[str, Any], column: str
) -> None:
    manifest = make_manifest({"prompt": "a dog", column: None}, row)
    with pytest.raises(Refused, match=rf"manifest\.parquet, row 1 .*{column}: .* is a path of this machine"):
        prepare_submission(spec_for(manifest))
    as_dead_letters = prepare_submission(spec_for(manifest, **{"faults.bad_rows": "fail"}))
    assert "1 of 2 rows cannot be rendered, and will be dead letters" in as_dead_letters.notes


def test_rows_that_name_what_the_cluster_has(make_manifest: Callable[..., str], spec_for: MakeSpec) -> None:
    rows = [
        {"prompt": "a", "image": "s3://bucket/a.png", "lora": ["org/lora"]},
        {"prompt": "b", "image": "/shared/b.png", "lora": ["/shared/b.safetensors"]},
    ]
    assert prepare_submission(spec_for(make_manifest(*rows)), ["/shared/"]).files


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("output.uri", "file:///data/out"),
        ("output.uri", "~/out"),
        ("output.uri", "/data/out"),
        ("sampling.image", "fox.png"),
        ("model.id", "./org/model"),
        ("model.id", "org/model"),
        ("model.id", "/models/m"),
        ("model.adapter", "/models/adapter"),
        ("model.prompt_cache", "cache"),
        ("model.loras", "/models/lora.safetensors"),
    ],
)
def test_paths_of_this_machine_are_refused(
    make_manifest: Callable[..., str],
    spec_for: MakeSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    place: str,
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = spec_for(make_manifest("a fox"), **{key: [place] if key == "model.loras" else place})
    with pytest.raises(Refused, match=rf"^{key}[.0-9id]*: '{place}' is a path of this machine; allowed"):
        prepare_submission(spec)
    assert prepare_submission(spec, [str(tmp_path), "/data", "/models", "~"]).files == {}


def test_a_shared_folder_is_a_path(make_manifest: Callable[..., str], spec_for: MakeSpec) -> None:
    with pytest.raises(Refused, match="--shared s3://bucket: is not a path"):
        prepare_submission(spec_for(make_manifest("a fox")), ["s3://bucket"])
    with pytest.raises(Refused, match=r"output\.uri: '/nfs-other/out' is a path of this machine"):
        prepare_submission(spec_for(make_manifest("a"), **{"output.uri": "/nfs-other/out"}), ["/nfs"])


def test_a_checkpoint_that_is_here(make_manifest: Callable[..., str], spec_for: MakeSpec) -> None:
    models = [str(CHECKPOINT)]
    spec = spec_for(make_manifest("a fox"), **{"model.id": str(CHECKPOINT), "topology.device": "cpu"})
    submission = prepare_submission(spec, models)
    assert submission.plan[0].startswith("plan for CPU: video: ")
    assert any("take " in line for line in submission.plan)
    odd = make_manifest({"prompt": "a fox", "height": None}, {"prompt": "a dog", "height": 33})
    with pytest.raises(Refused, match=r"row 1 .*height: 33"):
        prepare_submission(spec.override({"manifest.uri": odd}), models)
    with pytest.raises(Refused, match="video-to-video"):
        prepare_submission(spec.override({"model.task": "image-to-video"}), models)
