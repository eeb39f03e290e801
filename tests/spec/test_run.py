"""Dotted keys, as flags give them, and YAML make one spec."""

from __future__ import annotations

import pytest

from tests.spec.examples import FULL, MINIMAL
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.sampling import check_sampling
from vidgen_dist.spec import RunSpec, parse_spec, spec_from_flags


def test_flags_and_yaml_give_the_same_spec() -> None:
    text = "model: {id: m}\nmanifest: {uri: rows.parquet}\noutput: {uri: out}\nsampling: {num_frames: 9}\n"
    flags = {"model.id": "m", "manifest.uri": "rows.parquet", "output.uri": "out", "sampling.num_frames": 9}
    assert spec_from_flags(flags) == parse_spec(text, "run.yaml")


def test_flags_override_yaml() -> None:
    spec = parse_spec(FULL, "run.yaml").override({"topology.replicas": 8, "sampling.num_frames": 13})
    assert spec.topology.replicas == 8
    assert spec.topology.device == "cpu"
    assert spec.sampling == {"num_frames": 13, "guidance_scale": 6.0}


def test_a_flag_may_be_deep() -> None:
    spec = parse_spec(FULL, "run.yaml").override({"topology.watchdog.denoise": 5})
    assert (spec.topology.watchdog.denoise, spec.topology.watchdog.load) == (5, 7200.5)
    assert spec_from_flags({**MINIMAL, "topology.watchdog.write": 9}).topology.watchdog.write == 9
    with pytest.raises(Refused, match=r"topology\.watchdog\.wirte: .* mean topology\.watchdog\.write\?"):
        spec.override({"topology.watchdog.wirte": 5})
    with pytest.raises(Refused, match=r"command line: model\.id\.x: unknown key; id is a value"):
        spec.override({"model.id.x": 5})


def test_settings_of_the_scheduler() -> None:
    """A mapping, of which flags replace the keys that they have."""
    text = FULL.replace(
        "  dtype:", "  scheduler: {_class_name: A, clip: false, sigma: null, b: [1, 2.0]}\n  dtype:"
    )
    spec = parse_spec(text, "run.yaml")
    assert spec.model.scheduler == {"_class_name": "A", "clip": False, "sigma": None, "b": [1, 2]}
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec
    over = spec.override({"model.scheduler.clip": True, "model.scheduler.c.d": 3.5})
    assert over.model.scheduler == {**spec.model.scheduler, "clip": True, "c.d": 3.5}
    flags = {**MINIMAL, "model.scheduler.clip": True}
    assert spec_from_flags(flags).model.scheduler == {"clip": True}
    assert spec_from_flags(MINIMAL).override({"model.scheduler.a": 1}).model.scheduler == {"a": 1}
    assert spec.override({"model.scheduler": None}).model == parse_spec(FULL, "run.yaml").model
    with pytest.raises(Refused, match=r"command line: model\.revision\.x: unknown key; revision is a value"):
        spec_from_flags({**MINIMAL, "model.revision": "r"}).override({"model.revision.x": 1})


def test_defaults_are_a_local_run() -> None:
    spec = spec_from_flags({"model.id": "m", "manifest.uri": "a", "output.uri": "b"})
    assert isinstance(spec, RunSpec)
    assert spec.topology.address is None
    assert spec.topology.replicas == 1
    assert spec.output.format == "mp4"


def test_a_dot_in_a_setting_is_part_of_its_name() -> None:
    flags = {"model.id": "m", "manifest.uri": "a", "output.uri": "b"}
    spec = spec_from_flags({**flags, "sampling.num_frames": 9, "sampling.num_frames.x": 1})
    with pytest.raises(
        Refused, match=r"sampling\.num_frames\.x: unknown field; .* mean sampling\.num_frames\?"
    ):
        check_sampling(spec)


def test_a_wrong_flag_names_the_key() -> None:
    with pytest.raises(Refused, match=r"command line: topology\.replicas: -2 is not allowed"):
        spec_from_flags({"model.id": "m", "manifest.uri": "a", "output.uri": "b", "topology.replicas": -2})
