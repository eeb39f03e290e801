"""The tags of a file, and the label of GB 45438-2025."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.errors import Refused
from vidgen_dist.media.tags import check_tags
from vidgen_dist.provenance import MAX_PRODUCER, aigc_label, check_producer, provenance_tags

FINGERPRINT = "0123456789abcdef" * 4
ROW: dict[str, Any] = {
    "id": "row-1",
    "model": "THUDM/CogVideoX-2b",
    "revision": "1137dacfc2c9c012bed6a0793f4ecf2ca8e7ba01",
    "seed": 7,
    "fingerprint": FINGERPRINT,
}

# Any code point, lone surrogates too.
texts = st.text(st.characters(), min_size=1, max_size=60) | st.sampled_from(
    [
        "a/b",
        "..",
        "a\nb",
        "a\0b",
        "50%",
        "%0A",
        "🎬",
        "x" * 1000,
        "🎬" * 1000,
        "\ud800",
        "a=b;c#d\\e",
        ' " ',
        "\x9f",
    ]
)


def test_a_row_of_a_hub_model() -> None:
    assert provenance_tags(**ROW) == {**ROW, "seed": "7"}


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/home/alice/models/CogVideoX-2b", "CogVideoX-2b"),
        ("/home/alice/models/CogVideoX-2b/", "CogVideoX-2b"),
        ("models/mine", "mine"),
        ("../mine/.", "mine"),
        ("~/mine", "mine"),
        ("C:\\Users\\alice\\mine", "mine"),
        ("mine", "mine"),
    ],
)
def test_a_folder_is_told_by_its_name(model: str, told: str) -> None:
    tags = provenance_tags(**{**ROW, "model": model, "revision": None})
    assert tags == {"id": "row-1", "model": told, "seed": "7", "fingerprint": FINGERPRINT}


@pytest.mark.parametrize("model", [".", "..", "/", "~", "./"])
def test_a_folder_without_a_name_is_not_told(model: str) -> None:
    assert "model" not in provenance_tags(**{**ROW, "model": model, "revision": None})


@given(texts)
def test_any_id_can_be_written_and_comes_back(row_id: str) -> None:
    told = check_tags(provenance_tags(**{**ROW, "id": row_id}, aigc_producer="ACME"))["id"]
    assert unquote(told, errors="surrogatepass") == row_id


def test_ids_stay_readable() -> None:
    assert provenance_tags(**{**ROW, "id": "Zoë's cat / take 2 🎬"})["id"] == "Zoë's cat / take 2 🎬"
    assert provenance_tags(**{**ROW, "id": "a\n50%"})["id"] == "a%0A50%25"


def test_no_seed_no_tag() -> None:
    assert "seed" not in provenance_tags(**{**ROW, "seed": None})
    assert provenance_tags(**{**ROW, "seed": 0})["seed"] == "0"


def test_the_label_has_the_fields_of_the_standard_in_their_order() -> None:
    label = provenance_tags(**ROW, aigc_producer="001191440300708461136T1XGW3")["AIGC"]
    assert list(json.loads(label).items()) == [
        ("Label", "1"),
        ("ContentProducer", "001191440300708461136T1XGW3"),
        ("ProduceID", f"row-1/{FINGERPRINT}"),
        ("ReservedCode1", ""),
        ("ContentPropagator", "001191440300708461136T1XGW3"),
        ("PropagateID", f"row-1/{FINGERPRINT}"),
        ("ReservedCode2", ""),
    ]


@given(texts)
def test_numbers_are_of_the_characters_that_the_standard_wants(number: str) -> None:
    told = json.loads(aigc_label("ACME", number))["ProduceID"]
    assert re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", told)
    assert unquote(told, errors="surrogatepass") == number


def test_a_name_stands_in_the_label_as_it_is() -> None:
    label = aigc_label("羽飞科技（广西）有限责任公司", "1")
    assert '"ContentProducer":"羽飞科技（广西）有限责任公司"' in label


@pytest.mark.parametrize(
    "name", ["", " ", " ACME", "ACME\n", "A\tB", 'A"B', "A\\B", "A\x00", "\ud800", "x" * (MAX_PRODUCER + 1)]
)
def test_producers_refused(name: str) -> None:
    with pytest.raises(Refused, match=r"aigc_producer: .* is not allowed; allowed: 1 to 200 printable"):
        provenance_tags(**ROW, aigc_producer=name)


def test_a_producer_is_checked_alone() -> None:
    assert check_producer("ACME Video Ltd.") == "ACME Video Ltd."
