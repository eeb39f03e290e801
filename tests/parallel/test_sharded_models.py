"""Models with sharded weights give what they give with whole ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.families.cogvideox.test_transformer import pieces_of
from tests.families.cogvideox.test_transformer import run as run_transformer
from tests.parallel.ranks import Ranks
from tests.references import case
from vidgen_dist import nn
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.encoders.t5 import T5Encoder
from vidgen_dist.families.cogvideox.config import TransformerConfig
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.weights.load import load_weights


def shared_and_whole(
    mesh: Mesh,
    name: str,
    component: str,
    make: Callable[[Mapping[str, Any]], nn.Module],
    run: Callable[[Any], np.ndarray],
) -> tuple[list[bytes], list[bytes]]:
    """The results of two runs of a case's model, with sharded weights and with whole ones."""
    folder = case(name).checkpoint / component
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    outputs = []
    for shared_by in (mesh, None):
        model = make(config)
        rename = getattr(model, "own_key", None)
        load_weights(model, folder, variant=case(name).variant, rename=rename, mesh=shared_by)
        outputs.append([run(model).tobytes() for _ in range(2)])
    return outputs[0], outputs[1]


def transformers(mesh: Mesh, name: str) -> tuple[list[bytes], list[bytes]]:
    inputs = pieces_of(name, "first")
    return shared_and_whole(
        mesh,
        name,
        "transformer",
        lambda raw: CogVideoXTransformer3DModel(TransformerConfig.read(raw)),
        lambda model: run_transformer(model, inputs),
    )


def text_encoders(mesh: Mesh, name: str) -> tuple[list[bytes], list[bytes]]:
    # Another prompt on each rank.
    prompt = ("prompt", "negative_prompt")[mesh.rank % 2]
    ids = case(name).pieces[f"text_encoder.{prompt}.input_ids"]
    return shared_and_whole(
        mesh,
        name,
        "text_encoder",
        lambda raw: T5Encoder(T5Config.read(raw)),
        lambda model: nn.to_numpy(model(nn.from_numpy(ids))),
    )


@pytest.mark.parametrize("body", [transformers, text_encoders])
@pytest.mark.parametrize(
    ("name", "degrees"), [("5b", Degrees(2)), ("1.5-i2v", Degrees(3)), ("2b", Degrees(3))]
)
def test_models_give_what_they_give_with_whole_weights_bit_for_bit(
    ranks: Ranks, body: Any, name: str, degrees: Degrees
) -> None:
    for shared, whole in ranks.run(body, name, degrees=degrees):
        assert shared == whole
