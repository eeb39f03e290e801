"""Tokenizers as transformers 5 saves them, and the ids that it gives of texts that are hard to split.

    python tests/references/make_tokenizers.py    # with transformers 5

Those of other references are loaded, saved, and loaded again by the class that `model_index.json` then has.
`tokenizers/<case>/` is the component's folder; `tokenizers/ids.json` holds the texts, and of each case its
class, the side on which it pads, ids of the texts, and ids and masks of them cut or padded to 12.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import transformers

HERE = Path(__file__).parent
FOLDER = HERE / "tokenizers"

CASES = {
    "clip": ("CLIPTokenizer", "animatediff/v1-5-2/checkpoint/tokenizer"),
    "llama": ("LlamaTokenizerFast", "hunyuan_video/t2v/checkpoint/tokenizer"),
    "llama_backend": ("PreTrainedTokenizerFast", "hunyuan_video/t2v/checkpoint/tokenizer"),
    "t5": ("T5Tokenizer", "cogvideox/2b/checkpoint/tokenizer"),
}
CUT = 12

PLAIN = (
    """
A red fox runs through the snow.| leading|trailing |two  spaces   and   more|it's don't we'll I'M
UPPER lower MiXeD|1234567890 3.14 1,000|http://x.y/z?q=1#f|<b>bold</b>|{json: [1, 2]}|\\escape \\n
ÄÖÜ ß éèà|日本語のテキスト|中文 和 English|emoji 🦊🔥👩‍👩‍👧|ﬁ ①② ½ ²|العربية|हिन्दी|ไทย|한국어|кириллица
ı İ ſ K ǅ|ﷺ
“quotes” ‘single’ — dash…|▁ under ▁▁|Ġ byte Ċ|</w> end</w>|C++ f(x)=y^2|!!! ??? ...|___ ---|$100 €5 £3 ¥
""".strip()
    .replace("\n", "|")
    .split("|")
)
ODD = [
    "",
    " ",
    "\n",
    "\t a",
    "a\r\nb",
    "a\u0301",
    "zero\u200bwidth",
    "non\u00a0breaking",
    "\ufeffbom",
    "\0nul",
    "\u2028",
]
SPECIAL = [
    *("</s>", "<pad>", "<unk>", "<extra_id_0>"),
    *("<|startoftext|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>"),
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz ABCDEF.,!?'\"-0123456789\n\té日🦊▁<>/|_"]
WORDS = [*("a", "red", "fox", "runs", "through", "the", "snow"), *("while", "violin", "plays", "at", "night")]


def texts() -> list[str]:
    """Texts of all kinds, the same in each run."""
    rng = random.Random(3)
    around = [made for t in SPECIAL for made in (t, f"a {t} b", f"a{t}b", f" {t}{t} ", t.upper(), t[:-1])]
    drawn = ["".join(rng.choices(LETTERS, k=rng.randint(1, 30))) for _ in range(60)]
    spoken = [" ".join(rng.choices(WORDS + SPECIAL, k=rng.randint(1, 20))) for _ in range(40)]
    return [*ODD, *PLAIN, *around, *drawn, *spoken, "x" * 100, "snow " * 60]


def ids_of(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer makes of the texts."""
    cut = [tokenizer(text, padding="max_length", max_length=CUT, truncation=True) for text in texts()]
    return {
        "padding_side": tokenizer.padding_side,
        "ids": [tokenizer(text)["input_ids"] for text in texts()],
        "cut_ids": [made["input_ids"] for made in cut],
        "cut_masks": [made["attention_mask"] for made in cut],
    }


def main() -> None:
    found: dict[str, Any] = {}
    for name, (kind, source) in CASES.items():
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        saved = getattr(transformers, kind).from_pretrained(HERE / source)
        saved.save_pretrained(folder)
        class_name = type(saved).__name__
        found[name] = {"class": class_name, **ids_of(type(saved).from_pretrained(folder))}
    told = {"transformers": transformers.__version__, "texts": texts(), "cases": found}
    (FOLDER / "ids.json").write_text(json.dumps(told, ensure_ascii=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
