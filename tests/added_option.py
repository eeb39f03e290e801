"""Declares two more options of models, uses them in the autoencoder alone, and prints how far they get.

    python -m tests.added_option CHECKPOINT MANIFEST OUTPUT

It is a process of its own: the declarations must be there before anything else is imported.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from typer.main import get_command

from vidgen_dist import spec
from vidgen_dist.spec import Option


class ModelOptions(spec.ModelOptions):
    """Has an option that decides pixels, and one that does not."""

    sharpness: Annotated[float, Option("--sharpness", "How sharp.", pixels=True)] = 1.0
    stickers: Annotated[tuple[spec.Text, ...], Option("--stickers", "Which.", commands=("render",))] = ()


class RunSpec(spec.RunSpec):
    """Has that model."""

    model: ModelOptions


vars(spec).update(ModelOptions=ModelOptions, RunSpec=RunSpec)


def commands_with_flags() -> dict[str, list[str]]:
    """Flag -> commands of `vidgen` that have it."""
    from vidgen_dist import cli

    commands: Any = get_command(cli.app)
    return {
        flag: [n for n, c in commands.commands.items() if any(flag in p.opts for p in c.params)]
        for flag in ("--sharpness", "--stickers")
    }


def spec_of(*arguments: str) -> RunSpec:
    """The spec that `vidgen render` makes of its arguments."""
    from vidgen_dist import cli

    class Stop(Exception):
        """Raised instead of rendering."""

    def stop(made: RunSpec) -> None:
        raise Stop(made)

    cli.run = stop
    try:
        get_command(cli.app).main(["render", *arguments], standalone_mode=False)
    except Stop as stopped:
        return stopped.args[0]
    raise AssertionError("nothing was rendered")


def loaded_with(model: ModelOptions) -> list[Any]:
    """What the autoencoder of a model that is loaded is told."""
    from vidgen_dist.families.common.autoencoder import VideoAutoencoder
    from vidgen_dist.runtime import engine

    told: list[Any] = []
    VideoAutoencoder.configure = lambda _, options: told.append([options.sharpness, options.stickers])
    engine.load(model, "cpu", 1, None)
    return told


def main(checkpoint: str, manifest: str, output: str) -> None:
    """Print it as JSON."""
    from vidgen_dist.runtime.engine import ENGINE
    from vidgen_dist.runtime.plan import load_spec, make_plan, write_run_file

    arguments = (manifest, output, "--model", checkpoint, "--device", "cpu")
    plain = make_plan(spec_of(*arguments), device="cpu", engine=ENGINE)
    given = spec_of(*arguments, "--sharpness", "2.5", "--stickers", "a,b", "--stickers", "c")
    plan = make_plan(given, device="cpu", engine=ENGINE)
    write_run_file(plan)
    read: Any = load_spec(plan.output.uri("run.yaml")).model
    found = {
        "flags": commands_with_flags(),
        "run_file": [read.sharpness, read.stickers],
        "fingerprint": dict(plan.identity.options),
        "fingerprint_without": dict(plain.identity.options),
        "loader": loaded_with(plan.decided.model),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
