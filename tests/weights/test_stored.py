"""What weights are, by headers alone: in a folder, in the cache, and on a hub on localhost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.weights.fake_hub import Hub, Repository
from tests.weights.test_hub import ADAPTER, MODEL, Client, cached, client, hub
from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import is_checkpoint
from vidgen_dist.weights.stored import StoredWeights, stored_weights

__all__ = ["client", "hub"]

COMPONENTS = ("transformer", "text_encoder")


def stored(client: Client, *, offline: bool = False, **arguments: object) -> dict[str, StoredWeights]:
    """What is known of the hub's checkpoint, without its weights."""
    checkpoint = client.open(weights=False, offline=offline, **arguments)
    return client.ask(lambda: stored_weights(checkpoint, COMPONENTS), offline=offline)


def test_weights_on_the_hub_are_not_downloaded(client: Client) -> None:
    found = stored(client)
    # Two shards, of 3 and of 2 x 2 numbers.
    assert found["transformer"] == StoredWeights({"float32": 7}, 28, downloaded=False)
    assert not any(name.endswith(".safetensors") for name in cached(client.open(weights=False)))


def test_a_variant_on_the_hub(client: Client) -> None:
    assert stored(client, variant="fp16")["transformer"] == StoredWeights(
        {"float16": 7}, 14, downloaded=False
    )


def test_downloaded_weights_are_read_here(client: Client, hub: Hub) -> None:
    client.open()
    hub.asked.clear()
    found = stored(client, offline=True)
    assert found["transformer"] == StoredWeights({"float32": 7}, 28, downloaded=True)
    assert not hub.asked


def test_without_the_hub_what_is_not_here_is_left_out(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.open(weights=False)
    assert stored(client, offline=True) == {}
    assert "weights that are not here are not looked up" in caplog.text


def test_a_file_on_the_hub_that_is_not_safetensors(client: Client, hub: Hub) -> None:
    commit = hub.repositories[MODEL].refs["main"]
    files = hub.repositories[MODEL].commits[commit]
    for name in [name for name in files if name.startswith("text_encoder/model")]:
        files[name] = b"\xff" * 64
    assert stored(client) == {}


def test_what_is_a_checkpoint(client: Client, hub: Hub, tmp_path: Path) -> None:
    def asked(place: str, *, offline: bool = False) -> bool:
        return client.ask(lambda: is_checkpoint(place), offline=offline)

    folder = tmp_path / "folder"
    folder.mkdir()
    assert not asked(str(folder))
    (folder / "model_index.json").write_text("{}")
    assert asked(str(folder))
    assert asked(folder.as_uri())
    assert not asked(str(folder / "model_index.json"))
    assert not asked("s3://bucket/style.safetensors")
    hub.repositories["org/style"] = Repository()
    hub.repositories["org/style"].commit({"style.safetensors": b""}, "main")
    assert asked(MODEL)
    assert not asked("org/style")
    assert not asked(ADAPTER)
    with pytest.raises(Refused, match="has no such model"):
        asked("org/none")
    with pytest.raises(Refused, match="neither a folder that exists nor a hub id"):
        asked(str(tmp_path / "none"))


def test_what_is_a_checkpoint_without_the_hub(client: Client) -> None:
    with pytest.raises(Refused, match=r"did not deliver it: .*offline mode is enabled"):
        client.ask(lambda: is_checkpoint(MODEL), offline=True)
    client.open(weights=False)
    assert client.ask(lambda: is_checkpoint(MODEL), offline=True)
