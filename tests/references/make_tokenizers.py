"""Tokenizers of the classes that checkpoints have, and transformers' ids of texts that are hard to split.

    python tests/references/make_tokenizers.py    # with transformers 4.57.1, then with transformers 5

Both releases write into `tokenizers.tar.xz`:

    <case>/            the component's folder, and `case.json`: its class and on which side it pads
    <case>/ids.json    ids of each text of `prompts.py`; of many, their number and digest
    <case>/cut.json    digests of ids and masks of all but the longest texts, cut or padded to a length

Files and ids of `cases` are transformers 4's. Those of `SAVED` are transformers 5's: it has loaded and saved
a tokenizer of other references or of `cases`, and loaded it again. With transformers 5, the script also says
how many texts of each of `cases` have other ids there.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import transformers
from prompts import SCRIPTS, long_prompts, prompts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
ARCHIVE = HERE / "tokenizers.tar.xz"
IDS, CUT, CASE = "ids.json", "cut.json", "case.json"
LENGTHS = (3, 12, 77)
LONG = 64
"""Of more ids, the digest is kept."""


def digest(value: Any) -> str:
    """A short digest of ids."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


# --- vocabularies -----------------------------------------------------------------------------------------

ENGLISH = [
    "a red fox runs through the snow while a violin plays at night",
    "the old clock on the wall strikes noon, and 1234567890 waves break on the grey beach!",
    "It's an emoji: don't we'll I'm they've you're she'd; describe the video by detailing aspects.",
]
CORPUS = [*ENGLISH * 4, *SCRIPTS.values(), *ENGLISH]

RULES = "\n".join(
    # T5's own rules are a table of 240 kB; these are a few of them.
    f"{' '.join(f'{ord(c):X}' for c in found)}\t{' '.join(f'{ord(c):X}' for c in made)}"
    for found, made in {
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},
        **dict.fromkeys("\t\n\r\u00a0\u2002\u2003\u2009\u2028\u3000", " "),
        **dict.fromkeys("\u200b\u0001\u0007\u007f\ufeff", ""),
        **dict(zip("ﬁ①½…Ⅷﷺ", ("fi", "1", "1⁄2", "...", "VIII", "صلى"), strict=True)),
        "e\u0301": "é",
        "ｶﾞ": "ガ",
    }.items()
)


def pieces(**options: Any) -> bytes:
    """A model of sentencepiece."""
    out = io.BytesIO()
    usual = {
        "num_threads": 1,
        "minloglevel": 2,
        "character_coverage": 0.98,
        "sentence_iterator": iter(CORPUS),
    }
    sentencepiece.SentencePieceTrainer.train(model_writer=out, **{**usual, **options})
    return out.getvalue()


def t5_pieces() -> bytes:
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        rules.write(RULES + "\n")
        rules.flush()
        return pieces(
            vocab_size=600,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            normalization_rule_tsv=rules.name,
        )


def llama_pieces(kind: str) -> bytes:
    return pieces(
        model_type=kind,
        **({"hard_vocab_limit": False} if kind == "unigram" else {}),
        sentence_iterator=iter([*CORPUS[:20], *ENGLISH]),
        vocab_size=750,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["<image>"],
    )


def clip_files() -> dict[str, bytes]:
    """Bytes, those at a word's end, pairs, and the two special tokens, as in CLIP's vocabulary."""
    start = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    start.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    start.train_from_iterator([text.lower() for text in CORPUS], trainer)
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for first, second in json.loads(start.to_str())["model"]["merges"]:
        if first in known and second in known and first + second not in known:
            known.append(first + second)
            merges.append(f"{first} {second}")
    known += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(known)}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }


LLAMA_3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA_3_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<pad>", "<image>"),
]


