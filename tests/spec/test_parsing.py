"""Run files: what is wrong with one is named with its line."""

from __future__ import annotations

import pytest

from tests.spec.examples import FULL
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.sampling import check_sampling
from vidgen_dist.spec import parse_spec


def test_yaml_comes_back_as_it_went() -> None:
    spec = parse_spec(FULL, "run.yaml")
    assert spec.output.fps == 12.5
    assert spec.manifest.passthrough == ("source", "licence")
    assert spec.sampling == {"num_frames": 49, "guidance_scale": 6.0}
    assert spec.topology.ranks == 12
    assert spec.topology.watchdog.denoise == 90
    assert parse_spec(spec.to_yaml(), "again.yaml") == spec


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
        ("seed: 7", "? [a, b]\n: 7", ["line 30", "a key must be a text"]),
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


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(Refused) as refused:
        parse_spec("model: {idd: x}\nmanifest: {uri: 3}\n", "run.yaml")
    lines = str(refused.value).splitlines()
    assert any("model.id is missing" in line for line in lines)
    assert any("model.idd" in line and "did you mean model.id?" in line for line in lines)
    assert any("manifest.uri" in line for line in lines)
    assert any("output is missing" in line for line in lines)


LEAST = "manifest: {uri: a}\noutput: {uri: b}\n"


@pytest.mark.parametrize("key", ["topology:", "sampling:", "faults:", "topology:\n  watchdog:"])
def test_a_part_whose_keys_are_all_comments_has_its_defaults(key: str) -> None:
    text = f"model: {{id: m}}\n{LEAST}"
    assert parse_spec(f"{text}{key}\n", "run.yaml") == parse_spec(text, "run.yaml")


@pytest.mark.parametrize("key", ["model:", "seed: 1\nmodel:"])
def test_a_needed_part_without_values(key: str) -> None:
    with pytest.raises(Refused, match="model: None is not allowed; it should be a mapping"):
        parse_spec(f"{LEAST}{key}\n", "run.yaml")


def test_yaml_that_holds_itself() -> None:
    with pytest.raises(Refused, match=r"run\.yaml: not YAML"):
        parse_spec("sampling: &a {x: *a}\n", "run.yaml")


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "3"])
def test_a_text_that_is_no_mapping(text: str) -> None:
    with pytest.raises(Refused, match=r"run\.yaml: a run spec is a mapping"):
        parse_spec(text, "run.yaml")


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(Refused, match=r"run\.yaml: not a run file, .* no YAML text in UTF-8"):
        parse_spec(b"PAR1\xff\xfe", "run.yaml")
