"""Opening the file of a LoRA: which file is taken, from where, and what its digest depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from tests.weights.fake_hub import Hub, Repository, serve
from tests.weights.test_hub import Client
from vidgen_dist.errors import Refused
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.digests import file_digest
from vidgen_dist.weights.lora import files
from vidgen_dist.weights.lora.files import LoraFile, open_lora

TENSORS = {"transformer.x.lora_A.weight": np.ones((2, 3), np.float32)}
OTHER = {"transformer.x.lora_A.weight": np.zeros((2, 3), np.float32)}
USUAL = "pytorch_lora_weights.safetensors"


def opened(place: object, **options: object) -> LoraFile:
    return open_lora(LoraOptions.model_validate({"id": str(place), **options}))


def test_a_file_and_its_folder_are_the_same_lora(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "style.safetensors")
    whole = opened(tmp_path / "style.safetensors", scale=0.5)
    assert whole.tensors.keys == list(TENSORS)
    assert (whole.scale, whole.revision) == (0.5, None)
    assert opened(tmp_path).digest == whole.digest
    save_file(OTHER, tmp_path / "style.safetensors")
    assert opened(tmp_path).digest != whole.digest


def test_a_file_is_read_once_for_each_state_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(files, "file_digest", lambda path: read.append(path) or file_digest(path))
    path = tmp_path / "a.safetensors"
    save_file({"x.lora_A.weight": np.zeros((2, 4), np.float32)}, path)
    first = opened(path).digest
    assert (opened(path).digest, len(read)) == (first, 1)
    save_file({"x.lora_A.weight": np.ones((2, 4), np.float32)}, path)
    assert opened(path).digest != first
    assert len(read) == 2


def test_of_several_files_the_usual_name_or_the_one_that_is_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(TENSORS if name[0] == "a" else OTHER, tmp_path / name)
    with pytest.raises(Refused, match=r"has several files, a.safetensors, b.safetensors; .* weight_name"):
        opened(tmp_path)
    named = opened(tmp_path, weight_name="b.safetensors")
    assert named.digest == opened(tmp_path / "b.safetensors").digest
    with pytest.raises(Refused, match=r"no file 'c.safetensors' \(weight_name\); it has a.safetensors"):
        opened(tmp_path, weight_name="c.safetensors")
    save_file(OTHER, tmp_path / USUAL)
    assert opened(tmp_path).digest == named.digest


def test_settings_beside_the_file_count(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    plain = opened(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    assert opened(tmp_path).settings == {"": {"lora_alpha": 8}}
    assert opened(tmp_path).digest != plain.digest


def test_settings_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    settings = json.dumps({"transformer.r": 2, "unet.r": 3})
    save_file(TENSORS, path, metadata={"lora_adapter_metadata": settings})
    assert opened(path).settings == {"transformer": {"r": 2}, "unet": {"r": 3}}
    save_file(TENSORS, path, metadata={"lora_adapter_metadata": "[1]"})
    with pytest.raises(Refused, match=r"a.safetensors: metadata lora_adapter_metadata: not a JSON object"):
        opened(path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"id": "{folder}/none.safetensors"}, "none.safetensors' is neither a folder"),
        ({"id": "{folder}"}, "no LoRA in it"),
        ({"id": "{folder}/torn.safetensors"}, "torn.safetensors: not a whole safetensors file"),
        ({"id": "{folder}/lora.pt"}, "lora.pt: not a whole safetensors file.*pickled"),
        ({"id": "{folder}/torn.safetensors", "revision": "v1"}, "is a file, which has no revision 'v1'"),
        ({"id": "{folder}", "revision": "v1"}, "is a folder, which has none"),
        ({"id": "memory://nowhere/a.safetensors"}, "lora 'memory://nowhere/a.safetensors'"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path: Path, options: dict[str, str], told: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if "torn" in options["id"]:
        (folder / "torn.safetensors").write_bytes(save(TENSORS)[:-5])
    if "lora.pt" in options["id"]:
        (folder / "lora.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(Refused, match=f"(?s){told}"):
        open_lora(LoraOptions.model_validate({k: v.format(folder=folder) for k, v in options.items()}))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        save_file({"transformer.x.diff": np.array([1.0, value], np.float32)}, tmp_path / "a.safetensors")
        with pytest.raises(Refused, match=r"a.safetensors: transformer.x.diff has values that are NaN"):
            opened(tmp_path / "a.safetensors")


def test_a_uri_is_fetched_once_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/loras/a.safetensors", save(TENSORS))
    first = opened("memory://loras/a.safetensors")
    assert first.digest == opened("memory://loras/a.safetensors").digest
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    memory.pipe("/loras/a.safetensors", save(OTHER))
    assert opened("memory://loras/a.safetensors").digest != first.digest
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


def test_files_that_belong_to_one_by_uri_come_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/peft/adapter_model.safetensors", save(TENSORS))
    plain = opened("memory://peft/adapter_model.safetensors")
    memory.pipe("/peft/adapter_config.json", b'{"lora_alpha": 8}')
    memory.pipe("/peft/vidgen.yaml", b"sampling: {num_inference_steps: 4}")
    whole = opened("memory://peft/adapter_model.safetensors")
    assert (plain.settings, plain.contract) == ({}, None)
    assert whole.settings == {"": {"lora_alpha": 8}}
    assert whole.contract is not None
    assert whole.contract.sampling == {"num_inference_steps": 4}
    assert whole.digest != plain.digest


def test_a_contract_of_one_file_among_several(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(TENSORS, tmp_path / f"{name}.safetensors")
    (tmp_path / "a.vidgen.yaml").write_text("sampling: {num_inference_steps: 4}")
    with_contract, without = (opened(tmp_path / f"{name}.safetensors").contract for name in ("a", "b"))
    assert with_contract is not None
    assert without is None


def test_a_file_in_a_folder_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    save_file(TENSORS, tmp_path / "sub" / "adapter_model.safetensors")
    (tmp_path / "sub" / "adapter_config.json").write_text('{"lora_alpha": 8}')
    found = opened(tmp_path, weight_name="sub/adapter_model.safetensors")
    assert found.settings == {"": {"lora_alpha": 8}}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        repository = Repository()
        repository.commit({USUAL: save(OTHER), "README.md": b"old"}, "v1")
        newest = {USUAL: save(TENSORS), "README.md": b"new", "sub/b.safetensors": save(OTHER)}
        newest |= {"sub/b.vidgen.yaml": b"sampling: {num_inference_steps: 4}", "vidgen.yaml": b"sampling: {}"}
        repository.commit(newest, "main")
        hub.repositories["org/style"] = repository
        yield hub


def open_with(client: Client, **options: str) -> LoraFile:
    """The LoRA of the hub as the client opens it."""
    return client.ask(lambda: opened("org/style", **options), offline=False)


def test_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    client = Client(tmp_path / "hf", hub.endpoint)
    refs = hub.repositories["org/style"].refs
    save_file(TENSORS, tmp_path / "a.safetensors")
    local = opened(tmp_path / "a.safetensors").digest
    found = open_with(client)
    assert (found.revision, found.digest) == (refs["main"], local)
    assert hub.delivered == [f"{refs['main']}/{USUAL}", f"{refs['main']}/vidgen.yaml"]
    assert open_with(client, revision="v1").revision == refs["v1"]
    below = open_with(client, weight_name="sub/b.safetensors")
    assert (below.revision, below.digest == local) == (refs["main"], False)
    assert below.contract is not None
    assert below.contract.sampling == {"num_inference_steps": 4}
    hub.failing = 503
    again = open_with(client)
    assert (again.revision, again.digest) == (refs["main"], local)
    assert open_with(client, weight_name="sub/b.safetensors").digest == below.digest
    with pytest.raises(Refused, match="v2"):
        open_with(client, revision="v2")


def test_a_hub_id_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    client = Client(tmp_path / "hf", hub.endpoint)
    with pytest.raises(Refused, match=r"lora 'org/none': no such folder, and the hub .* has no such model"):
        client.ask(lambda: opened("org/none"), offline=False)
    with pytest.raises(Refused, match=r"lora 'org/style': the hub has no revision 'v2'"):
        open_with(client, revision="v2")
