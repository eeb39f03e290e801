"""Provenance: what a video's file says of itself, as tags of its container.

Tags tell which row of which model made the file, and nothing of the machine, the person or the folder. With
the name of a producer they also hold the implicit label that China's GB 45438-2025 asks of files with
generated content, in force since 2025-09-01.

Tags do not decide pixels and are no part of a fingerprint: a run with another producer renders no finished
video again, and leaves the tags of those as they are.
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

# What GB 45438-2025, annex E, wants values made of: 0x21, 0x23 to 0x5B, 0x5D to 0x7E; `quote` keeps letters,
# digits and "_.-~" anyway. The percent sign is left out, as it marks what was escaped.
_LABEL_SAFE = "!#$&'()*+,/:;<=>?@[]^`{|}"
# A drive of Windows, too: "C:\models\x".
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

    Characters that no container carries safely (control characters, lone surrogates) and the percent sign
    are percent-encoded as UTF-8; `urllib.parse.unquote(value, errors="surrogatepass")` gives the text back.

    Args:
        id: The row's.
        model: Hub id, or the folder of a local checkpoint, of which only the folder's own name is told.
        revision: The commit of a hub id; None for a folder, and then there is no such tag.
        seed: The row's; None where nothing is drawn.
        fingerprint: Digest of all that decides the pixels.
        aigc_producer: Name or code of who provides the generating service; None for no label.

    Returns:
        Tag -> value: `id`, `model`, `revision`, `seed`, `fingerprint`, and with a producer `AIGC`.

    Raises:
        Refused: A producer that `check_producer` refuses.
    """
    tags = {"id": id, "model": shown_model(model, revision), "revision": revision, "fingerprint": fingerprint}
    told = {key: _escaped(value) for key, value in tags.items() if value}
    if seed is not None:
        told["seed"] = str(seed)
    if aigc_producer is not None:
        told[AIGC] = aigc_label(aigc_producer, f"{id}/{fingerprint}")
    return told


def aigc_label(producer: str, produce_id: str) -> str:
    """The implicit label of GB 45438-2025, annex E, as the JSON text that goes under the key `AIGC`.

    - `Label`: "1", the content is generated ("2" would be possibly, "3" suspected to be).
    - `ContentProducer`: name or code of the service that generated it.
    - `ProduceID`: the producer's own number of the content, percent-encoded into the characters that the
      annex wants.
    - `ContentPropagator`, `PropagateID`: who spreads it, and their number of it; where the label is first
      written the same as the producer's.
    - `ReservedCode1`, `ReservedCode2`: free for what a producer or propagator secures the label with, such
      as a signature; empty.

    Args:
        producer: Of the service.
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
    """The name, if it can stand in a label as it is.

    Raises:
        Refused: It is empty, begins or ends with a space, is longer than `MAX_PRODUCER` or holds a quote, a
            backslash or a character that cannot be printed.
    """
    printable = name.isprintable() and not set(name) & set('"\\')
    if not printable or name != name.strip() or not 1 <= len(name) <= MAX_PRODUCER:
        raise Refused(
            f"aigc_producer: {name[:MAX_PRODUCER]!r} is not allowed; allowed: 1 to {MAX_PRODUCER} printable "
            'characters, without " and \\ and without spaces around them'
        )
    return name


def shown_model(model: str, revision: str | None) -> str:
    """A model as others may read it: a hub id, or of a local checkpoint the name of its folder."""
    return model if revision is not None else _folder_name(model)


def _folder_name(model: str) -> str:
    """The last part of a path; nothing of one that has none, such as "." or "/"."""
    parts = [part for part in _SEPARATOR.split(model) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else ""


def _escaped(text: str) -> str:
    return "".join(_percent(c) if c == "%" or unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