def llama_3() -> bytes:
    """A `tokenizer.json` with the parts of Llama 3's."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_3_TOKENS])
    begin = LLAMA_3_TOKENS[0]
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{begin}:0 $A:0", special_tokens=[(begin, made.token_to_id(begin))]
            ),
        ]
    )
    return made.to_str().encode()


def gpt(begin: bool) -> bytes:
    """A `tokenizer.json` split by ByteLevel alone, a space put before the text or not."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=begin)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(ENGLISH, trainer)
    made.enable_padding(direction="left", pad_id=0, pad_token="<pad>")
    made.enable_truncation(7, direction="left")
    return made.to_str().encode()


def saved_fast(class_name: str, files: dict[str, bytes], **settings: Any) -> bytes:
    """The `tokenizer.json` that a fast class saves of these files."""
    with tempfile.TemporaryDirectory() as made:
        write(Path(made), files, settings)
        getattr(transformers, class_name).from_pretrained(made).save_pretrained(Path(made, "saved"))
        return Path(made, "saved", "tokenizer.json").read_bytes()


# --- cases of transformers 4 ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A tokenizer's class and files.

    Args:
        class_name: As `model_index.json` names it.
        files: Vocabularies: which of `vocabularies()`.
        settings: `tokenizer_config.json`; None if there is none.
        others: Further JSON files.
    """

    class_name: str
    files: tuple[str, ...]
    settings: dict[str, Any] | None = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)


def token(content: str, **flags: bool) -> dict[str, Any]:
    usual = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **usual, **flags}


T5_NAMES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
EXTRA = [f"<extra_id_{i}>" for i in range(100)]
CLIP_NAMES = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
LLAMA_ADDED = {str(i): token(name) for i, name in enumerate(("<unk>", "<s>", "</s>"))}
LLAMA_3_NAMES = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<pad>"}
EXTRA_OBJECTS = {
    "<first>": token("<first>", lstrip=True),
    "fox": token("fox", special=False, normalized=True, single_word=True),
    "snow": token("snow", special=False, normalized=True, rstrip=True),
}


def t5_settings(size: int, **more: Any) -> dict[str, Any]:
    """What release 4.34 or later saves of T5's classes."""
    added = {str(i): token(name) for i, name in enumerate(("<pad>", "</s>", "<unk>"))}
    added |= {str(size + 99 - i): token(name, lstrip=True, rstrip=True) for i, name in enumerate(EXTRA)}
    return {
        **T5_NAMES,
        "added_tokens_decoder": added,
        "additional_special_tokens": EXTRA,
        "extra_ids": 100,
        "clean_up_tokenization_spaces": True,
        "model_max_length": 512,
        **more,
    }


def clip_settings(**more: Any) -> dict[str, Any]:
    marks = {
        key: {"__type": "AddedToken", **token(name, normalized=True)} for key, name in CLIP_NAMES.items()
    }
    return {**marks, "pad_token": "<|endoftext|>", "model_max_length": 77, "do_lower_case": True, **more}


