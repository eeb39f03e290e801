"""Tokenizers of checkpoints: padded, cut with a warning, without torch or network."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from tests import references
from tests.references import tokenizer_cases
from tests.references.prompts import long_prompts, prompts
from vidgen_dist.errors import Refused
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint
from vidgen_dist.weights.tokenizer import load_tokenizer, tokenize, tokenize_with_mask
from vidgen_dist.weights.tokenizer.fast import FastTokenizer
from vidgen_dist.weights.tokenizer.piece_model import read_piece_model
from vidgen_dist.weights.tokenizer.pieces import T5Tokenizer

TEXTS = (
    "a red fox runs through deep snow",
    "the old clock on the wall strikes noon",
    "waves break on a grey beach while gulls cry",
)


TEXTS_HARD_TO_SPLIT = prompts()
ALL_TEXTS = [*TEXTS_HARD_TO_SPLIT, *long_prompts()]
CASES_OF_LONG_TEXTS = ("t5", "t5-fast", "clip", "clip-fast", "llama-new", "llama-fast", "llama-3")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tokenizer alone, as T5's is published: spiece.model and tokenizer_config.json."""
    folder = tmp_path_factory.mktemp("published")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "T5Tokenizer"]}))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=38,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tokenizer / "spiece.model").write_bytes(model.getvalue())
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "T5Tokenizer",
                "model_max_length": 12,
                "extra_ids": 5,
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
                "legacy": True,
            }
        )
    )
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(published, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def tokenizer(published: Path) -> Any:
    return load_tokenizer(open_checkpoint(published))


def pieces(published: Path, text: str) -> list[int]:
    """The ids by sentencepiece itself, the end token after them."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(published / "tokenizer" / "spiece.model"))
    return [*processor.encode(text), 1]


def test_it_is_of_the_class_that_model_index_names(folder: Path, tokenizer: Any) -> None:
    assert isinstance(tokenizer, T5Tokenizer)
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "T5TokenizerFast"]}))
    assert isinstance(load_tokenizer(open_checkpoint(folder)), FastTokenizer)


def test_ids_are_padded_to_the_length(
    published: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pieces(published, TEXTS[0])
    ids = tokenize(tokenizer, TEXTS[0], 40)
    assert ids.dtype == np.int32
    assert ids.shape == (1, 40)
    np.testing.assert_array_equal(ids[0], expected + [0] * (40 - len(expected)))
    assert caplog.records == []


def test_empty_prompt_is_the_end_token(tokenizer: Any) -> None:
    np.testing.assert_array_equal(tokenize(tokenizer, "", 4), [[1, 0, 0, 0]])


def test_prompt_that_fits_exactly_is_whole(
    published: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pieces(published, TEXTS[1])
    np.testing.assert_array_equal(tokenize(tokenizer, TEXTS[1], len(expected)), [expected])
    assert caplog.records == []


@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_longer_prompt_is_cut_and_what_is_left_out_is_told(
    published: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    whole = pieces(published, TEXTS[2])
    ids = tokenize(tokenizer, TEXTS[2], length)
    np.testing.assert_array_equal(ids, [[*whole[: length - 1], 1]])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    removed = tokenizer.decode(whole[length - 1 : -1])
    assert removed
    assert caplog.records[0].getMessage() == (
        f"The prompt is longer than {length} tokens; left out: {removed}"
    )


def test_of_a_prompt_of_100_kilobytes_little_is_told(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ids = tokenize(tokenizer, " ".join(["waves break"] * 8500), 11)
    np.testing.assert_array_equal(ids, tokenize(tokenizer, " ".join(["waves break"] * 10), 11))
    told = caplog.records[0].getMessage()
    assert "waves break waves" in told
    assert told.endswith(" characters)")
    assert len(told) < 1100


@pytest.mark.parametrize(("text", "length"), [(TEXTS[0], 40), (TEXTS[2], 5), ("", 3), (TEXTS[0], 1)])
def test_mask_is_of_the_prompts_own_tokens(published: Path, tokenizer: Any, text: str, length: int) -> None:
    ids, mask = tokenize_with_mask(tokenizer, text, length)
    np.testing.assert_array_equal(ids, tokenize(tokenizer, text, length))
    assert mask.dtype == np.bool_
    own = min(len(pieces(published, text)), length)
    np.testing.assert_array_equal(mask, [[True] * own + [False] * (length - own)])


def test_padding_that_a_prompt_writes_is_its_own(tokenizer: Any) -> None:
    ids, mask = tokenize_with_mask(tokenizer, "<pad>", 4)
    assert (ids[0, 0], mask[0, 0]) == (0, True)
    np.testing.assert_array_equal(mask, [[True, True, False, False]])


def test_length_of_the_config_limits_nothing(tokenizer: Any) -> None:
    assert tokenizer.model_max_length == 12
    assert tokenize(tokenizer, TEXTS[2], 64).shape == (1, 64)


def test_no_torch_no_network_no_advice(published: Path) -> None:
    program = f"""
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

socket.socket.connect = refuse
socket.create_connection = refuse
from vidgen_dist.weights.checkpoint import open_checkpoint
from vidgen_dist.weights.tokenizer import load_tokenizer, tokenize, tokenize_with_mask
ids = tokenize(load_tokenizer(open_checkpoint({str(published)!r})), "a fox", 8)
assert ids.shape == (1, 8)
assert "torch" not in sys.modules and "transformers" not in sys.modules and "mindspore" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "PyTorch" not in result.stdout + result.stderr


def test_missing_vocabulary(folder: Path) -> None:
    vocabulary = folder / "tokenizer" / "spiece.model"
    vocabulary.rename(vocabulary.with_name("other.model"))
    with pytest.raises(
        Refused, match=r"T5Tokenizer has no vocabulary; allowed: spiece.model, tokenizer.json"
    ):
        load_tokenizer(open_checkpoint(folder))


@pytest.mark.parametrize("class_name", ["T5Tokenizer", "T5TokenizerFast"])
def test_vocabulary_that_does_not_parse(folder: Path, class_name: str) -> None:
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", class_name]}))
    (folder / "tokenizer" / "spiece.model").write_bytes(b"not a sentencepiece model")
    with pytest.raises(Refused, match=rf"tokenizer: {class_name} cannot be read: "):
        load_tokenizer(open_checkpoint(folder))


@pytest.mark.parametrize("class_name", ["NoSuchTokenizer", "T5EncoderModel", "logging"])
def test_class_that_is_no_tokenizer(folder: Path, class_name: str) -> None:
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", class_name]}))
    with pytest.raises(
        Refused, match=rf"model_index.json: tokenizer is a {class_name}; allowed: T5Tokenizer, "
    ):
        load_tokenizer(open_checkpoint(folder))


def test_missing_component(published: Path) -> None:
    checkpoint: Checkpoint = open_checkpoint(published)
    with pytest.raises(Refused, match="no component 'tokenizer_2'; it has tokenizer"):
        load_tokenizer(checkpoint, "tokenizer_2")


LLAMA = references.case("t2v", "hunyuan_video").checkpoint


def test_what_is_left_out_where_there_is_no_end_token(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(open_checkpoint(LLAMA))
    whole = tokenizer.encode("a red fox runs<|eot_id|>")
    with caplog.at_level(logging.WARNING):
        ids = tokenize(tokenizer, "a red fox runs<|eot_id|>", 3)
    assert ids.tolist() == [whole[:3]]
    removed = tokenizer.decode(whole[3:-1])
    assert caplog.messages == [f"The prompt is longer than 3 tokens; left out: {removed}"]


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(LLAMA, folder)
    for name, key in (
        ("tokenizer_config.json", "pad_token"),
        ("special_tokens_map.json", "pad_token"),
        ("tokenizer.json", "padding"),
    ):
        path = folder / "tokenizer" / name
        known = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(known | {key: None}), encoding="utf-8")
    with pytest.raises(Refused, match="LlamaTokenizerFast has no pad_token"):
        load_tokenizer(open_checkpoint(folder))


# --- ids of transformers ----------------------------------------------------------------------------------

WHOLE = "tokenizer.json"


def opened(tmp_path: Path, case: str, class_name: str, without: str = "", **settings: object) -> Checkpoint:
    """A checkpoint of one of the references, with other settings or without one of its files."""
    folder = tmp_path / "checkpoint"
    tokenizer_cases.write(case, folder / "tokenizer")
    if without:
        (folder / "tokenizer" / without).unlink()
    if settings:
        references.edit_json(folder / "tokenizer" / "tokenizer_config.json", **settings)
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", class_name]}))
    return open_checkpoint(folder)


def assert_splits_as(tokenizer: Any, case: str, texts: list[str] = TEXTS_HARD_TO_SPLIT) -> None:
    """Ids, masks, padding and what is cut off are those that transformers gave."""
    assert tokenizer.padding_side == tokenizer_cases.record(case, "case")["padding_side"]
    expected = tokenizer_cases.record(case, "ids")
    for text, theirs in zip(texts, expected[: len(texts)], strict=True):
        ids = tokenizer.encode(text)
        assert (ids if len(ids) <= 64 else [len(ids), tokenizer_cases.digest(ids)]) == theirs, repr(
            text[:100]
        )
    for length, theirs in tokenizer_cases.record(case, "cut").items():
        made = [tokenize_with_mask(tokenizer, text, int(length)) for text in TEXTS_HARD_TO_SPLIT]
        ours = [[ids[0].tolist(), mask[0].astype(int).tolist()] for ids, mask in made]
        assert tokenizer_cases.digest(ours) == theirs, f"cut or padded to {length}"


@pytest.mark.parametrize("case", tokenizer_cases.cases(saved=False))
def test_ids_are_those_of_transformers_4(tmp_path: Path, case: str) -> None:
    tokenizer = load_tokenizer(opened(tmp_path, case, tokenizer_cases.class_name(case)))
    # One case a class, for texts of 100 kB take long.
    assert_splits_as(tokenizer, case, ALL_TEXTS if case in CASES_OF_LONG_TEXTS else TEXTS_HARD_TO_SPLIT)


CLASSES = [
    *((case, tokenizer_cases.class_name(case)) for case in tokenizer_cases.cases(saved=True)),
    ("saved-t5", "T5TokenizerFast"),
    ("saved-clip", "CLIPTokenizerFast"),
    ("saved-llama-small", "LlamaTokenizerFast"),
    ("saved-plain-small", "PreTrainedTokenizerFast"),
]


@pytest.mark.parametrize(("case", "class_name"), CLASSES)
def test_ids_are_those_of_transformers_5(tmp_path: Path, case: str, class_name: str) -> None:
    assert_splits_as(load_tokenizer(opened(tmp_path, case, class_name)), case)


@pytest.mark.parametrize(
    ("case", "class_name"), [("saved-t5", "T5Tokenizer"), ("saved-clip", "CLIPTokenizer")]
)
def test_a_tokenizer_json_may_be_all_there_is(tmp_path: Path, case: str, class_name: str) -> None:
    tokenizer = load_tokenizer(opened(tmp_path, case, class_name, "tokenizer_config.json"))
    assert_splits_as(tokenizer, case)


def test_a_tokenizer_json_alone_that_cannot_pad_is_refused(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "saved-llama-small", "LlamaTokenizer", "tokenizer_config.json")
    path = checkpoint.folder / "tokenizer" / WHOLE
    references.edit_json(path, padding=None)
    with pytest.raises(Refused, match=r"LlamaTokenizer has no pad_token"):
        load_tokenizer(checkpoint)


def test_what_transformers_5_saved_counts_beside_older_files(tmp_path: Path) -> None:
    older = references.case("2b").checkpoint / "tokenizer"
    checkpoint = opened(tmp_path, "saved-t5-small", "T5Tokenizer")
    shutil.copy(older / "spiece.model", checkpoint.folder / "tokenizer")
    assert_splits_as(load_tokenizer(checkpoint), "saved-t5-small")


def test_a_list_of_further_tokens_is_read_with_a_sentencepiece_model_too(tmp_path: Path) -> None:
    older = references.case("2b").checkpoint
    checkpoint = opened(tmp_path, "saved-t5-small", "T5Tokenizer")
    tokenizer = checkpoint.folder / "tokenizer"
    shutil.copy(older / "tokenizer" / "spiece.model", tokenizer)
    (tokenizer / WHOLE).unlink()
    ours, theirs = load_tokenizer(checkpoint), load_tokenizer(open_checkpoint(older))
    for text in TEXTS_HARD_TO_SPLIT:
        assert ours.encode(text) == theirs.encode(text), repr(text)


def test_special_tokens_may_be_objects(tmp_path: Path) -> None:
    token = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False, "special": True}
    further = [{**token, "content": f"<extra_id_{i}>", "lstrip": True, "rstrip": True} for i in range(100)]
    settings = {"eos_token": token, "extra_special_tokens": further}
    assert_splits_as(
        load_tokenizer(opened(tmp_path, "saved-t5-small", "T5Tokenizer", **settings)), "saved-t5-small"
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "tokenizer.json: not a vocabulary; it is empty"),
        (b"<!doctype html><p>", "tokenizer.json: not a vocabulary; it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "tokenizer.json: .* it is a git-lfs pointer"),
        (b'{"version": "1.0", "model": {', r"T5Tokenizer cannot be read: .*tokenizer.json, line 1: not JSON"),
        (b'{"version": "1.0"}', "tokenizer: T5Tokenizer cannot be read: "),
    ],
)
def test_a_damaged_tokenizer_json_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    checkpoint = opened(tmp_path, "saved-t5-small", "T5Tokenizer")
    (checkpoint.folder / "tokenizer" / WHOLE).write_bytes(content)
    with pytest.raises(Refused, match=told):
        load_tokenizer(checkpoint)


