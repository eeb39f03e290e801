"""RunSpec: YAML and flags give one thing, and what is wrong is named with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidgen_dist.errors import Refused
from vidgen_dist.preflight.plan import check_sampling
from vidgen_dist.spec import (
    AUTO,
    FaultsOptions,
    RunSpec,
    nearest_degrees,
    parse_bytes,
    parse_seconds,
    parse_spec,
    spec_from_flags,
)
from vidgen_dist.yaml_core import Loader, read_value, write

FULL = """\
model:
  id: zai-org/CogVideoX-5b
  task: text-to-video
  revision: main
  variant: fp16
  dtype: bfloat16
manifest:
  uri: s3://bucket/rows/*.parquet
  passthrough: [source, licence]
output:
  uri: s3://bucket/out
  format: gif
  fps: 12.5
  crf: 20
topology:
  device: cpu
  replicas: 3
  address: auto
  shard_size: 4
  ulysses: 2
  ring: 3
  cfg: 2
  gang: 12
  memory: 64GB
  npus: 36
  watchdog: {denoise: 90, load: 7200.5}
sampling:
  num_frames: 49
  guidance_scale: 6.0
seed: 7
"""

MINIMAL = {"model.id": "m", "manifest.uri": "a", "output.uri": "b"}


def test_yaml_comes_back_as_it_went() -> None:
    spec = parse_spec(FULL, "run.yaml")
    assert spec.output.fps == 12.5
    assert spec.manifest.passthrough == ("source", "licence")
    assert spec.sampling == {"num_frames": 49, "guidance_scale": 6.0}
    assert spec.topology.ranks == 12
    assert spec.topology.watchdog.denoise == 90
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1e+06", 1e6),
        ("-.5E1", -5.0),
        ("12", 12),
        ("0123", 123),
        ("+0o17", "+0o17"),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        (".inf", math.inf),
        ("1.", 1.0),
        ("1e", "1e"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert read_value(text) == value
    assert type(read_value(text)) is type(value)
    # A text is read back as one by either version.
    written = write({"is": text})
    assert yaml.load(written, Loader) == yaml.safe_load(written) == {"is": text}


def test_numbers_of_a_run_file() -> None:
    text = FULL.replace("guidance_scale: 6.0", "guidance_scale: 1e1").replace("seed: 7", "seed: 0123")
    spec = parse_spec(text.replace("revision: main", "revision: '12345e67'"), "run.yaml")
    assert (spec.sampling["guidance_scale"], spec.seed) == (10.0, 123)
    check_sampling(spec)
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec
    with pytest.raises(Refused, match="line 30: seed: '1:30' is not allowed"):
        parse_spec(FULL.replace("seed: 7", "seed: 1:30"), "run.yaml")


def test_what_decides_no_pixels_of_the_output() -> None:
    text = "model: {id: m}\nmanifest: {uri: a}\n"
    text += "output: {uri: b, reject: [black, blown-out], aigc_producer: 机器}\n"
    spec = parse_spec(text, "run.yaml")
    assert (spec.output.reject, spec.output.aigc_producer) == (("black", "blown-out"), "机器")
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec
    with pytest.raises(Refused, match=r"line 3: output\.reject\.0: 'dark' is not allowed; .* black, frozen"):
        parse_spec(text.replace("black", "dark"), "run.yaml")
    with pytest.raises(Refused, match=r"line 3: output\.aigc_producer: .*1 to 200 printable characters"):
        parse_spec(text.replace("机器", "' 机器'"), "run.yaml")


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


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("  variant:", "  varient:", ["line 5", "model.varient", "did you mean model.variant?"]),
        ("topology:", "topologie:", ["line 15", "topologie", "did you mean topology?", "sampling"]),
        ("  format: gif", "  format: avi", ["line 12", "output.format", "'avi'", "'mp4'", "'npy'"]),
        (
            "  replicas: 3",
            "  replicas: 0",
            ["line 17", "topology.replicas", "integer from 1 to 100000, or auto"],
        ),
        ("  replicas: 3", "  replicas: 2.5", ["line 17", "topology.replicas", "2.5"]),
        ("  replicas: 3", "  replicas: yes", ["line 17", "topology.replicas", "True", "integer"]),
        ("  replicas: 3", "  replicas: all", ["line 17", "topology.replicas", "'all'", "or auto"]),
        (
            "  replicas: 3",
            "  replicas: auto",
            ["line 15", "topology.replicas: auto chooses the gang as well"],
        ),
        ("  ulysses: 2", "  ulysses: 0", ["line 20", "topology.ulysses", "greater than or equal to 1"]),
        ("  cfg: 2", "  cfg: 3", ["line 22", "topology.cfg", "less than or equal to 2"]),
        (
            "  gang: 12",
            "  gang: 8",
            ["topology.gang: 8", "ulysses 2 * ring 3 * cfg 2 are 12 ranks", "ulysses 2, ring 2, cfg 2"],
        ),
        ("  memory: 64GB", "  memory: 64 giga", ["line 24", "topology.memory", "'64 giga'", "such as 64GB"]),
        ("denoise: 90", "denois: 90", ["line 26", "did you mean topology.watchdog.denoise?"]),
        ("denoise: 90", "denoise: 0", ["line 26", "topology.watchdog.denoise", "greater than 0"]),
        ("  fps: 12.5", "  fps: on", ["line 13", "output.fps", "True", "number"]),
        (
            "seed: 7",
            "faults: {max_failures: 5 rows}",
            ["line 30", "faults.max_failures", "'5 rows'", "a share of them from 0% to 100%"],
        ),
        (
            "seed: 7",
            "faults: {bad_rows: skip}",
            ["line 30", "faults.bad_rows", "'skip'", "'refuse' or 'fail'"],
        ),
        ("seed: 7", "faults: {max_failures: 101%}", ["line 30", "faults.max_failures", "'101%'"]),
        ("seed: 7", "faults: {max_failures: -1}", ["line 30", "faults.max_failures", "-1"]),
        ("seed: 7", "faults: {max_failures: true}", ["line 30", "faults.max_failures", "True"]),
        ("seed: 7", "faults: {max_failures: 1.5}", ["line 30", "faults.max_failures", "1.5"]),
        ("seed: 7", "faults: {grace: 30}", ["line 30", "faults.grace", "30 is not allowed"]),
        ("seed: 7", "faults: {grace: 30 days}", ["line 30", "faults.grace", "such as 30s or 10m"]),
        ("seed: 7", "faults: {max_attempts: 0}", ["line 30", "faults.max_attempts", "equal to 1"]),
        ("seed: 7", "seed: true", ["line 30", "seed", "True", "integer"]),
        ("[source, licence]", "source", ["line 9", "manifest.passthrough", "'source'", "a list"]),
        ("seed: 7", "sampling2:", ["line 30", "did you mean sampling?"]),
        ("  id: zai-org/CogVideoX-5b", "  id: {{ model }}", ["line 2", "quotes"]),
        ("seed: 7", "? [a, b]\n: 7", ["line 30", "a key is a text"]),
        ("  crf: 20", "  crf: 52", ["line 14", "output.crf", "less than or equal to 51"]),
        ("  fps: 12.5", "  fps: 0", ["line 13", "output.fps"]),
        ("  task: text-to-video", "  task: text-to-film", ["line 3", "model.task", "'image-to-video'"]),
        ("[source, licence]", "[source, 3]", ["line 9", "manifest.passthrough.1"]),
        ("seed: 7", "seed: -1", ["line 30", "seed", "-1"]),
        ("seed: 7", "seed: 7\nseed: 8", ["line 31", "seed is given twice"]),
        ("  revision: main", "  id: other", ["line 4", "model.id is given twice"]),
        ("  dtype: bfloat16", "  scheduler: DDIM", ["line 6", "model.scheduler", "'DDIM'", "a mapping"]),
        (
            "  dtype: bfloat16",
            "  scheduler: {a: {b: 1}}",
            ["line 6", "model.scheduler.a: {'b': 1}", "a list"],
        ),
        ("  dtype: bfloat16", "  scheduler: {a: .nan}", ["line 6", "model.scheduler.a: nan", "finite"]),
        ("  dtype: bfloat16", "  scheduler: {3: 4}", ["line 6", "model.scheduler.3", "string"]),
        ("seed: 7", "seed: [7", ["line 31", "not YAML"]),
        ("seed: 7", "seed: !!python/name:os.system x", ["line 30", "not YAML"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(before: str, after: str, parts: list[str]) -> None:
    assert before in FULL
    with pytest.raises(Refused) as refused:
        parse_spec(FULL.replace(before, after), "jobs/run.yaml")
    for part in ["jobs/run.yaml", *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("gang", "given", "nearest"),
    [
        (8, (2, 2, 1), (4, 2, 1)),
        (8, (1, 1, 1), (8, 1, 1)),
        (4, (6, 1, 2), (2, 1, 2)),
        (7, (1, 1, 2), (7, 1, 1)),
        (1, (4, 2, 2), (1, 1, 1)),
        (12, (1, 4, 2), (1, 6, 2)),
    ],
)
def test_nearest_degrees(gang: int, given: tuple[int, int, int], nearest: tuple[int, int, int]) -> None:
    assert nearest_degrees(gang, *given) == nearest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64GB", 64 * 10**9),
        ("64 gib", 64 * 2**30),
        ("1.5KB", 1500),
        ("2TB", 2 * 10**12),
        ("0.5MiB", 2**19),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["64", "GB", "0GB", "-1GB", "64GBs", "1e3GB", "64B", ""])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="such as 64GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("given", "tried", "rows", "allowed"),
    [
        (None, 1000, 1000, math.inf),
        (0, 1000, 1000, 0),
        (7, 1, 1000, 7),
        ("5%", 1, 1000, 5),
        ("5%", 1000, 10_000, 50),
        ("2.5 %", 1, 40, 1),
        ("0%", 1000, 1000, 0),
    ],
)
def test_failures_that_a_run_puts_up_with(given: Any, tried: int, rows: int, allowed: float) -> None:
    assert FaultsOptions(max_failures=given).failures_allowed(tried, rows) == allowed


@pytest.mark.parametrize(
    ("given", "tried", "rows", "bad", "allowed"),
    [
        (None, 0, 0, 1000, math.inf),
        (7, 0, 100, 7, 0),
        (7, 0, 100, 8, -1),
        ("100%", 0, 0, 10, 0),
        ("99%", 0, 0, 100, -1),
        ("29%", 0, 71, 29, 0),
        # Four of a hundred are bad: of the others, about one of a hundred may fail.
        ("5%", 1000, 9600, 400, 1000 / 96),
        ("5%", 9600, 9600, 400, 100),
        ("4%", 1000, 9600, 400, 0),
    ],
)
def test_bad_rows_count_as_failures(given: Any, tried: int, rows: int, bad: int, allowed: float) -> None:
    assert FaultsOptions(max_failures=given).failures_allowed(tried, rows, bad) == pytest.approx(allowed)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("0s", 0), ("1.5 m", 90), ("2h", 7200)])
def test_spans(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_auto_stands_alone() -> None:
    flags = {**MINIMAL, "topology.replicas": "auto"}
    spec = spec_from_flags(flags)
    assert spec.topology.replicas == AUTO
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec
    for key in ("topology.ulysses", "topology.ring", "topology.cfg", "topology.gang"):
        with pytest.raises(Refused, match=r"command line: topology\.replicas: auto chooses the gang as well"):
            spec_from_flags({**flags, key: 2})


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        parse_spec("model: {idd: x}\nmanifest: {uri: 3}\n", "run.yaml")
    lines = str(refused.value).splitlines()
    assert any("model.id is missing" in line for line in lines)
    assert any("model.idd" in line and "did you mean model.id?" in line for line in lines)
    assert any("manifest.uri" in line for line in lines)
    assert any("output is missing" in line for line in lines)


@pytest.mark.parametrize("key", ["topology", "sampling"])
def test_a_key_without_values(key: str) -> None:
    with pytest.raises(Refused, match=f"line 4: {key}: None is not allowed; it should be a mapping"):
        parse_spec(f"model: {{id: m}}\nmanifest: {{uri: a}}\noutput: {{uri: b}}\n{key}:\n", "run.yaml")


def test_yaml_that_holds_itself() -> None:
    with pytest.raises(Refused, match=r"run\.yaml: not YAML"):
        parse_spec("sampling: &a {x: *a}\n", "run.yaml")


def test_a_dot_in_a_setting_is_part_of_its_name() -> None:
    flags = {"model.id": "m", "manifest.uri": "a", "output.uri": "b"}
    spec = spec_from_flags({**flags, "sampling.num_frames": 9, "sampling.num_frames.x": 1})
    with pytest.raises(Refused, match=r"sampling\.num_frames\.x is no field .* mean sampling\.num_frames\?"):
        check_sampling(spec)


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "3"])
def test_a_text_that_is_no_mapping(text: str) -> None:
    with pytest.raises(Refused, match=r"run\.yaml: a run spec is a mapping"):
        parse_spec(text, "run.yaml")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(Refused, match=r"run\.yaml: not a YAML text in UTF-8"):
        parse_spec(b"PAR1\xff\xfe", "run.yaml")


def test_a_wrong_flag_names_the_key() -> None:
    with pytest.raises(Refused, match=r"command line: topology\.replicas: -2 is not allowed"):
        spec_from_flags({"model.id": "m", "manifest.uri": "a", "output.uri": "b", "topology.replicas": -2})


JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_run_files_to_copy(path: Path) -> None:
    spec = parse_spec(path.read_bytes(), str(path))
    check_sampling(spec)
    assert spec.output.uri == f"out/{path.stem}"


def test_there_are_run_files() -> None:
    assert JOBS
