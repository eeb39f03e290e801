"""Hub ids, against a hub on localhost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from huggingface_hub import constants, file_download
from safetensors.numpy import save

from tests.weights.fake_hub import Hub, Repository, serve
from tests.weights.files import NOT_NEEDED, checkpoint_files
from tests.weights.test_checkpoint import FP16, PLAIN, TEXTS
from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint
from vidgen_dist.weights.repository import ComponentRepository, open_component

try:
    from huggingface_hub.utils import close_session
except ImportError:
    # Before release 1.
    from huggingface_hub.utils import reset_sessions as close_session

MODEL, ADAPTER = "zai-org/tiny", "guoyww/tiny-adapter"

T = TypeVar("T")


ADAPTER_FILES = {
    "config.json": b'{"_class_name": "MotionAdapter"}',
    "diffusion_pytorch_model.safetensors": save({"a": np.zeros(2, np.float32)}),
    "diffusion_pytorch_model.fp16.safetensors": save({"a": np.zeros(2, np.float16)}),
    "diffusion_pytorch_model.bin": b"not read",
    "README.md": b"not read",
    "old/config.json": b"not read",
}


@dataclass
class Client:
    """A machine with a cache of its own that asks the hub."""

    home: Path
    endpoint: str

    def open(self, model: str = MODEL, *, offline: bool = False, **arguments: Any) -> Checkpoint:
        """The result of `open_checkpoint` there."""
        return self.ask(lambda: open_checkpoint(model, **arguments), offline=offline)

    def open_adapter(self, *, offline: bool = False, **arguments: Any) -> ComponentRepository:
        """The result of `open_component` there, for the adapter."""
        return self.ask(lambda: open_component("adapter", ADAPTER, **arguments), offline=offline)

    def ask(self, opening: Callable[[], T], *, offline: bool) -> T:
        """The result of opening something there."""
        with pytest.MonkeyPatch.context() as patch:
            # huggingface_hub reads its environment when it is imported, and sets these.
            patch.setattr(constants, "ENDPOINT", self.endpoint)
            template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            # The first one from release 1 on.
            for module in (constants, file_download):
                patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
            patch.setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            patch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                patch.delenv(name, raising=False)
            # It would retry for half a minute in all.
            patch.setattr(
                "huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None, time=time.time)
            )
            close_session()
            try:
                return opening()
            finally:
                close_session()


def cached(checkpoint: Checkpoint | ComponentRepository) -> list[str]:
    folder = checkpoint.folder
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        repository = Repository()
        repository.commit(checkpoint_files() | {"scheduler/scheduler_config.json": b'{"old": true}'}, "v1")
        repository.commit(checkpoint_files(), "main")
        hub.repositories[MODEL] = repository
        adapter = Repository()
        adapter.commit({**ADAPTER_FILES, "config.json": b'{"_class_name": "OldAdapter"}'}, "v1")
        adapter.commit(ADAPTER_FILES, "main")
        hub.repositories[ADAPTER] = adapter
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(tmp_path / "hf", hub.endpoint)


def test_configs_first_then_weights(hub: Hub, client: Client) -> None:
    main = hub.repositories[MODEL].refs["main"]
    described = client.open(weights=False)
    assert described.revision == main
    assert described.config("scheduler") == {"beta_schedule": "scaled_linear"}
    assert cached(described) == TEXTS
    assert sorted(hub.delivered) == [f"{main}/{name}" for name in TEXTS]

    hub.delivered.clear()
    whole = client.open(revision=main)
    assert whole == described
    assert whole.digest() == described.digest()
    assert cached(whole) == sorted(TEXTS + PLAIN)
    assert sorted(hub.delivered) == sorted(f"{main}/{name}" for name in PLAIN)
    assert not any(name.endswith(NOT_NEEDED) for name in hub.delivered)


def test_files_of_the_variant_only(client: Client) -> None:
    answer = client.open(variant="fp16")
    assert answer.variant == "fp16"
    assert cached(answer) == sorted(TEXTS + FP16)


def test_files_of_some_components_only(client: Client) -> None:
    answer = client.open(components=["text_encoder", "scheduler"])
    assert [name.split("/")[0] for name in cached(answer)] == [
        "model_index.json",
        "scheduler",
        "text_encoder",
        "text_encoder",
    ]


def test_a_revision_is_pinned_to_its_commit(hub: Hub, client: Client) -> None:
    refs = hub.repositories[MODEL].refs
    by_tag = client.open(revision="v1", weights=False)
    assert by_tag.revision == refs["v1"] != refs["main"]
    assert by_tag.config("scheduler") == {"old": True}
    by_commit = client.open(revision=refs["v1"], weights=False)
    assert by_commit == by_tag


def test_digest_is_of_the_commit_and_the_variant(client: Client, hub: Hub, tmp_path: Path) -> None:
    digests = [
        client.open(weights=False).digest(),
        client.open(weights=False, variant="fp16").digest(),
        client.open(weights=False, revision="v1").digest(),
    ]
    assert len(set(digests)) == 3
    assert all(len(digest) == 64 for digest in digests)
    # Known before the weights are downloaded, and the same on every machine.
    assert Client(tmp_path / "another", hub.endpoint).open().digest() == digests[0]


def test_without_a_connection_the_cache_serves(hub: Hub, client: Client) -> None:
    online = client.open()
    asked = len(hub.asked)
    assert client.open(offline=True) == online
    assert client.open(offline=True, revision=online.revision) == online
    assert len(hub.asked) == asked
    # Nothing listens on the discard port.
    unplugged = Client(client.home, "http://127.0.0.1:9")
    assert unplugged.open() == online


def test_hub_that_is_down_leaves_what_is_cached(hub: Hub, client: Client) -> None:
    online = client.open()
    hub.failing = 503
    assert client.open() == online


def test_no_connection_and_not_cached(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused) as refused:
        client.open(offline=True)
    message = str(refused.value)
    assert f"model '{MODEL}': no such folder" in message
    assert "cannot be reached" in message
    assert str(client.home) in message
    assert "allowed: a folder that holds model_index.json, or a hub id" in message
    log = logging.getLogger("huggingface_hub")
    log.addHandler(caplog.handler)
    try:
        with pytest.raises(Refused) as refused:
            Client(client.home, "http://127.0.0.1:9").open("nowhere/folder")
    finally:
        log.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert "no such folder, and the hub at http://127.0.0.1:9 cannot be reached" in str(refused.value)
    # requests first says what it tried; httpx does not.
    assert "[Errno 111] Connection refused);" in str(refused.value)


def test_no_connection_and_another_revision_cached(client: Client) -> None:
    client.open()
    with pytest.raises(Refused, match=r"not in the cache .* at revision 'v1'"):
        client.open(revision="v1", offline=True)


def test_no_connection_and_configs_cached_only(client: Client) -> None:
    described = client.open(weights=False)
    assert client.open(weights=False, offline=True) == described
    with pytest.raises(
        Refused, match=r"hub cannot be reached .* cached copy is not complete: .*has no safetensors"
    ):
        client.open(offline=True)


def test_no_connection_and_a_shard_not_cached(client: Client) -> None:
    folder = client.open().folder
    (folder / PLAIN[2]).unlink()
    with pytest.raises(
        Refused, match=r"cached copy is not complete: .*diffusion_pytorch_model-00002-of-00002"
    ):
        client.open(offline=True)


@pytest.mark.parametrize("fault", ["unknown", "gated", "revision", "layout", "error", "cache"])
def test_what_the_hub_refuses(hub: Hub, client: Client, fault: str) -> None:
    repository = hub.repositories[MODEL]
    model, revision = MODEL, None
    if fault == "unknown":
        model = "zai-org/CogVideoX-6b"
        expected = r"model 'zai-org/CogVideoX-6b': no such folder, and the hub at http.* has no such model"
    elif fault == "gated":
        repository.gated = True
        expected = (
            rf"model '{MODEL}' is gated: accept its conditions at http.*/{MODEL}, then log in .*HF_TOKEN"
        )
    elif fault == "revision":
        revision = "v7"
        expected = rf"model '{MODEL}': the hub has no revision 'v7' of it; allowed: a branch, tag or commit"
    elif fault == "layout":
        repository.commit({"model.safetensors": b"", "config.json": b"{}"}, "main")
        expected = rf"model '{MODEL}': no model_index.json in it"
    elif fault == "cache":
        client.home.mkdir(exist_ok=True)
        (client.home / "hub").write_text("a file, no folder")
        expected = rf"model '{MODEL}': the hub's cache .*/hub cannot be written .*HF_HUB_CACHE"
    else:
        hub.failing = 500
        expected = r"cannot be reached \((500 Server Error|Server error '500 )"
    with pytest.raises(Refused, match=expected):
        client.open(model, revision=revision)


def test_variant_that_the_model_lacks_is_refused_before_any_weights(hub: Hub, client: Client) -> None:
    with pytest.raises(
        Refused, match=rf"{MODEL} at [0-9a-f]{{40}}: no weights of the variant 'int8'; .* fp16"
    ):
        client.open(variant="int8")
    assert [name.split("/", 1)[1] for name in hub.delivered] == ["model_index.json"]


@pytest.mark.parametrize("weights", [True, False])
def test_component_that_the_model_lacks_is_refused_before_any_weights(
    hub: Hub, client: Client, weights: bool
) -> None:
    files = {name: data for name, data in checkpoint_files().items() if not name.startswith("tokenizer/")}
    hub.repositories[MODEL].commit(files, "main")
    with pytest.raises(Refused, match=r"lists tokenizer \(T5Tokenizer\), but there is no such folder"):
        client.open(weights=weights)
    assert [name.split("/", 1)[1] for name in hub.delivered] == ["model_index.json"]


def test_weights_that_arrive_broken(hub: Hub, client: Client) -> None:
    name = "text_encoder/model.safetensors"
    hub.repositories[MODEL].commit(checkpoint_files() | {name: b"not safetensors"}, "main")
    with pytest.raises(Refused, match=rf"{name}: not a whole safetensors file"):
        client.open()


def test_quantised_weights_are_told_without_loading_them_too(hub: Hub, client: Client) -> None:
    stored = save({"q.weight": np.zeros((4, 4), np.int8), "q.SCB": np.ones(4, np.float32)})
    hub.repositories[MODEL].commit(checkpoint_files() | {"text_encoder/model.safetensors": stored}, "main")
    # Not known before they are downloaded.
    client.open(weights=False)
    for weights in (True, False):
        with pytest.raises(Refused, match=r"the weights are quantised \(bitsandbytes in 8 bits\)"):
            client.open(weights=weights)
    with pytest.raises(Refused, match=r"the weights are quantised \(bitsandbytes in 8 bits\)"):
        client.open(weights=False, offline=True)


@pytest.mark.parametrize(
    "files",
    [
        {"transformer/config.json": b'{"quantization_config": {"quant_method": "torchao"}}'},
        {"transformer/hf_quant_config.json": b"{}"},
    ],
)
def test_a_quantised_model_of_the_hub_is_refused_before_any_weights(
    hub: Hub, client: Client, files: dict[str, bytes]
) -> None:
    hub.repositories[MODEL].commit(checkpoint_files() | files, "main")
    with pytest.raises(Refused, match=r"transformer.*: the weights are quantised \((torchao|ModelOpt)\)"):
        client.open(weights=False)
    assert not any(name.endswith(".safetensors") for name in hub.delivered)


def test_a_blob_that_is_gone_is_named_without_a_connection_and_fetched_with_one(client: Client) -> None:
    opened = client.open()
    path = opened.folder / "text_encoder" / "model.safetensors"
    path.resolve().unlink()
    with pytest.raises(
        Refused, match=r"not complete: .*model.safetensors: it is a link to .*, which does not"
    ):
        client.open(offline=True)
    assert client.open() == opened
    assert path.is_file()


def test_the_environment_is_what_huggingface_hub_goes_by(hub: Hub, tmp_path: Path) -> None:
    program = (
        "import sys; from vidgen_dist.weights.checkpoint import open_checkpoint; "
        f"print(open_checkpoint({MODEL!r}).revision, 'mindspore' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    env = kept | {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    for offline in ("0", "1"):
        asked = len(hub.asked)
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=env | {"HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [hub.repositories[MODEL].refs["main"], "False"]
        assert (len(hub.asked) == asked) == (offline == "1")


# A component in a repository of its own. --------------------------------------------------------

SINGLE = "diffusion_pytorch_model.safetensors"


def test_an_adapter_s_config_first_then_its_weights(hub: Hub, client: Client) -> None:
    main = hub.repositories[ADAPTER].refs["main"]
    described = client.open_adapter(weights=False)
    assert (described.revision, described.class_name) == (main, "MotionAdapter")
    assert cached(described) == ["config.json"]
    whole = client.open_adapter(revision=main)
    assert whole == described
    assert whole.digest() == described.digest()
    assert cached(whole) == ["config.json", SINGLE]
    other = client.open_adapter(variant="fp16")
    assert cached(other) == ["config.json", "diffusion_pytorch_model.fp16.safetensors", SINGLE]
    digests = {whole.digest(), other.digest(), client.open_adapter(revision="v1").digest()}
    assert len(digests) == 3
    assert client.open_adapter(revision="v1").class_name == "OldAdapter"


def test_an_adapter_from_the_cache(hub: Hub, client: Client) -> None:
    with pytest.raises(
        Refused, match=f"adapter '{ADAPTER}': no such folder, and the hub at .* not in the ca"
    ):
        client.open_adapter(offline=True)
    client.open_adapter(weights=False)
    assert client.open_adapter(weights=False, offline=True).class_name == "MotionAdapter"
    with pytest.raises(Refused, match=r"the cached copy is not complete: .*no safetensors weights"):
        client.open_adapter(offline=True)
    online = client.open_adapter()
    hub.failing = 503
    assert client.open_adapter() == online


def test_an_adapter_that_is_not_there(hub: Hub, client: Client) -> None:
    with pytest.raises(Refused, match=r"adapter '.*': the hub has no revision 'v9' of it"):
        client.open_adapter(revision="v9")
    repository = hub.repositories[ADAPTER]
    repository.commit({"README.md": b""}, "empty")
    with pytest.raises(Refused, match=r"adapter '.*': no config\.json in it"):
        client.open_adapter(revision="empty")
    repository.commit({"config.json": ADAPTER_FILES["config.json"]}, "light")
    with pytest.raises(Refused, match="no safetensors weights"):
        client.open_adapter(revision="light")
    repository.gated = True
    with pytest.raises(Refused, match=r"adapter '.*' is gated"):
        client.open_adapter(revision="v1")
    del hub.repositories[ADAPTER]
    with pytest.raises(Refused, match=r"adapter '.*': .* has no such model"):
        client.open_adapter()
