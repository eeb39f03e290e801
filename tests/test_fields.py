"""A field of a row is declared once: everything else follows from the declaration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist import kinds
from vidgen_dist.errors import Refused
from vidgen_dist.families import OUR_FIELDS
from vidgen_dist.kinds import Clip, Image, Kind, NotAllowed, Number, Source, Text, Whole
from vidgen_dist.manifest import check, column_of, open_manifest, row_digest
from vidgen_dist.manifest.columns import COLUMN_OF
from vidgen_dist.manifest.columns_table import columns_table
from vidgen_dist.manifest_build import build
from vidgen_dist.output.fingerprint import Identity, PixelFields
from vidgen_dist.request import (
    FIELDS,
    Field,
    RenderRequest,
    RequestError,
    shape_of,
    sources_of,
    with_sources,
)

OF_FAMILY = {"motion": Field(Whole(1, 255), "how much moves"), "style": Field(Text(), "how it looks")}
ALL = {**FIELDS, **OF_FAMILY}
BEFORE = Identity(model="m", task="text-to-video", dtype="float32", format="mp4", crf=18)
IDENTITY = dataclasses.replace(BEFORE, pixel_fields=PixelFields(ALL))


# --- the common fields -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUR_FIELDS)
def test_a_declaration_says_all_that_others_ask_for(name: str) -> None:
    """Who adds a field to `RenderRequest` need not touch anything else."""
    field = OUR_FIELDS[name]
    assert RenderRequest().values() == {}
    assert getattr(RenderRequest(), name, None) is None
    assert column_of(field).fits(column_of(field).written)
    assert dataclasses.is_dataclass(field.kind)
    assert field.kind.allowed.startswith("a ") or field.kind.allowed == "true or false"
    with pytest.raises(NotAllowed, match=r"a |true or false"):
        field.kind.parse(1j)
    assert f"| `{name}` | {field.kind.name} | {field.about} |" in columns_table(OUR_FIELDS).splitlines()
    for text in (field.about, field.kind.name):
        assert text
        assert text == text.strip(" .").replace("|", "").replace("\n", "")
    if field.is_own and field.kind.has_sources:
        assert column_of(field).certainly_valid(field.kind, pa.array(["a", None])).all()


def test_every_kind_has_a_column() -> None:
    public = [thing for name, thing in vars(kinds).items() if name[0] != "_" and isinstance(thing, type)]
    assert COLUMN_OF.keys() == {each for each in public if issubclass(each, Kind)} - {Kind}


def test_what_was_not_there_at_first_is_left_out_of_fingerprints_where_it_is_empty() -> None:
    """Another field among these would change the fingerprint of every row that there is."""
    assert {name for name, field in FIELDS.items() if field.base} == {
        "prompt",
        "negative_prompt",
        "height",
        "width",
        "num_frames",
        "num_inference_steps",
        "guidance_scale",
        "use_dynamic_cfg",
        "eta",
        "strength",
        "max_sequence_length",
        "seed",
        "fps",
    }


def test_of_several_faults_the_first_fields_is_told() -> None:
    faults: dict[str, Any] = {"seed": -1, "prompt": 5, "height": 0}
    for order in (faults, dict(reversed(faults.items()))):
        with pytest.raises(RequestError, match=r"^prompt: 5"):
            RenderRequest(**order)


def test_what_decides_shapes() -> None:
    assert shape_of({"num_frames": 9, "width": 3, "seed": 4}, FIELDS) == (None, 3, 9)


# --- fields of a family ------------------------------------------------------------------------------


def test_a_familys_fields_come_as_they_are_and_are_parsed_by_who_knows_them() -> None:
    request = RenderRequest(motion=5.0, height=16.0, style=None)
    assert request.of_family == {"motion": 5.0}
    assert list(request.values().items()) == [("height", 16), ("motion", 5.0)]
    assert request.parsed(OF_FAMILY).of_family == {"motion": 5}
    changed = dataclasses.replace(request, motion=7, width=8)
    assert changed.values() == {"height": 16, "width": 8, "motion": 7}
    assert dataclasses.replace(changed, motion=None) == RenderRequest(height=16, width=8)
    assert RenderRequest(of_family={"motion": 5}) == RenderRequest(motion=5)
    assert hash(RenderRequest(motion=5)) == hash(RenderRequest(motion=5))
    with pytest.raises(RequestError, match=r"^motion: 300 is not allowed; a whole number from 1 to 255$"):
        RenderRequest(motion=300).parsed(OF_FAMILY)
    with pytest.raises(RequestError, match=r"^mofion: 5 is not allowed; unknown field"):
        RenderRequest(mofion=5).parsed(OF_FAMILY)


def test_a_familys_column_is_read_checked_and_counted_only_where_it_is_used(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b", "c"], "motion": pa.array([5.0, None, 256.0])}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    pq.write_table(pa.table({"prompt": ["a", "b", "c"]}), tmp_path / "without.parquet")
    old = [row.id for row in open_manifest(tmp_path / "without.parquet").rows()]
    assert open_manifest(tmp_path / "m.parquet").unknown_columns == ("motion",)

    manifest = open_manifest(tmp_path / "m.parquet", fields=ALL)
    assert (manifest.columns, manifest.unknown_columns) == (("prompt", "motion"), ())
    (problem,) = check(manifest).problems
    assert str(problem).endswith("motion: 256.0 is not allowed; a whole number from 1 to 255")
    used, unused, bad = manifest.rows()
    assert isinstance(bad.outcome, RequestError)
    assert bad.outcome.field == "motion"
    assert used.request.of_family == {"motion": 5}
    assert list(manifest.ids()) == [used.id, unused.id, bad.id]
    assert (used.id != old[0], unused.id) == (True, old[1])
    assert used.id == row_digest({"prompt": "a", "motion": 5})
    bare = dataclasses.replace(used.request, motion=None)
    assert IDENTITY.fingerprint(bare, {}) == BEFORE.fingerprint(bare, {})
    assert IDENTITY.fingerprint(used.request, {}) != IDENTITY.fingerprint(bare, {})

    default = next(manifest.rows({"motion": 9, "style": "oil"})).request
    assert default.of_family == {"motion": 5, "style": "oil"}


def test_a_familys_column_of_another_type_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "motion": ["much"]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match="column 'motion' has type string; allowed: an integer column"):
        open_manifest(tmp_path / "m.parquet", fields=ALL)


def test_a_familys_columns_are_built(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,motion,style\na,5,7\nb,,\n")
    report = build([tmp_path / "p.csv"], tmp_path / "m.parquet", fields=ALL)
    assert (report.columns, report.unknown_columns) == (("prompt", "id", "motion", "style"), ())
    built = pq.read_table(tmp_path / "m.parquet")
    assert built.column("motion").to_pylist() == [5, None]
    assert built.column("style").to_pylist() == ["7", None]
    (tmp_path / "p.csv").write_text("prompt,motion\na,0\n")
    with pytest.raises(Refused, match="line 2: motion: 0 is not allowed"):
        build([tmp_path / "p.csv"], tmp_path / "n.parquet", fields=ALL)


def test_a_default_that_came_later_leaves_old_fingerprints_as_they_are() -> None:
    late = dataclasses.replace(
        BEFORE, pixel_fields=PixelFields(ALL, {"motion": 127, "guidance_rescale": 0.0})
    )
    request = RenderRequest(prompt="a", seed=1)
    for name, default in late.pixel_fields.late.items():
        defaulted = dataclasses.replace(request, **{name: default})
        assert late.fingerprint(defaulted, {}) == BEFORE.fingerprint(request, {})
        assert IDENTITY.fingerprint(defaulted, {}) != BEFORE.fingerprint(request, {})
        other = dataclasses.replace(request, **{name: default + 1 if default else 0.5})
        assert late.fingerprint(other, {}) == IDENTITY.fingerprint(other, {})


# --- images and clips --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions(Kind):
    """Images at frames: a kind with images within."""

    has_sources: ClassVar[bool] = True
    allowed: ClassVar[str] = "a list of images and frames"
    name: ClassVar[str] = "list of image and frame"

    def parse(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise NotAllowed(self.allowed)
        return [{"frame": Whole(0).parse(each["frame"]), "image": each["image"]} for each in value]

    def sources(self, value: Any) -> Mapping[str, Source]:
        return {f"[{n}].image": Source(each["image"], False) for n, each in enumerate(value)}

    def replace(self, value: Any, sources: Mapping[str, Any]) -> Any:
        return [each | {"image": sources.get(f"[{n}].image", each["image"])} for n, each in enumerate(value)]


WITH_CONDITIONS = {**FIELDS, "conditions": Field(Conditions(), "images at frames")}
VALUES = {
    "prompt": "a",
    "image": "x.png",
    "video": "x.mp4",
    "conditions": [{"frame": 0, "image": "y.png"}, {"frame": 8, "image": b"z"}],
}


def test_sources_are_named_wherever_they_are() -> None:
    assert sources_of(VALUES, WITH_CONDITIONS) == {
        "image": ("x.png", False),
        "video": ("x.mp4", True),
        "conditions[0].image": ("y.png", False),
        "conditions[1].image": (b"z", False),
    }
    assert sources_of({"prompt": "a", "image": None}) == {}
    assert with_sources(VALUES, {"video": b"v", "conditions[0].image": b"y"}, WITH_CONDITIONS) == {
        "video": b"v",
        "conditions": [{"frame": 0, "image": b"y"}, {"frame": 8, "image": b"z"}],
    }
    for kind in (Image(), Clip()):
        assert (kind.with_addresses("a", str.upper), kind.with_addresses(b"a", str.upper)) == ("A", b"a")


def test_sources_count_by_content_and_what_stands_beside_them_by_value() -> None:
    identity = dataclasses.replace(BEFORE, pixel_fields=PixelFields(WITH_CONDITIONS))
    request = RenderRequest(**VALUES)
    media = dict.fromkeys(sources_of(request.values(), WITH_CONDITIONS), "digest")
    elsewhere = [{"frame": 0, "image": "there.png"}, {"frame": 8, "image": b"zz"}]
    same = dataclasses.replace(request, conditions=elsewhere)
    later = dataclasses.replace(request, conditions=[{"frame": 1, "image": "y.png"}, elsewhere[1]])
    assert identity.fingerprint(request, media) == identity.fingerprint(same, media)
    assert identity.fingerprint(request, media) != identity.fingerprint(later, media)
    assert identity.fingerprint(request, media) != identity.fingerprint(request, media | {"image": "other"})


def test_a_kind_with_images_within_as_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = pa.struct([("frame", pa.int64()), ("image", pa.string())])
    like_it = dataclasses.replace(column_of(FIELDS["video"]), fits=pa.types.is_list, written=pa.list_(member))
    unsure = dataclasses.replace(like_it, certainly_valid=column_of(FIELDS["eta"]).certainly_valid)
    monkeypatch.setitem(COLUMN_OF, Conditions, unsure)
    conditions = pa.array([[{"frame": 0, "image": "y.png"}], None, [{"frame": -1, "image": "y.png"}]])
    table = pa.table({"prompt": ["a"] * 3, "seed": [1, 2, 3], "conditions": conditions.cast(unsure.written)})
    pq.write_table(table, tmp_path / "m.parquet")
    manifest = open_manifest(tmp_path / "m.parquet", fields=WITH_CONDITIONS)
    full, empty, bad = manifest.rows()
    assert full.request is not None
    assert empty.request is not None
    assert full.request.of_family == {"conditions": [{"frame": 0, "image": str(tmp_path / "y.png")}]}
    assert empty.request.of_family == {}
    assert isinstance(bad.outcome, RequestError)
    assert bad.outcome.field == "conditions"
    assert list(manifest.ids()) == [full.id, empty.id, bad.id]
    assert check(manifest).counts == {"conditions": 1}


# --- rows without a prompt ---------------------------------------------------------------------------


def test_a_manifest_without_prompts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"seed": [1, 2, None], "height": [16, 16, 32]}), tmp_path / "m.parquet")
    with pytest.raises(Refused, match="there is no column 'prompt', which every manifest needs"):
        open_manifest(tmp_path / "m.parquet")
    with pytest.raises(Refused, match="there is no column 'width', which every manifest needs"):
        open_manifest(tmp_path / "m.parquet", required=("width",))
    manifest = open_manifest(tmp_path / "m.parquet", required=())
    assert check(manifest).ok
    rows = list(manifest.rows())
    assert [row.request.prompt for row in rows] == [None] * 3
    assert list(manifest.ids()) == [row.id for row in rows]
    (batch,) = manifest.batches()
    assert batch.plain.all()
    groups = [places.tolist() for _, places in batch.groups(np.ones(3, np.bool_))]
    assert sorted(groups) == [[0, 1], [2]]
    assert batch.prompts(np.arange(2)) is None


def test_a_row_that_lacks_what_is_required(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", None], "eta": [None, 0.5]}), tmp_path / "m.parquet")
    assert check(open_manifest(tmp_path / "m.parquet", required=())).ok
    (problem,) = check(open_manifest(tmp_path / "m.parquet")).problems
    assert str(problem).endswith("prompt: None is not allowed; a text")
    (problem,) = check(open_manifest(tmp_path / "m.parquet", required=("eta",))).problems
    assert str(problem).endswith("eta: None is not allowed; a number from 0 to 1")
    assert check(open_manifest(tmp_path / "m.parquet", required=("eta",)), defaults={"eta": 0.0}).ok


# --- kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [field.kind for field in FIELDS.values()])
def test_a_parsed_value_stays_as_it_is(kind: Kind) -> None:
    for value in ("a", 1, 1.0, True, b"a", np.float32(0.5)):
        try:
            parsed = kind.parse(value)
        except NotAllowed:
            continue
        assert kind.parse(parsed) == parsed


def test_ranges_with_signs() -> None:
    assert (Whole(-5, 5).parse(-5), Number(-1, 1).parse(-1)) == (-5, -1.0)
    column = column_of(Field(Whole(-5, 5), ""))
    for kind in (pa.int8(), pa.int64(), pa.uint64()):
        values = [5, 6, None] if kind == pa.uint64() else [-5, 5, -6, 6, None]
        wanted = [value is None or -5 <= value <= 5 for value in values]
        assert column.certainly_valid(Whole(-5, 5), pa.array(values, kind)).tolist() == wanted
