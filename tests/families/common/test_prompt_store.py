"""The store of encoded prompts: what is there is neither encoded nor are its encoders loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import load_pipeline
from vidgen_dist.families.common.prompt_store import PromptStore, condition_class
from vidgen_dist.families.common.prompts import PromptedPipeline
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.storage.folder import open_storage

CASES = [
    ("animatediff", "v1-5-2"),
    ("cogvideox", "5b"),
    ("hunyuan_video", "t2v"),
    ("i2vgen_xl", "odd"),
    ("ltx", "0.9.0"),
    ("mochi", "odd"),
]


def loaded(pipeline: AnyPipeline) -> list[bool]:
    """Whether each text encoder's weights have been read."""
    names = [name for name in vars(pipeline) if name.startswith("text_encoder")]
    return [getattr(pipeline, name)._weights.loaded for name in names]


def render(mesh: Mesh | None, family: str, name: str, cache: str | None) -> tuple[np.ndarray, list[bool]]:
    case = references.case(name, family)
    pipeline = load_pipeline(str(case.checkpoint), **case.options, prompt_cache=cache, mesh=mesh)
    request = dataclasses.replace(case.requests[-1], num_inference_steps=2)
    return pipeline(request), loaded(pipeline) if cache else []


@pytest.mark.parametrize(("family", "name"), CASES[:3])
def test_a_second_process_loads_no_encoder(family: str, name: str, tmp_path: Path) -> None:
    plain, _ = render(None, family, name, None)
    first, encoders = render(None, family, name, str(tmp_path / "cache"))
    assert encoders
    assert all(encoders)
    second, again = render(None, family, name, str(tmp_path / "cache"))
    assert not any(again)
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(second, plain)


def test_a_gang_loads_no_encoder_if_all_ranks_find_the_prompt(ranks: Ranks, tmp_path: Path) -> None:
    cache, degrees = str(tmp_path / "cache"), Degrees(ulysses=2)
    first, second, third = (
        ranks.run(render, "cogvideox", "5b", cache, degrees=degrees),
        ranks.run(render, "cogvideox", "5b", cache, degrees=degrees),
        ranks.run(render_with_own_cache, cache, degrees=degrees),
    )
    assert [all(encoders) for _, encoders in first] == [True, True]
    assert [any(encoders) for _, encoders in second] == [False, False]
    # One rank's host cannot see the folder.
    assert [all(encoders) for _, encoders in third] == [True, True]
    for run in (second, third):
        np.testing.assert_array_equal(run[0][0], first[0][0])


def render_with_own_cache(mesh: Mesh, cache: str) -> tuple[np.ndarray, list[bool]]:
    return render(mesh, "cogvideox", "5b", cache if mesh.rank == 0 else f"{cache}-{mesh.rank}")


def test_a_lora_of_an_encoder_has_entries_of_its_own(tmp_path: Path) -> None:
    case = references.LoraCase("animatediff")
    cache = str(tmp_path / "cache")

    def fresh() -> AnyPipeline:
        return load_pipeline(str(case.base.checkpoint), **case.base.options, prompt_cache=cache)

    (of_text, scale), _ = case.loras
    with_lora = dataclasses.replace(case.request, lora=(of_text,), lora_scale=(scale,))
    plain = fresh()(case.request)
    pipeline = fresh()
    changed = pipeline(with_lora)
    assert all(loaded(pipeline))
    without = load_pipeline(str(case.base.checkpoint), **case.base.options, loras=[(of_text, scale)])
    np.testing.assert_array_equal(changed, without(case.request))
    # LoRAs are put into encoders that are not loaded, and are in them when they are.
    pipeline = fresh()
    np.testing.assert_array_equal(pipeline(with_lora), changed)
    np.testing.assert_array_equal(pipeline(case.request), plain)
    assert not any(loaded(pipeline))
    other = dataclasses.replace(with_lora, prompt="another prompt")
    np.testing.assert_array_equal(
        pipeline(other), without(dataclasses.replace(case.request, prompt="another prompt"))
    )


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    return PromptStore(open_storage(tmp_path), "encoders")


ARRAYS = {"hidden": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "mask": np.array([[True, False]])}


def test_entries_come_back(store: PromptStore) -> None:
    key = store.key("a fox", (226,), ())
    assert store.get(key) is None
    store.put(key, ARRAYS)
    found = store.get(key)
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_what_decides_an_entry(store: PromptStore) -> None:
    keys = {
        store.key("a fox", (226,), ()),
        store.key("a cat", (226,), ()),
        store.key("a fox", (227,), ()),
        store.key("a fox", (226,), (("digest", 0.5),)),
        store.key("a fox", (226,), (("digest", 0.6),)),
        dataclasses.replace(store, encoders="others").key("a fox", (226,), ()),
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-3],
        lambda content: content[:5],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda _: b"",
        lambda _: b"<html>",
    ],
)
def test_torn_entries_are_not_used_and_are_written_again(
    store: PromptStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    key = store.key("a fox", (), ())
    store.put(key, ARRAYS)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(key) is None
    store.put(key, ARRAYS)
    assert store.get(key) is not None


def test_an_entry_of_another_name_is_not_used(store: PromptStore, tmp_path: Path) -> None:
    one, other = store.key("a", (), ()), store.key("b", (), ())
    store.put(one, ARRAYS)
    (path,) = tmp_path.rglob("*.safetensors")
    (tmp_path / other[:2]).mkdir(exist_ok=True)
    path.rename(tmp_path / other[:2] / f"{other}.safetensors")
    assert store.get(other) is None


def test_a_store_that_cannot_be_written_does_not_stop_a_video(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    case = references.case("5b")
    request = dataclasses.replace(case.requests[0], num_inference_steps=2)
    plain = load_pipeline(str(case.checkpoint))(request)
    pipeline = load_pipeline(str(case.checkpoint), prompt_cache=str(tmp_path / "file"))
    np.testing.assert_array_equal(pipeline(request), plain)


def test_every_pipeline_with_prompts_says_the_class_of_its_conditions() -> None:
    for family, name in CASES:
        case = references.case(name, family)
        pipeline = load_pipeline(str(case.checkpoint), **case.options)
        assert isinstance(pipeline, PromptedPipeline)
        assert dataclasses.is_dataclass(condition_class(type(pipeline)))
