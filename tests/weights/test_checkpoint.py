"""Checkpoints in folders: what is read, what their digest depends on, what is refused."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.weights.files import MODEL_INDEX, NOT_NEEDED, checkpoint_files, write_checkpoint
from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import INDEX, needed_files, open_checkpoint
from vidgen_dist.weights.tensors import TensorFiles

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer")
TEXTS = [
    INDEX,
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/spiece.model",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
]
PLAIN = [
    "text_encoder/model.safetensors",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
]
FP16 = ["text_encoder/model.safetensors", "transformer/diffusion_pytorch_model.fp16.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def edit_index(folder: Path, **changes: object) -> None:
    (folder / INDEX).write_text(json.dumps(MODEL_INDEX | changes))


def test_a_folder_and_what_is_in_it(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.model == str(folder)
    assert checkpoint.revision is None
    assert checkpoint.variant is None
    assert checkpoint.folder == folder
    assert checkpoint.model_index == MODEL_INDEX
    assert checkpoint.components == COMPONENTS
    assert checkpoint.class_name("text_encoder") == "T5EncoderModel"
    assert checkpoint.component_folder("scheduler") == folder / "scheduler"
    assert checkpoint.config("transformer") == {"num_layers": 2}
    assert checkpoint.config("scheduler") == {"beta_schedule": "scaled_linear"}
    assert checkpoint.config("tokenizer") == {"tokenizer_class": "T5Tokenizer"}
    assert [path.name for path in checkpoint.weight_files("transformer")] == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert checkpoint.weight_files("scheduler") == ()


def test_variant_is_taken_where_a_component_has_it(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, variant="fp16")
    transformer = folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors"
    assert checkpoint.weight_files("transformer") == (transformer,)
    assert checkpoint.weight_files("text_encoder") == (folder / "text_encoder" / "model.safetensors",)


def test_a_relative_folder_and_one_in_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    digest = open_checkpoint(folder).digest()
    for model in ("checkpoint", "./checkpoint", "~/checkpoint"):
        checkpoint = open_checkpoint(model)
        assert checkpoint.folder == folder
        assert checkpoint.digest() == digest


def test_a_folder_may_be_a_file_uri(folder: Path, tmp_path: Path) -> None:
    with_space = tmp_path / "a model"
    shutil.copytree(folder, with_space)
    checkpoint = open_checkpoint(f"file://{tmp_path}/a%20model")
    assert checkpoint.folder == with_space
    assert checkpoint.digest() == open_checkpoint(folder).digest()


@pytest.mark.parametrize("model", ["dbfs:/models/x", "s3:/bucket/x", "file://host/x", "s3://bucket/x"])
def test_other_storages_hold_no_checkpoints(model: str) -> None:
    with pytest.raises(Refused, match=re.escape(model)):
        open_checkpoint(model)


def test_it_travels_to_other_processes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_no_mindspore_is_loaded(folder: Path) -> None:
    program = (
        "import sys; from vidgen_dist.weights.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(folder)!r}).digest(); "
        "sys.exit(any(m in sys.modules for m in ('mindspore', 'ray', 'tokenizers', 'huggingface_hub')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("variant", "weights", "expected"), [(None, True, PLAIN), ("fp16", True, FP16), (None, False, [])]
)
def test_needed_files(variant: str | None, weights: bool, expected: list[str]) -> None:
    needed = needed_files(checkpoint_files(), COMPONENTS, variant, weights)
    assert needed == sorted(TEXTS + expected)
    assert not set(needed) & set(NOT_NEEDED)


def test_needed_files_of_some_components() -> None:
    needed = needed_files(checkpoint_files(), ("scheduler", "text_encoder"), None)
    assert needed == [
        INDEX,
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
    ]


def test_digest_is_the_same_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    before = open_checkpoint(folder).digest()
    assert len(before) == 64
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "under another name")
    shutil.rmtree(folder)
    assert open_checkpoint(moved).digest() == before


def test_digest_is_that_of_the_linked_files(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            link = linked / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    assert open_checkpoint(linked).digest() == open_checkpoint(folder).digest()


@pytest.mark.parametrize("name", TEXTS + PLAIN)
def test_digest_depends_on_every_file_that_decides(folder: Path, name: str) -> None:
    checkpoint = open_checkpoint(folder)
    before = checkpoint.digest()
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint.digest() != before


@pytest.mark.parametrize(
    "name", [*NOT_NEEDED, "transformer/diffusion_pytorch_model.fp16.safetensors", ".git/index"]
)
def test_digest_depends_on_no_other_file(folder: Path, name: str) -> None:
    checkpoint = open_checkpoint(folder)
    before = checkpoint.digest()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"changed")
    assert checkpoint.digest() == before


def test_digest_depends_on_the_names(folder: Path) -> None:
    before = open_checkpoint(folder).digest()
    (folder / "tokenizer" / "spiece.model").rename(folder / "tokenizer" / "other.model")
    assert open_checkpoint(folder).digest() != before


def test_digests_of_variants_differ(folder: Path) -> None:
    assert open_checkpoint(folder).digest() != open_checkpoint(folder, variant="fp16").digest()


def test_digest_names_a_file_that_vanished(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    (folder / INDEX).unlink()
    with pytest.raises(Refused, match=r"model_index.json: the file is missing"):
        checkpoint.digest()


@pytest.mark.parametrize("model", ["nowhere", "/no/such/folder", "a/b/c", "a--b/c", "org/name.git", ""])
def test_neither_a_folder_nor_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    if model == "":  # no way to name the folder of the process
        with pytest.raises(Refused, match="an empty path; give a file or a folder"):
            open_checkpoint(model)
        return
    with pytest.raises(Refused) as refused:
        open_checkpoint(model)
    assert f"model {model!r} is neither a folder that exists nor a hub id" in str(refused.value)
    assert "zai-org/CogVideoX-5b" in str(refused.value)


def test_a_file(folder: Path) -> None:
    with pytest.raises(
        Refused, match=r"original.safetensors' is a file: .*from_single_file.*; allowed: a fold"
    ):
        open_checkpoint(folder / "original.safetensors")
    with pytest.raises(Refused, match=r"README.md' is a file; allowed: a folder"):
        open_checkpoint(folder / "README.md")


def test_revision_of_a_folder(folder: Path) -> None:
    with pytest.raises(Refused, match=r"revision 'main': .* is a folder, which has none"):
        open_checkpoint(folder, revision="main")


def test_folder_without_model_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(Refused, match=rf"{folder}: no model_index.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_without_its_folder(folder: Path, component: str) -> None:
    shutil.rmtree(folder / component)
    with pytest.raises(Refused, match=rf"model_index.json lists {component} \(\w+\), but there is no such"):
        open_checkpoint(folder)


def test_a_component_with_an_empty_folder(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(Refused, match=r"lists scheduler \(CogVideoXDDIMScheduler\), but .* nothing in it"):
        open_checkpoint(folder)


def test_a_tokenizer_without_a_vocabulary_is_refused_on_opening(folder: Path) -> None:
    (folder / "tokenizer" / "spiece.model").unlink()
    with pytest.raises(Refused, match=r"tokenizer \(T5Tokenizer\) has no vocabulary"):
        open_checkpoint(folder)


def test_component_that_is_not_needed_may_be_missing(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")
    checkpoint = open_checkpoint(folder, components=["tokenizer", "text_encoder"])
    assert checkpoint.components == ("text_encoder", "tokenizer")
    with pytest.raises(Refused, match=r"the folder of the component transformer .* is missing"):
        checkpoint.config("transformer")


def test_component_that_is_not_listed(folder: Path) -> None:
    with pytest.raises(Refused, match=r"no component vae; it has scheduler, text_encoder"):
        open_checkpoint(folder, components=["vae", "tokenizer"])
    checkpoint = open_checkpoint(folder)
    for ask in (
        checkpoint.config,
        checkpoint.class_name,
        checkpoint.component_folder,
        checkpoint.weight_files,
    ):
        with pytest.raises(
            Refused, match=r"model_index.json: no component 'safety_checker'; it has scheduler"
        ):
            ask("safety_checker")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n  "_class_name": "X",\n  "vae": [,]\n}', r"model_index.json, line 3: not JSON"),
        (b"[1]", r"model_index.json: must hold a JSON object, holds list"),
        (b"\xff\xfe{}", r"model_index.json: cannot be read as UTF-8"),
    ],
)
def test_model_index_that_is_no_json_object(folder: Path, text: bytes, message: str) -> None:
    (folder / INDEX).write_bytes(text)
    with pytest.raises(Refused, match=message):
        open_checkpoint(folder)


def test_config_that_is_no_json(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text('{"num_layers": 2,\n')
    with pytest.raises(Refused, match=r"transformer/config.json, line 2: not JSON"):
        open_checkpoint(folder).config("transformer")


def test_component_without_a_config(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "scheduler" / "other.json")
    with pytest.raises(
        Refused, match=r"scheduler: scheduler has no config; allowed are config.json, scheduler"
    ):
        open_checkpoint(folder).config("scheduler")


def test_model_without_weights(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()
    named = r"text_encoder has no safetensors weights; pytorch_model.fp16.bin \(pickled\) is not read, "
    with pytest.raises(Refused, match=named + r"flax_model.msgpack, model.onnx \(of another framework\) is"):
        open_checkpoint(folder)
    for name in ("pytorch_model.fp16.bin", "flax_model.msgpack", "model.onnx"):
        (folder / "text_encoder" / name).unlink()
    with pytest.raises(Refused, match=r"text_encoder has no safetensors weights$"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pytorch_model.bin", "pickled"),
        ("pytorch_model-00001-of-00002.bin", "pickled"),
        ("diffusion_pytorch_model.pt", "pickled"),
        ("model.ckpt", "pickled"),
        ("model-Q4_K_M.gguf", "quantised"),
        ("flax_model.msgpack", "of another framework"),
        ("tf_model.h5", "of another framework"),
    ],
)
def test_weights_of_other_formats_are_named_with_what_to_do(folder: Path, name: str, kind: str) -> None:
    encoder = folder / "text_encoder"
    for path in encoder.iterdir():
        if path.name != "config.json":
            path.unlink()
    (encoder / name).write_bytes(b"weights")
    told = rf"no safetensors weights; {name} \({kind}\) is not read: .*save_pretrained\(FOLDER\) writes"
    with pytest.raises(Refused, match=told):
        open_checkpoint(folder)
    with pytest.raises(Refused, match=told):
        TensorFiles.open(encoder)


@pytest.mark.parametrize("name", ["model.safetensors", "sd.ckpt", "wan-Q8_0.gguf"])
def test_a_folder_of_a_checkpoint_in_one_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(Refused, match=rf"no model_index.json in it: {name} .*from_single_file\(FILE\)"):
        open_checkpoint(tmp_path)


def test_model_with_weights_of_a_variant_only(folder: Path) -> None:
    encoder = folder / "text_encoder"
    (encoder / "model.safetensors").rename(encoder / "model.bf16.safetensors")
    with pytest.raises(
        Refused, match=r"text_encoder has no safetensors weights without a variant; it has bf16"
    ):
        open_checkpoint(folder)
    assert open_checkpoint(folder, variant="bf16").weight_files("text_encoder") == (
        encoder / "model.bf16.safetensors",
    )


def test_variant_that_no_component_has(folder: Path) -> None:
    with pytest.raises(Refused, match="no weights of the variant 'int8'; it has fp16"):
        open_checkpoint(folder, variant="int8")
    (folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(Refused, match="no weights of the variant 'fp16'; it has only the plain files"):
        open_checkpoint(folder, variant="fp16")


def test_weights_that_are_cut_short_are_refused_on_opening(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Refused, match=r"text_encoder/model.safetensors: not a whole safetensors file"):
        open_checkpoint(folder)


def test_missing_shard_is_refused_on_opening(folder: Path) -> None:
    (folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Refused, match=r"the shard diffusion_pytorch_model-00002-of-00002.safetensors"):
        open_checkpoint(folder)


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(
        Refused, match=r"text_encoder holds adapter_config.json: .* merge it into the weights"
    ):
        open_checkpoint(folder)


def test_optional_component_that_is_there_is_opened(folder: Path) -> None:
    edit_index(folder, image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    encoder = folder / "image_encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    (encoder / "model.safetensors").write_bytes(save({"a": np.zeros(1, np.float32)}))
    assert open_checkpoint(folder).weight_files("image_encoder") == (encoder / "model.safetensors",)
