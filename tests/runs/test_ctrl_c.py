"""Ctrl-C, once and twice, and SIGTERM on a run in a process of its own.

Where Ctrl-C must reach Ray's processes, too, and all of them must end, the run starts its own Ray.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.util import placement_group_table

from tests.processes import descendants
from tests.runs.drivers import flags_to_attach, ledger, read_until, vidgen_render
from tests.waiting import PATIENCE, wait_until

MakeManifest = Callable[..., str]


def still_there(children: dict[int, str]) -> list[int]:
    alive = []
    for pid, started in children.items():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat[19] == started and stat[0] != "Z":
            alive.append(pid)
    return alive


def assert_all_gone(children: dict[int, str]) -> None:
    assert children, "Ray's processes were not found"
    wait_until(lambda: not still_there(children))


def assert_cluster_is_free() -> None:
    """No part of a run is left on the cluster that the tests share."""
    wait_until(lambda: ray.available_resources().get("CPU", 0) >= ray.cluster_resources()["CPU"], every=0.1)
    assert {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}


def press(process: subprocess.Popen[str]) -> None:
    """Ctrl-C: the terminal sends the signal to every process of the group."""
    os.killpg(process.pid, signal.SIGINT)


def terminate(process: subprocess.Popen[str]) -> None:
    """SIGTERM: schedulers and `kill` send it, only to the process itself."""
    process.send_signal(signal.SIGTERM)


def assert_finished_what_ran(process: subprocess.Popen[str], output: Path) -> None:
    """The run ends as interrupted, and has finished the rows that it was rendering."""
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert "stopping at once" not in rest
    assert json.loads((output / "status.json").read_text())["state"] == "interrupted"


@pytest.mark.usefixtures("local_ray")
def test_after_ctrl_c_rows_that_are_being_rendered_are_finished(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    go, output = tmp_path / "go", tmp_path / "out"
    prompts = [f"touch:{tmp_path}/began-{i} wait:{go}" for i in range(20)]
    with vidgen_render(make_manifest(*prompts), output, *flags_to_attach()) as process:
        wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, process)
        press(process)
        read_until(process, "Ctrl-C stops")
        go.touch()
        assert_finished_what_ran(process, output)
    # A worker may have begun another row before the command reached it.
    began = len(list(tmp_path.glob("began-*")))
    assert 2 <= began <= 4
    assert list(ledger(output).values()) == ["done"] * began
    assert_cluster_is_free()


def test_after_ctrl_c_workers_render_on_until_the_second_one(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """The first one reaches the workers, too, and does not end them."""
    began, go, output = tmp_path / "began", tmp_path / "go", tmp_path / "out"
    never = f"ignore-steps: wait:{tmp_path}/never"
    # So few rows that none waits behind another.
    prompts = [f"touch:{began}-a wait:{go}", *(f"touch:{began}-{i} {never}" for i in range(4))]
    with vidgen_render(make_manifest(*prompts), output, "--shard-size", "1") as process:
        wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, process)
        children = descendants(process.pid)
        press(process)
        read_until(process, "Ctrl-C stops")
        go.touch()
        wait_until(lambda: list(output.glob("videos/*/*.npy")), process)
        press(process)
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, rest
    assert "stopping at once" in rest
    assert "Traceback" not in rest
    assert ledger(output) == {"a": "done"}
    assert_all_gone(children)


@pytest.mark.usefixtures("local_ray")
def test_a_second_ctrl_c_stops_a_gang_at_once_and_keeps_finished_videos(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    began, output = tmp_path / "began", tmp_path / "out"
    never = f"ignore-steps: wait:{tmp_path}/never"
    prompts = ["one", "two", f"touch:{began} {never}", *([never] * 5)]
    flags = ["--ulysses", "2", "--replicas", "1", *flags_to_attach()]
    with vidgen_render(make_manifest(*prompts), output, *flags) as process:
        wait_until(lambda: began.exists() and len(list(output.glob("videos/*/*.npy"))) == 2, process)
        press(process)
        read_until(process, "Ctrl-C stops")
        press(process)
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, rest
    assert "stopping at once" in rest
    assert "Traceback" not in rest
    assert ledger(output) == {"a": "done", "b": "done"}
    assert_cluster_is_free()


@pytest.mark.usefixtures("local_ray")
def test_after_sigterm_rows_are_finished_within_the_grace_or_saved(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """The next run resumes the saved row, and has the time to finish the rows that it renders."""
    marks, go, later, output = tmp_path / "marks", tmp_path / "go", tmp_path / "later", tmp_path / "out"
    marks.mkdir()
    # So few rows that none waits behind another.
    prompts = [f"touch:{tmp_path}/began wait:{go}", f"mark:{marks} at:2 wait:{tmp_path}/never"]
    prompts += [f"touch:{tmp_path}/began-{i} wait:{later}" for i in range(3)]
    manifest = make_manifest(*prompts)
    flags = ["--shard-size", "1", "--set", "num_inference_steps=4", "--checkpoint-every", "100"]
    with vidgen_render(manifest, output, *flags, "--grace", "3s") as process:
        wait_until(lambda: (tmp_path / "began").exists() and len(list(marks.iterdir())) == 2, process)
        children = descendants(process.pid)
        terminate(process)
        read_until(process, "within 3s")
        go.touch()
        rest, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, rest
    assert "stopping at once" in rest
    assert ledger(output) == {"a": "done"}
    assert [file.name for file in (output / "scratch").iterdir()] == ["b.state"]
    assert_all_gone(children)
    with vidgen_render(manifest, output, *flags, *flags_to_attach()) as process:
        wait_until(lambda: len(list(tmp_path.glob("began-*"))) == 2, process)
        terminate(process)
        read_until(process, "within 20s")
        later.touch()
        assert_finished_what_ran(process, output)
    found = ledger(output)
    assert found == dict.fromkeys(found, "done")
    assert (len(found), {"a", "b"} <= found.keys()) == (4, True)
    assert_cluster_is_free()
    # Each step was done once: steps 1 and 2 by the first run's worker, 3 and 4 by the second's.
    done = sorted(mark.name.split(",")[::2] for mark in marks.iterdir())
    assert [step for step, _ in done] == ["1", "2", "3", "4"]
    assert len({pid for _, pid in done}) == 2


@pytest.mark.usefixtures("local_ray")
def test_a_driver_that_is_killed_leaves_nothing_on_the_cluster(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    began, output = tmp_path / "began", tmp_path / "out"
    prompts = ["one", f"touch:{began} ignore-steps: wait:{tmp_path}/never"]
    flags = ["--ulysses", "2", "--replicas", "1", *flags_to_attach()]
    with vidgen_render(make_manifest(*prompts), output, *flags) as process:
        wait_until(began.exists, process)
        assert ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]
        process.kill()
        process.wait()
    assert_cluster_is_free()