def cases(t5_size: int, clip_size: int) -> dict[str, Case]:
    spiece, llama, clip = ("spiece.model",), ("tokenizer.model",), ("vocab.json", "merges.txt")
    published = t5_settings(t5_size)
    llama_published = {**LLAMA_NAMES, "added_tokens_decoder": LLAMA_ADDED, "model_max_length": 2048}
    extra_at = {str(t5_size + 100 + i): of for i, of in enumerate(EXTRA_OBJECTS.values())}
    added = {**published["added_tokens_decoder"], **extra_at}
    return {
        # T5: CogVideoX, LTX-Video, Mochi.
        "t5": Case("T5Tokenizer", spiece, published),
        "t5-new": Case("T5Tokenizer", spiece, {**published, "legacy": False}),
        "t5-new-no-space": Case(
            "T5Tokenizer", spiece, {**published, "legacy": False, "add_prefix_space": False}
        ),
        "t5-bare": Case("T5Tokenizer", spiece, None),
        "t5-no-extra": Case("T5Tokenizer", spiece, {**T5_NAMES, "extra_ids": 0, "legacy": True}),
        "t5-old": Case(
            "T5Tokenizer",
            spiece,
            {"model_max_length": 512, "extra_ids": 100},
            {
                "special_tokens_map.json": {**T5_NAMES, "additional_special_tokens": EXTRA},
                "added_tokens.json": {
                    **{name: t5_size + 99 - i for i, name in enumerate(EXTRA)},
                    "fox": t5_size + 100,
                },
            },
        ),
        "t5-map": Case(
            "T5Tokenizer",
            spiece,
            {"legacy": None, "unk_token": "<pad>"},
            {"special_tokens_map.json": {key: token(name, lstrip=True) for key, name in T5_NAMES.items()}},
        ),
        "t5-added": Case(
            "T5Tokenizer", spiece, {**published, "added_tokens_decoder": added, "padding_side": "left"}
        ),
        "t5-split": Case(
            "T5Tokenizer", spiece, {**published, "split_special_tokens": True, "truncation_side": "left"}
        ),
        "t5-named": Case("T5Tokenizer", spiece, {**T5_NAMES, "additional_special_tokens": ["red", "fox"]}),
        "t5-fast": Case("T5TokenizerFast", spiece, published),
        "t5-fast-new": Case("T5TokenizerFast", spiece, {**published, "legacy": False}),
        "t5-fast-bare": Case("T5TokenizerFast", spiece, None),
        "t5-fast-json": Case("T5TokenizerFast", ("t5/tokenizer.json", *spiece), published),
        "t5-fast-json-added": Case(
            "T5TokenizerFast", ("t5/tokenizer.json",), {**published, "added_tokens_decoder": added}
        ),
        "t5-fast-json-space": Case(
            "T5TokenizerFast", ("t5/tokenizer.json", *spiece), {**published, "add_prefix_space": True}
        ),
        "t5-fast-json-no-space": Case(
            "T5TokenizerFast", ("t5/tokenizer.json", *spiece), {**published, "add_prefix_space": False}
        ),
        # CLIP: AnimateDiff, HunyuanVideo, I2VGen-XL.
        "clip": Case("CLIPTokenizer", clip, clip_settings()),
        "clip-mark": Case(
            "CLIPTokenizer",
            clip,
            clip_settings(pad_token="!"),
            {"special_tokens_map.json": {**CLIP_NAMES, "pad_token": "!"}},
        ),
        "clip-bare": Case("CLIPTokenizer", clip, None),
        "clip-added": Case(
            "CLIPTokenizer",
            clip,
            clip_settings(
                added_tokens_decoder={
                    str(clip_size - 2): token("<|startoftext|>", normalized=True),
                    str(clip_size - 1): token("<|endoftext|>", normalized=True),
                    **{str(clip_size + i): of for i, of in enumerate(EXTRA_OBJECTS.values())},
                }
            ),
        ),
        "clip-left": Case("CLIPTokenizer", clip, clip_settings(truncation_side="left", padding_side="left")),
        "clip-fast": Case("CLIPTokenizerFast", clip, clip_settings(pad_token="!")),
        "clip-fast-plain": Case("CLIPTokenizerFast", clip, {**CLIP_NAMES, "pad_token": "!"}),
        "clip-fast-json": Case("CLIPTokenizerFast", ("clip/tokenizer.json", *clip), clip_settings()),
        "clip-fast-bare": Case("CLIPTokenizerFast", ("clip/tokenizer.json",), None),
        # Llama: HunyuanVideo.
        "llama": Case("LlamaTokenizer", llama, {**llama_published, "legacy": True}),
        "llama-new": Case("LlamaTokenizer", llama, {**llama_published, "legacy": False}),
        "llama-ends": Case(
            "LlamaTokenizer",
            llama,
            {**llama_published, "legacy": False, "add_bos_token": False, "add_eos_token": True},
        ),
        "llama-pad": Case(
            "LlamaTokenizer",
            llama,
            {**LLAMA_NAMES, "pad_token": "<pad>", "padding_side": "left"},
            {"added_tokens.json": {"<pad>": 750}},
        ),
        "llama-unigram": Case(
            "LlamaTokenizer", ("unigram/tokenizer.model",), {**llama_published, "legacy": False}
        ),
        "llama-fast": Case("LlamaTokenizerFast", llama, {**llama_published, "legacy": True}),
        "llama-fast-new": Case("LlamaTokenizerFast", llama, {**llama_published, "legacy": False}),
        "llama-fast-unigram": Case("LlamaTokenizerFast", ("unigram/tokenizer.model",), llama_published),
        "llama-fast-space": Case(
            "LlamaTokenizerFast",
            ("llama/tokenizer.json", *llama),
            {**llama_published, "add_prefix_space": False, "add_eos_token": True},
        ),
        "llama-fast-json": Case("LlamaTokenizerFast", ("llama/tokenizer.json",), llama_published),
        # The class by which diffusers loads Llama 3's, which LLaVA's is.
        "llama-3": Case(
            "LlamaTokenizerFast", ("llama-3/tokenizer.json",), {**LLAMA_3_NAMES, "unk_token": None}
        ),
        "llama-3-right": Case(
            "LlamaTokenizerFast",
            ("llama-3/tokenizer.json",),
            {**LLAMA_3_NAMES, "unk_token": None, "padding_side": "right", "add_prefix_space": None},
        ),
        "plain": Case("PreTrainedTokenizerFast", ("llama-3/tokenizer.json",), LLAMA_3_NAMES),
        "plain-space": Case("PreTrainedTokenizerFast", ("gpt/tokenizer.json",), {"add_prefix_space": True}),
        "plain-no-space": Case(
            "PreTrainedTokenizerFast", ("gpt-space/tokenizer.json",), {"eos_token": "<|endoftext|>"}
        ),
        "plain-added": Case(
            "PreTrainedTokenizerFast",
            ("gpt/tokenizer.json",),
            {
                "pad_token": "<pad>",
                "bos_token": "<new>",
                "added_tokens_decoder": {"400": token("<new>"), "401": EXTRA_OBJECTS["fox"]},
            },
        ),
    }


