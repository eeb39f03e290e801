"""`vidgen plan`: what it prints, and what it refuses."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from tests import references
from tests.commands import Vidgen

CHECKPOINT = references.case("5b").checkpoint


@pytest.fixture
def plan(vidgen: Vidgen) -> Vidgen:
    """Runs `vidgen plan`."""
    return functools.partial(vidgen, "plan")


def test_tables(plan: Vidgen) -> None:
    ran = plan("--model", CHECKPOINT, "--npus", "4")
    assert ran.status == 0, ran.err
    for said in ("transformer", "text_encoder", "A rank holds", "What a rank sends in a step", "videos/h"):
        assert said in ran.out
    assert "smallest gang whose ranks fit into 64.0 GiB each: 1" in ran.out
    assert "take 4 gangs of 1 (ulysses 1, ring 1, cfg 1)" in ran.out
    assert "…" not in ran.out


def test_json(plan: Vidgen) -> None:
    ran = plan("--model", CHECKPOINT, "--npus", "4", "--rows", "1", "--device-name", "A3", "--json")
    found = json.loads(ran.out)
    assert (found["device"]["name"], found["npus"], found["rows"]) == ("A3", 4, 1)
    assert found["dtype"] == "bfloat16"
    for part in found["components"]:
        assert part["bytes"] == 2 * part["parameters"]
    assert found["splits"][0] == found["chosen"]
    for split in found["splits"]:
        assert split["gang"] == split["ulysses"] * split["ring"] * split["cfg"]
        assert split["replicas"] == 4 // split["gang"]
        memory = split["memory"]
        assert memory["peak"] == sum(memory["weights"].values()) + max(memory["stages"].values())
    assert {split["gang"] for split in found["splits"]} == {1, 2, 4}


def test_run_file(plan: Vidgen, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(
        f"model: {{id: {CHECKPOINT}}}\n"
        "manifest: {uri: none.parquet}\noutput: {uri: none}\n"
        "topology: {device: cpu, replicas: 3, ulysses: 2, memory: 2GiB}\n"
        "sampling: {num_inference_steps: 5}\n"
    )
    found = json.loads(plan(run, "--json").out)
    assert (found["device"]["name"], found["npus"], found["memory"]) == ("CPU", 6, 2 * 2**30)
    assert found["video"]["steps"] == 5
    asked = found["asked"]
    assert (asked["replicas"], asked["ulysses"], asked["gang"]) == (3, 2, 2)
    assert "the run asks for 3 gangs of 2" in plan(run).out
    assert json.loads(plan(run, "--set", "num_inference_steps=7", "--json").out)["video"]["steps"] == 7


def test_tiles_are_looked_at(plan: Vidgen, tmp_path: Path) -> None:
    """Those of a checkpoint of whose samples tiles can be made; else it is refused."""
    whole = json.loads(plan("--model", CHECKPOINT, "--json").out)
    assert whole["video"]["vae_tiles"] is None
    ran = plan("--model", CHECKPOINT, "--vae-tiling")
    assert ran.status == 2
    assert "do not meet on the grid" in ran.err
    large = references.case("5b").copy_checkpoint(tmp_path)
    references.edit_json(large / "vae" / "config.json", sample_height=96, sample_width=80)
    flags = ("--model", large, "--vae-tiling", "--set", "height=64", "--set", "width=64")
    tiled = json.loads(plan(*flags, "--json").out)
    assert tiled["video"]["vae_tiles"] == {
        "height": 48,
        "width": 40,
        "stride_height": 40,
        "stride_width": 32,
    }


def test_the_scheduler_is_looked_at(plan: Vidgen) -> None:
    few = ("--scheduler", "num_train_timesteps=20")
    ran = plan("--model", CHECKPOINT, *few)
    assert ran.status == 2
    assert "num_inference_steps: 50 is not allowed; a whole number from 1 to" in ran.err
    assert plan("--model", CHECKPOINT, *few, "--set", "num_inference_steps=20").status == 0


def test_npus_of_a_host_are_divided_where_nothing_says_how_many(plan: Vidgen) -> None:
    assert json.loads(plan("--model", CHECKPOINT, "--json").out)["npus"] == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--memory", "64"], "topology.memory"),
        (["--memory", "much"], "such as 64GB"),
        (["--device-name", "H100"], "'H100' is not allowed; one of 910B, A3, CPU"),
        (["--gang", "4", "--ulysses", "2"], "ulysses 2 * ring 1 * cfg 1 are 2 ranks"),
        (["--npus", "4", "--ulysses", "8"], "need 8 NPUs, and there are 4"),
        (["--npus", "4", "--replicas", "4", "--ulysses", "2"], "allowed: at most 2 replicas of it"),
        (["--npus", "0"], "topology.npus"),
        (["--set", "height=33"], "sampling.height"),
        (["--set", "frames=9"], "sampling.frames: unknown field"),
        (["--memory", "1MB"], "No gang of up to 8 ranks fits"),
        (["--memory", "1MB", "--ulysses", "2"], "does not fit into the memory given"),
        (
            ["--memory", "5500kB", "--device-name", "CPU", "--replicas", "4"],
            "does not fit into the memory given",
        ),
        (["--dtype", "bfloat16", "--device-name", "CPU"], "float32"),
        (["--task", "image-to-video"], "is not supported by this checkpoint"),
    ],
)
def test_refused(plan: Vidgen, arguments: list[str], told: str) -> None:
    ran = plan("--model", CHECKPOINT, *arguments)
    assert ran.status == 2
    assert told in ran.err
    assert not ran.out


def test_nothing_to_plan(plan: Vidgen) -> None:
    ran = plan()
    assert ran.status == 2
    assert "vidgen plan RUN.YAML, or vidgen plan --model MODEL" in ran.err
