"""Texts that are hard to split: what people write, paste and break. They are the same in each run."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

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
    *("<s>", "</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_1>", "<extra_id_10>", "<extra_id_99>", "!"),
    *("<|startoftext|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<image>", "<0x0A>"),
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz ABCDEF.,!?'\"-0123456789\n\té日🦊▁<>/|_"]
WORDS = [*("a", "red", "fox", "runs", "through", "the", "snow"), *("while", "violin", "plays", "at", "night")]

SCRIPTS = {
    "Latin": "Ein roter Fuchs läuft über den Schnee; el niño come piñas; Příliš žluťoučký kůň",
    "Vietnamese": "Đường phố Việt Nam; Nguyễn chạy",
    "Greek": "Ὀδυσσεύς ΣΊΣΥΦΟΣ σίσυφος Η ΑΛΕΠΟΎ ΤΡΈΧΕΙ",
    "Cyrillic": "Рыжая лиса бежит по снегу; Ґедзь їсть; Ђорђе",
    "Armenian": "Կարմիր աղվեսը վազում է եւ և",
    "Hebrew": "שׁוּעָל אָדֹם רץ בשלג",
    "Arabic": "ثعلبٌ أحمرُ يجري على الثلج ٠١٢٣ ﻼ",
    "Syriac": "ܬܥܠܐ ܣܘܡܩܐ",
    "Thaana": "ހިޔަޅެއް",
    "Devanagari": "लाल लोमड़ी बर्फ में दौड़ती है १२३ क्षत्रिय",
    "Bengali": "লাল শেয়াল তুষারে দৌড়ায় ৪৫",
    "Gurmukhi": "ਲਾਲ ਲੂੰਬੜੀ",
    "Gujarati": "લાલ શિયાળ",
    "Odia": "ଲାଲ କୋକିଶିଆଳି",
    "Tamil": "சிவப்பு நரி பனியில் ஓடுகிறது ௧௨",
    "Telugu": "ఎర్ర నక్క మంచులో పరుగెత్తుతుంది",
    "Kannada": "ಕೆಂಪು ನರಿ",
    "Malayalam": "ചുവന്ന കുറുക്കൻ",
    "Sinhala": "රතු නරියා",
    "Thai": "สุนัขจิ้งจอกสีแดงวิ่งผ่านหิมะ ๑๒๓ น้ำ",
    "Lao": "ໝາຈອກແດງ ແລ່ນ",
    "Tibetan": "ཝ་མོ་དམར་པོ་ རྒྱུག",
    "Burmese": "မြေခွေးနီ ပြေး",
    "Georgian": "წითელი მელა გარბის ᲬᲘᲗᲔᲚᲘ",
    "Ethiopic": "ቀይ ቀበሮ ፩፪",
    "Cherokee": "ᏣᎳᎩ ꭰꭱ Ꭰ",
    "Canadian": "ᐃᓄᒃᑎᑐᑦ",
    "Khmer": "កញ្ជ្រោងក្រហម រត់",
    "Mongolian": "ᠤᠯᠠᠭᠠᠨ ᠦᠨᠡᠭᠡ",
    "Hiragana": "あかいきつねがゆきをはしる がぎぐ",
    "Katakana": "アカイキツネ ｱｶｲｷﾂﾈ ｶﾞ パピプ",
    "Han": "一只红狐狸跑过雪地，紅狐跑過雪地。㐀𠀀𪜀豈",
    "Hangul": "붉은 여우가 눈 속을 달린다",
    "Jamo": "\u1107\u116e\u11b0\u110b\u1173\u11ab",
    "Yi": "ꀀꀁꀂ",
    "Ogham": "ᚁᚂᚃ\u1680ᚄ",
    "Runic": "ᚠᚢᚦᚨᚱᚲ",
    "Gothic": "𐌰𐌱𐌲",
    "Deseret": "𐐀𐐁𐐨𐐩",
    "Cuneiform": "𒀀𒀁𒁀",
    "Hieroglyphs": "𓀀𓂀𓃀",
    "Adlam": "𞤀𞤁𞤢𞤣 𞥐𞥑",
    "Vai": "ꔀꔁ ꘠꘡",
    "Javanese": "ꦱꦶꦭꦸꦩꦤ꧀ ꧐꧑",
    "Tagalog": "ᜐᜓᜎᜆ᜔",
    "Mathematical": "𝐀 red 𝔣𝔬𝔵 𝟘𝟙𝟚 ∑∫√ ℝ ℵ",
    "Fullwidth": "Ｒｅｄ　Ｆｏｘ　１２３！",
    "Enclosed": "ⓐⓑⒶ ㊗㈱ 🄰 ⅷ Ⅷ ¼",
}
EMOJI = [
    "👨‍👩‍👧‍👦",
    "👩🏽‍🚀 walks",
    "🏳️‍🌈",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "🇩🇪🇯🇵🇺",
    "1️⃣ #️⃣",
    "☃︎ ☃️",
    "🦊" * 40,
    "\u200d🦊\u200d",
    "❤️‍🔥 on 🧑🏿‍🤝‍🧑🏻",
    "a🦊b🦊 c",
]
INVISIBLE = [
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2060", "\u2063", "\u2066"),
    *("\u00ad", "\u034f", "\u061c", "\u115f", "\u17b4", "\u180e", "\u3164", "\ufe0f", "\uffa0", "\ufff9"),
    *("\ufffc", "\ufffd", "\ufffe", "\U0001d173", "\U000e0001", "\U000e0100"),
    *(chr(code) for code in [*range(0x01, 0x20), 0x7F, 0x80, 0x85, 0x9F]),
]
SPACES = [
    *("\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007"),
    *("\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\t", "\v", "\f"),
]
PRIVATE = ["\ue000", "\uf8ff", "\U000f0000", "\U0010ffff", "\ufdd0", "\U0001ffff", "\u0378"]
MARKS = [
    *("Å \u212b A\u030a", "\u1e9b\u0323", "q\u0307\u0323 q\u0323\u0307", "e" + "\u0301" * 30),
    *(
        "\u0345 \u0399\u0345",
        "Z\u0351\u0356a\u0346l\u0300g\u0321o",
        "o\u0308o\u0308ff",
        "\u0301",
        " \u0301 a",
    ),
    *("İSTANBUL i̇stanbul", "ΌΔΟΣ ΟΣ. ΟΣ' ΟΣa", "STRASSE straße ẞ", "Ǆǅǆ", "ŉ ǰ ΐ", "ﬀ ﬃ ﬆ"),
]
QUOTES = [
    *("it's It'S 'S 'ſ 'Re 'LL", "’s ’t ‘re", "'s't're've'm'll'd", "rock'n'roll 'tis", "a'''b", "'d'D'd"),
    *("x'sy x'ty", "''", "' s", '"\'s"', "!'s", "_'s_", "1's", "日's"),
]
SPACED = [
    *("a  b", "a   b", "  a", "a  ", "   ", " " * 100, "a" + " " * 50 + "b", " \n ", "\n\n\na\n\n", "a \n b"),
    *("a\n", "\na", "▁a", "a▁b", "▁▁▁", " ▁ a", "a ▁", "a\t\tb", "\r", "a\r\rb", " .", " , a", "a . b !"),
]
URLS = [
    *("https://example.com/a/b?c=d&e=%20f#g", "C:\\Users\\x\\file.txt", "user@example.com", "#tag @name"),
    *("\\u0041 \\x41 &amp; &#x41;", "<|im_start|>user", "[INST] hi [/INST]", "{{x}} {0} %s %(a)s ${b}"),
    *("SELECT * FROM t; --", "```py\nx = 1\n```", "(masterpiece:1.4), [low quality]::2, ((fox))", "a|b|c"),
    *("1,234,567.89 1e-10 0x1F ٣٫١٤", "--ar 16:9 --v 6", "fox,dog;cat.bird", "…....!!!???", "―—–-"),
]


def prompts() -> list[str]:
    """Texts of a few hundred characters at most."""
    rng = random.Random(3)
    return [
        *ODD,
        *PLAIN,
        *_around_special(),
        *("".join(rng.choices(LETTERS, k=rng.randint(1, 30))) for _ in range(60)),
        *(" ".join(rng.choices(WORDS + SPECIAL, k=rng.randint(1, 20))) for _ in range(40)),
        *("x" * 100, "snow " * 60),
        *_in_scripts(),
        *EMOJI,
        *_around(INVISIBLE),
        *_around(SPACES),
        *PRIVATE,
        *_around(PRIVATE),
        *MARKS,
        *QUOTES,
        *SPACED,
        *URLS,
        *_templates(),
        *("".join(rng.choices(_everything(), k=rng.randint(1, 40))) for _ in range(60)),
        *("".join(rng.choice([*WORDS, *SPACES, *SPECIAL, " ", " "]) for _ in range(30)) for _ in range(20)),
    ]


def _around_special() -> Iterator[str]:
    for token in SPECIAL:
        yield from (token, f"a {token} b", f"a{token}b", f" {token}{token} ", token.upper(), token[:-1])
        yield from (f"{token} a", f"a {token}", f"\n{token}\n", f"<{token}>", f"日{token}  {token} .")


def _in_scripts() -> Iterator[str]:
    for text in SCRIPTS.values():
        yield text
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            changed = unicodedata.normalize(form, text)
            if changed != text:
                yield changed
        if text.upper() != text:
            yield text.upper()


def _around(marks: list[str]) -> Iterator[str]:
    for mark in marks:
        yield f"red{mark}fox {mark} runs{mark}{mark}"
        yield f"{mark}a"


def _templates() -> Iterator[str]:
    template = "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video:<|eot_id|>{}<|eot_id|>"
    for text in ("A red fox.", "", " ", "\n", "日本 🦊", "<|eot_id|>", "{}", "x" * 40):
        yield template.format(text)
        yield f"<|begin_of_text|>{template.format(text)}\n\n"


def _everything() -> list[str]:
    return [*"".join(SCRIPTS.values()), *INVISIBLE, *SPACES, *PRIVATE, *LETTERS, *"".join(EMOJI), *"'’!<>|"]


def long_prompts() -> list[str]:
    """Texts of 100 kB."""
    rng = random.Random(4)
    return [
        "a red fox runs through the snow, " * 3100,
        *("x" * 100_000, " " * 100_000, "🦊" * 25_000, "日本語" * 11_000, "<extra_id_1> </s>" * 6000),
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=100_000)),
        "".join(rng.choices(_everything(), k=30_000)),
    ]
