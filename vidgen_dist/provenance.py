"""Provenance: what a video's file says about its origin, as tags of its container.

Tags say which row and which model made the file, and nothing about the machine, the person or the folder. If
a producer is named, they also hold the implicit label that China's GB 45438-2025, in force since 2025-09-01,
requires of files with generated content.

Tags do not decide pixels and are not part of a fingerprint: a run with another producer does not render
finished videos again, and does not change their tags.
"""

from __future__ import annotations

import json
import re
import unicodedata
from urllib.parse import quote

from vidgen_dist.errors import Refused

AIGC = "AIGC"
"""The key that GB 45438-2025 names for the label."""

MAX_PRODUCER = 200
"""Characters of a producer's name or code."""

# The characters that GB 45438-2025, annex E, allows: 0x21, 0x23 to 0x5B, 0x5D to 0x7E; `quote` keeps letters,
# digits and "_.-~" anyway. The percent sign is left out, because it marks escapes.
_LABEL_SAFE = "!#$&'()*+,/:;<=>?@[]^`{|}"
# Also that of Windows: "C:\models\x".
_SEPARATOR = re.compile(r"[/\\]")


def provenance_tags(
    *,
    id: str,
    model: str,
    revision: str | None,
    seed: int | None,
    fingerprint: str,
    aigc_producer: str | None = None,
) -> dict[str, str]:
    """The tags of a row's file, for `media.write_video`.

    Characters that no container holds safely (control characters, lone surrogates) and the percent sign are
    percent-encoded as UTF-8; `urllib.parse.unquote(value, errors="surrogatepass")` gives the text back.

    Args:
        id: The row's id.
        model: Hub id, or the folder of a local checkpoint; only the folder's own name is written.
        revision: The commit of a hub id; None for a folder, and then there is no such tag.
        seed: The row's seed; None if no noise is drawn.
        fingerprint: Digest of everything that decides the pixels.
        aigc_producer: Name or code of the provider of the generating service; None for no label.

    Returns:
        Tag -> value: `id`, `model`, `revision`, `seed`, `fingerprint`, and with a producer `AIGC`.

    Raises:
        Refused: A producer that `check_producer` refuses.
    """
    tags = {"id": id, "model": shown_model(model, revision), "revision": revision, "fingerprint": fingerprint}
    written = {key: _escaped(value) for key, value in tags.items() if value}
    if seed is not None:
        written["seed"] = str(seed)
    if aigc_producer is not None:
        written[AIGC] = aigc_label(aigc_producer, f"{id}/{fingerprint}")
    return written


def aigc_label(producer: str, produce_id: str) -> str:
    """The implicit label of GB 45438-2025, annex E, as the JSON text that goes under the key `AIGC`.

    - `Label`: "1", the content is generated ("2" means possibly generated, "3" suspected to be).
    - `ContentProducer`: name or code of the service that generated it.
    - `ProduceID`: the producer's own number for the content, percent-encoded into the characters that the
      annex allows.
    - `ContentPropagator`, `PropagateID`: who distributes it, and their number for it; when the label is first
      written, the same as the producer's.
    - `ReservedCode1`, `ReservedCode2`: for whatever a producer or propagator protects the label with, such as
      a signature; empty.

    Args:
        producer: Name or code of the service.
        produce_id: Any text.

    Raises:
        Refused: A producer that `check_producer` refuses.
    """
    check_producer(producer)
    number = quote(produce_id, safe=_LABEL_SAFE, errors="surrogatepass")
    label = {
        "Label": "1",
        "ContentProducer": producer,
        "ProduceID": number,
        "ReservedCode1": "",
        "ContentPropagator": producer,
        "PropagateID": number,
        "ReservedCode2": "",
    }
    return json.dumps(label, ensure_ascii=False, separators=(",", ":"))


def check_producer(name: str) -> str:
    """The name itself, if a label can hold it unchanged.

    Raises:
        Refused: It is empty, begins or ends with a space, is longer than `MAX_PRODUCER` or holds a quote, a
            backslash or an unprintable character.
    """
    printable = name.isprintable() and not set(name) & set('"\\')
    if not printable or name != name.strip() or not 1 <= len(name) <= MAX_PRODUCER:
        raise Refused(
            f"aigc_producer: {name[:MAX_PRODUCER]!r} is not allowed; allowed: 1 to {MAX_PRODUCER} printable "
            'characters, without " and \\ and without spaces around them'
        )
    return name


def shown_model(model: str, revision: str | None) -> str:
    """A model in a form for others: a hub id, or the name of a local checkpoint's folder."""
    return model if revision is not None else _folder_name(model)


def _folder_name(model: str) -> str:
    """The last part of a path; empty if there is none, as in "." or "/"."""
    parts = [part for part in _SEPARATOR.split(model) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else ""


def _escaped(text: str) -> str:
    return "".join(_percent(c) if c == "%" or unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
