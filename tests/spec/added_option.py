"""Prints how far options get that were added to a copy of the package; run by `test_options.py`.

    python added_option.py CHECKPOINT MANIFEST OUTPUT

It is copied beside the copy of the package, so that it imports that one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

import vidgen_dist
from vidgen_dist.spec import ModelOptions, RunSpec

assert Path(vidgen_dist.__file__).parents[1] == Path(__file__).parent

ARGUMENTS = {
    "model.sharpness": ("--sharpness", "2.5"),
    "model.stickers": ("--stickers", "a,b", "--stickers", "c"),
    "manifest.tags": ("--tag", "x=1", "--tag", "y=no"),
    "output.poster": ("--poster",),
    "topology.spares": ("--spares", "2"),
    "topology.watchdog.cool": ("--option", "topology.watchdog.cool=7.5"),
    "faults.patience": ("--patience", "long"),
    "note": ("--note", "for later"),
}
"""Key of each option that was added -> what a command line gives it with."""


def commands_with_flags() -> dict[str, list[str]]:
    """Flag -> commands of `vidgen` that have it."""
    from vidgen_dist import cli

    commands: Any = get_command(cli.app)
    return {
        flag: [n for n, c in commands.commands.items() if any(flag in p.opts for p in c.params)]
        for flag, *_ in ARGUMENTS.values()
    }


def spec_of(*arguments: str) -> RunSpec:
    """The spec that `vidgen render` makes of its arguments."""
    from vidgen_dist import cli
    from vidgen_dist.cli import rendering

    class Stop(Exception):
        """Raised instead of rendering."""

    def stop(made: RunSpec, _policies: None) -> None:
        raise Stop(made)

    rendering.run = stop
    try:
        get_command(cli.app).main(["render", *arguments], standalone_mode=False)
    except Stop as stopped:
        return stopped.args[0]
    raise AssertionError("nothing was rendered")


def values_in(spec: RunSpec) -> dict[str, Any]:
    """Key of each option that was added -> its value."""
    held = spec.model_dump(mode="json")
    values = {}
    for key in ARGUMENTS:
        value: Any = held
        for step in key.split("."):
            value = value[step]
        values[key] = value
    return values


def loaded_with(model: ModelOptions) -> list[Any]:
    """What the autoencoder of a model that is loaded is told."""
    from vidgen_dist import engine
    from vidgen_dist.families.common.autoencoder import VideoAutoencoder

    told: list[Any] = []
    VideoAutoencoder.configure = lambda _, options: told.append([options.sharpness, options.stickers])
    engine.load(model, "cpu", 1, None)
    return told


def main(checkpoint: str, manifest: str, output: str) -> None:
    """Print it as JSON."""
    from vidgen_dist.engine import ENGINE
    from vidgen_dist.output.run_file import load_spec, write_run_file
    from vidgen_dist.preflight.plan import make_plan, open_run
    from vidgen_dist.spec.documentation import option_rows

    arguments = (manifest, output, "--model", checkpoint, "--device", "cpu")
    plain = make_plan(*open_run(spec_of(*arguments)), device="cpu", engine=ENGINE)
    given = [text for texts in ARGUMENTS.values() for text in texts]
    plan = make_plan(*open_run(spec_of(*arguments, *given)), device="cpu", engine=ENGINE)
    write_run_file(plan.output, plan.recorded)
    found = {
        "flags": commands_with_flags(),
        "run_file": values_in(load_spec(plan.output.uri("run.yaml"))),
        "workers": values_in(plan.decided),
        "fingerprint": dict(plan.identity.options),
        "fingerprint_without": dict(plain.identity.options),
        "loader": loaded_with(plan.decided.model),
        "documentation": {row.key: [row.flag, row.default] for row in option_rows() if row.key in ARGUMENTS},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
