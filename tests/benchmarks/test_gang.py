"""The benchmark of gangs measures steps and exchanges, on a tiny shape."""

from __future__ import annotations

import numpy as np

from tests.benchmarks import gang
from tests.benchmarks.cogvideox import TRANSFORMER

TINY = gang.Work(
    TRANSFORMER | {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "text_embed_dim": 8},
    (2, 2, 16, 4, 6),
    3,
)


def test_all_gangs_predict_what_one_rank_predicts_and_are_measured() -> None:
    with gang.pairs(["sockets"], TINY) as started:
        (one,) = started["sockets"].ask("predict", gang.ONE, ranks=[0])
        for name in gang.GANGS:
            for predicted in started["sockets"].ask("predict", name):
                np.testing.assert_allclose(predicted, one, atol=1e-4)
        samples = gang.measure_steps(started, 2)
        exchanges = gang.measure_exchanges(started["sockets"], 1)
    assert {name: len(of_rounds) for name, of_rounds in samples.items()} == {
        gang.ONE: 2,
        "ulysses=2, sockets": 2,
        "ring=2, sockets": 2,
        "cfg=2, sockets": 2,
    }
    assert samples[gang.ONE][0].sent == 0
    # The other half of guidance gets this rank's prediction: T, C, H, W of float32.
    assert samples["cfg=2, sockets"][0].sent == 2 * 16 * 4 * 6 * 4
    assert all(sample.sent and sample.waited for sample in samples["ulysses=2, sockets"])
    assert len(list(gang.report_steps(samples))) == 4
    assert len(list(gang.report_exchanges("sockets", exchanges))) == 6
