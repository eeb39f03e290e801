"""Names of the files of rows with odd ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.names import safe_name

ODD_IDS = [
    "a/b", "a\\b", "..", ".", "../../etc/passwd", "", " ", "a\nb", "a\0b", "x" * 1000, "x" * 1001, "🎬",
    "Row", "row", "ROW", "café", "cafe\u0301", "row--1", "con", "nul.mp4", "a.", ".hidden", "-rf", "~",
    "🎬🎬", "ı", "İ", "a:b", "a*b", "Ａ", "\ud800", "row-1", "row_1", "row.1", "_row", "videos",
]  # fmt: skip


ids = st.text(max_size=40) | st.text("aAbB./-_ 🎬", max_size=8) | st.sampled_from(ODD_IDS)


@given(ids)
def test_a_name_is_one_plain_part_of_a_path(row_id: str) -> None:
    name = safe_name(row_id)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert 1 <= len(name) <= 100
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert Storage("/out").uri(f"videos/{name}.mp4") == f"/out/videos/{name}.mp4"


@given(ids, ids)
def test_two_ids_have_two_names(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


@given(ids)
def test_no_id_is_the_name_of_another(row_id: str) -> None:
    name = safe_name(row_id)
    assert name == row_id or safe_name(name) != name


def test_odd_ids_have_names_of_their_own() -> None:
    assert len({safe_name(row_id).casefold() for row_id in ODD_IDS}) == len(ODD_IDS)


def test_plain_ids_are_their_own_names_and_others_readable() -> None:
    for plain in ("prompts-000012", "a", "7", "clip_1.5b", "0123456789abcdef" * 2):
        assert safe_name(plain) == plain
    assert safe_name("Zoë's Cat / take 2").startswith("zoe-s-cat-take-2--")
    assert safe_name("🎬").startswith("row--")
    assert safe_name("videos").startswith("videos--")


@given(st.sampled_from(ODD_IDS))
def test_files_of_odd_ids_stay_in_their_folder(tmp_path_factory: pytest.TempPathFactory, row_id: str) -> None:
    folder = tmp_path_factory.mktemp("out")
    open_storage(folder / "out").write_bytes(f"videos/{safe_name(row_id)}.mp4", b"v")
    assert [p for p in folder.rglob("*") if p.is_file()] == [
        folder / "out" / "videos" / f"{safe_name(row_id)}.mp4"
    ]