def vocabularies() -> dict[str, bytes]:
    """All vocabularies, some by a folder's and a file's name."""
    found = {
        "spiece.model": t5_pieces(),
        "tokenizer.model": llama_pieces("bpe"),
        "unigram/tokenizer.model": llama_pieces("unigram"),
        **clip_files(),
        "llama-3/tokenizer.json": llama_3(),
        "gpt/tokenizer.json": gpt(False),
        "gpt-space/tokenizer.json": gpt(True),
    }
    named = {name: found[name] for name in ("spiece.model",)}
    found["t5/tokenizer.json"] = saved_fast("T5TokenizerFast", named)
    named = {name: found[name] for name in ("vocab.json", "merges.txt")}
    found["clip/tokenizer.json"] = saved_fast("CLIPTokenizerFast", named)
    named = {"tokenizer.model": found["tokenizer.model"]}
    found["llama/tokenizer.json"] = saved_fast("LlamaTokenizerFast", named, **LLAMA_NAMES)
    return found


def write(folder: Path, files: dict[str, bytes], settings: Any, others: dict[str, Any] | None = None) -> None:
    """Write a tokenizer's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / Path(name).name).write_bytes(data)
    told = {} if settings is None else {"tokenizer_config.json": settings}
    for name, value in {**told, **(others or {})}.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


# --- cases of transformers 5 ------------------------------------------------------------------------------

# Read again, it has other ids than before it was saved: `legacy` is lost. Its ids here are those before.
AS_SAVED = ("saved-llama",)
SAVED = {
    "saved-clip-small": ("CLIPTokenizer", HERE / "animatediff/v1-5-2/checkpoint/tokenizer"),
    "saved-llama-small": ("LlamaTokenizerFast", HERE / "hunyuan_video/t2v/checkpoint/tokenizer"),
    "saved-plain-small": ("PreTrainedTokenizerFast", HERE / "hunyuan_video/t2v/checkpoint/tokenizer"),
    "saved-t5-small": ("T5Tokenizer", HERE / "cogvideox/2b/checkpoint/tokenizer"),
    "saved-t5": ("T5Tokenizer", Path("t5")),
    "saved-clip": ("CLIPTokenizer", Path("clip")),
    "saved-llama": ("LlamaTokenizer", Path("llama")),
    "saved-llama-3": ("PreTrainedTokenizerFast", Path("plain")),
}


def describe(tokenizer: Any, class_name: str, folder: Path) -> None:
    """Write what a tokenizer makes of the texts."""
    texts = [*prompts(), *long_prompts()]
    ids = [short(tokenizer(text, verbose=False)["input_ids"]) for text in texts]
    write(folder, {}, None, {IDS: ids, CUT: cut(tokenizer)})
    write(folder, {}, None, {CASE: {"class": class_name, "padding_side": tokenizer.padding_side}})


def short(ids: list[int]) -> Any:
    """Ids, or of many their number and digest."""
    return ids if len(ids) <= LONG else [len(ids), digest(ids)]


def cut(tokenizer: Any) -> dict[str, str]:
    found = {}
    for length in LENGTHS:
        made = [
            tokenizer(text, padding="max_length", max_length=length, truncation=True) for text in prompts()
        ]
        found[str(length)] = digest([[of["input_ids"], of["attention_mask"]] for of in made])
    return found


def make_4(folder: Path) -> None:
    """Write `CASES` and what transformers 4 makes of them."""
    shutil.rmtree(folder, ignore_errors=True)
    found = vocabularies()
    processor = sentencepiece.SentencePieceProcessor(model_proto=found["spiece.model"])
    for name, case in cases(len(processor), len(json.loads(found["vocab.json"]))).items():
        print(name, flush=True)
        write(folder / name, {file: found[file] for file in case.files}, case.settings, case.others)
        tokenizer = getattr(transformers, case.class_name).from_pretrained(folder / name)
        describe(tokenizer, case.class_name, folder / name)


def make_5(folder: Path) -> None:
    """Write `SAVED` and what transformers 5 makes of them; say where it differs on `CASES`."""
    for name in sorted(path.name for path in folder.iterdir() if not path.name.startswith("saved-")):
        compare(folder / name)
    for name, (class_name, source) in SAVED.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        saved = getattr(transformers, class_name).from_pretrained(folder / source)
        saved.save_pretrained(folder / name)
        kind = type(saved)
        again = kind.from_pretrained(folder / name)
        ids = [[made(text)["input_ids"] for text in prompts()] for made in (saved, again)]
        print(f"{name}: {sum(a != b for a, b in zip(*ids, strict=True))} differ when it is read again")
        describe(saved if name in AS_SAVED else again, kind.__name__, folder / name)


def compare(folder: Path) -> None:
    case = json.loads((folder / CASE).read_text())
    known = json.loads((folder / IDS).read_text())
    tokenizer = getattr(transformers, case["class"]).from_pretrained(folder)
    texts = [*prompts(), *long_prompts()]
    ids = [short(tokenizer(text, verbose=False)["input_ids"]) for text in texts]
    other = [text for text, ours, theirs in zip(texts, known, ids, strict=True) if ours != theirs]
    print(f"{folder.name}: {case['class']}: {len(other)} of {len(ids)} differ {[o[:12] for o in other[:6]]}")


def pack(folder: Path) -> None:
    """Write the archive, the same bytes for the same files."""
    with tarfile.open(ARCHIVE, "w:xz", preset=9, format=tarfile.GNU_FORMAT) as archive:
        # Files of one name beside each other: they have much in common.
        for path in sorted(filter(Path.is_file, folder.rglob("*")), key=lambda path: (path.name, path)):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if transformers.__version__.startswith("4."):
            make_4(folder)
        else:
            with tarfile.open(ARCHIVE) as archive:
                archive.extractall(folder, filter="data")
            make_5(folder)
        pack(folder)
    print(f"{ARCHIVE.name}: {ARCHIVE.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
