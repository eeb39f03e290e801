"""`encode`: rows reach actors, actors that are lost are replaced, rows that end them fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FAKE_ENGINE
from tests.runs.signs import signs_in
from vidgen_dist.errors import Refused
from vidgen_dist.runtime.driver.encode import EncodeResult, encode
from vidgen_dist.spec import RunSpec

pytestmark = pytest.mark.usefixtures("local_ray")


@dataclass
class Encoding:
    """Encodes prompts with the fake engine, and has what was said."""

    cache: str
    make: Callable[..., RunSpec]
    make_manifest: Callable[..., str]
    lines: list[str] = field(default_factory=list)
    shown: list[tuple[int, int | None]] = field(default_factory=list)

    def __call__(self, *prompts: str, actors: int = 1, **flags: Any) -> EncodeResult:
        manifest = self.make_manifest(*({"id": str(i), "prompt": text} for i, text in enumerate(prompts)))
        spec = self.make(manifest, **{"model__prompt_cache": self.cache, **flags})
        return encode(
            spec,
            actors,
            self.lines.append,
            lambda done, total: self.shown.append((done, total)),
            engine=FAKE_ENGINE,
        )


@pytest.fixture
def run(tmp_path: Path, make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str]) -> Encoding:
    return Encoding(str(tmp_path / "cache"), make_spec, make_manifest)


def test_actors_share_the_rows(run: Encoding, tmp_path: Path) -> None:
    # Every batch waits for the other's file.
    prompts = [f"touch:{tmp_path}/{i // 16} wait:{tmp_path}/{1 - i // 16} sign:{tmp_path}" for i in range(32)]
    assert run(*prompts, actors=2, topology__device="ascend") == EncodeResult(run.cache, 32, 0)
    assert run.shown[-1] == (32, 32)
    signs = signs_in_folder(tmp_path)
    assert len({sign.pid for sign in signs}) == 2
    assert len({sign.npu for sign in signs}) == 2


def signs_in_folder(tmp_path: Path) -> list[Any]:
    folder = tmp_path / "signs"
    folder.mkdir()
    for file in tmp_path.glob("*,*"):
        file.rename(folder / file.name)
    return signs_in(folder)


def test_a_lost_actor_is_replaced_and_its_rows_are_encoded_again(run: Encoding, tmp_path: Path) -> None:
    found = run("a", f"die-once:{tmp_path}/once", "b")
    assert (found.encoded, found.failed, found.fault) == (3, 0, "")


def test_a_row_that_ends_actors_or_cannot_be_encoded_fails_alone(run: Encoding) -> None:
    found = run("a", "die:", "nan:sum", "b")
    assert (found.encoded, found.failed, found.fault) == (2, 2, "")
    died, nan = sorted(run.lines)
    assert died.startswith("failed: 1: WorkerDied: the encoder died")
    assert nan == "failed: 2: NumericalError: sum"


def test_an_actor_that_gives_no_answer_is_replaced(run: Encoding, tmp_path: Path) -> None:
    found = run(f"hang-once:{tmp_path}/once", topology__watchdog__encode=0.5)
    assert (found.encoded, found.failed) == (1, 0)


def test_encoders_that_cannot_be_loaded_are_refused(run: Encoding) -> None:
    with pytest.raises(Refused, match=r"transformer\.weight: missing"):
        run("a", model__id="refused-by-workers")


def test_actors_that_are_lost_one_after_the_other_end_it(run: Encoding) -> None:
    found = run("a", model__id="dies-when-loaded")
    assert (found.encoded, found.failed) == (0, 0)
    assert found.fault.startswith("3 encoders were lost in a row; the last one died")


def test_a_run_without_a_store_is_refused(run: Encoding) -> None:
    with pytest.raises(Refused, match=r"model\.prompt_cache is missing"):
        run("a", model__prompt_cache=None)