def test_a_vocabulary_that_is_a_pointer_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "spiece.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(Refused, match=r"spiece.model: not a vocabulary; it is a git-lfs pointer: run `git"):
        load_tokenizer(open_checkpoint(folder))


def test_a_vocabulary_that_a_link_does_not_lead_to_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "spiece.model").unlink()
    (folder / "tokenizer" / "spiece.model").symlink_to("../../blobs/0123")
    with pytest.raises(Refused, match=r"spiece.model: it is a link to ../../blobs/0123, which does not lead"):
        load_tokenizer(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("case", "key", "value"),
    [
        ("saved-t5", "add_eos_token", False),
        ("saved-t5", "add_bos_token", True),
        ("saved-llama-3", "add_bos_token", False),
        ("saved-llama-3", "add_eos_token", True),
    ],
)
def test_tokens_around_a_text_are_those_of_the_settings(
    tmp_path: Path, case: str, key: str, value: bool
) -> None:
    # T5 has no token for the beginning.
    names = {"bos_token": "<unk>"} if case == "saved-t5" else {}
    class_name = tokenizer_cases.class_name(case)
    checkpoint = opened(tmp_path, case, class_name, **{key: value}, **names)
    with pytest.raises(
        Refused, match=rf"tokenizer_config.json: {key} is {value}; allowed is {not value}, as"
    ):
        load_tokenizer(checkpoint)
    path = checkpoint.folder / "tokenizer" / "tokenizer_config.json"
    references.edit_json(path, **{key: not value})
    assert_splits_as(load_tokenizer(checkpoint), case)


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "settings", "told"),
    [
        ("t5", {"padding_side": "middle"}, "padding_side is 'middle'; allowed: left, right"),
        ("t5-fast", {"truncation_side": "middle"}, "truncation_side is 'middle'; allowed: left, right"),
        ("t5", {"eos_token": None}, "eos_token is None; allowed is a token"),
        ("t5", {"extra_ids": 7}, "extra_ids is 7, but additional_special_tokens has 100 of these"),
        ("t5-fast", {"extra_ids": 7}, "extra_ids is 7, but additional_special_tokens has 100 of these"),
        ("clip", {"mask_token": 5}, "mask_token is 5; allowed is a token"),
        ("clip", {"additional_special_tokens": "x"}, "is 'x'; allowed is a list of tokens"),
        ("llama-3", {"bos_token": None}, "add_bos_token is True, but there is no bos_token"),
        (
            "llama-3",
            {"fast_tokenizer_files": ["tokenizer.4.0.0.json"]},
            "names tokenizer.4.0.0.json; allowed",
        ),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(
    tmp_path: Path, case: str, settings: dict[str, Any], told: str
) -> None:
    class_name = tokenizer_cases.class_name(case)
    with pytest.raises(Refused, match=rf"{class_name} cannot be read: .*{re.escape(told)}"):
        load_tokenizer(opened(tmp_path, case, class_name, **settings))


@pytest.mark.parametrize(
    ("case", "missing"),
    [("clip", "merges.txt"), ("clip-fast", "merges.txt"), ("t5-fast-json-space", "spiece.model")],
)
def test_a_file_that_a_class_also_needs_is_named(tmp_path: Path, case: str, missing: str) -> None:
    with pytest.raises(Refused, match=f"cannot be read: .*{missing}"):
        load_tokenizer(opened(tmp_path, case, tokenizer_cases.class_name(case), missing))


def test_a_pair_that_makes_no_piece_is_refused(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "clip", "CLIPTokenizer")
    with (checkpoint.folder / "tokenizer" / "merges.txt").open("a", encoding="utf-8") as merges:
        merges.write("zz qq</w>\n")
    with pytest.raises(Refused, match=r"CLIPTokenizer cannot be read: .*zz"):
        load_tokenizer(checkpoint)


def test_a_model_of_words_cannot_become_a_fast_tokenizer(folder: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="word",
        vocab_size=20,
        minloglevel=2,
    )
    (folder / "tokenizer" / "spiece.model").write_bytes(model.getvalue())
    (folder / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "T5TokenizerFast"]}))
    with pytest.raises(Refused, match=r"a sentencepiece model of type 3; allowed: unigram, bpe"):
        load_tokenizer(open_checkpoint(folder))


def test_a_models_file_is_read_as_sentencepiece_reads_it(published: Path) -> None:
    data = (published / "tokenizer" / "spiece.model").read_bytes()
    model, processor = read_piece_model(data), sentencepiece.SentencePieceProcessor(model_proto=data)
    assert [piece.text for piece in model.pieces] == [processor.id_to_piece(i) for i in range(len(processor))]
    assert [piece.score for piece in model.pieces] == [processor.get_score(i) for i in range(len(processor))]
    assert model.unk_id == processor.unk_id()
    assert len(model.charsmap) > 100_000
    for size in (1, 3, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="not a sentencepiece model"):
            read_piece_model(data[:size])
