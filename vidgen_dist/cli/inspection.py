"""The command that says what a checkpoint or a LoRA is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidgen_dist.cli.flags import help_of
from vidgen_dist.cli.terminal import counted, print_table
from vidgen_dist.errors import Refused, listed
from vidgen_dist.spec import COMMAND_LINE

if TYPE_CHECKING:
    from vidgen_dist.weights.lora.files import LoraFile
    from vidgen_dist.weights.lora.inspection import LoraFacts


def inspect(
    place: Annotated[
        str,
        typer.Argument(
            metavar="PLACE", help="A checkpoint: hub id or folder; or a LoRA: hub id, folder, path or URI."
        ),
    ],
    *,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub id.")] = None,
    task: Annotated[str | None, typer.Option(help=f"Of a checkpoint: {help_of('model.task')}")] = None,
    variant: Annotated[str | None, typer.Option(help=f"Of a checkpoint: {help_of('model.variant')}")] = None,
    adapter: Annotated[str | None, typer.Option(help=f"Of a checkpoint: {help_of('model.adapter')}")] = None,
    model: Annotated[
        str | None, typer.Option(help="Of a LoRA: a checkpoint; say which of the LoRA's keys do not fit it.")
    ] = None,
    weight_name: Annotated[
        str | None, typer.Option(help="Of a LoRA: its file in a folder or on the hub.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a checkpoint or a LoRA is; a checkpoint's weights need not be here.

    Of a checkpoint: family, tasks, components, fields of rows, sizes, and the smallest gang on each device.

    Of a LoRA: what it was made for, what it changes, with which rank and scale.

    Examples:
        vidgen inspect zai-org/CogVideoX-5b
        vidgen inspect guoyww/animatediff-motion-lora-zoom-out
        vidgen inspect style.safetensors --model zai-org/CogVideoX-5b
    """
    from vidgen_dist.weights.checkpoint import is_checkpoint

    of_checkpoint = {"--task": task, "--variant": variant, "--adapter": adapter}
    of_lora = {"--model": model, "--weight-name": weight_name}
    # A repository may hold both: who names the LoRA's file means the LoRA.
    if weight_name is None and is_checkpoint(place, revision):
        _refuse_given(of_lora, f"{place} is a checkpoint")
        _inspect_checkpoint(place, revision, task, variant, adapter, as_json=as_json)
    else:
        _refuse_given(of_checkpoint, f"{place} is no checkpoint (it has no model_index.json)")
        _inspect_lora(place, revision, weight_name, model, as_json=as_json)


def _refuse_given(flags: Mapping[str, str | None], why: str) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise Refused(f"{COMMAND_LINE}: {', '.join(given)}: not allowed; {why}")


def _inspect_checkpoint(
    place: str,
    revision: str | None,
    task: str | None,
    variant: str | None,
    adapter: str | None,
    *,
    as_json: bool,
) -> None:
    from vidgen_dist.planner.checkpoint_facts import inspect_checkpoint
    from vidgen_dist.planner.facts_report import as_json as facts_as_json
    from vidgen_dist.planner.facts_report import summary, tables
    from vidgen_dist.spec import make_model

    given = {"id": place, "revision": revision, "task": task, "variant": variant, "adapter": adapter}
    facts = inspect_checkpoint(make_model(given, COMMAND_LINE))
    if as_json:
        print(json.dumps(facts_as_json(facts)))
        return
    for name, value in summary(facts):
        print(f"{name:<12} {value}")
    for table in tables(facts):
        print()
        print_table(table)


def _inspect_lora(
    place: str, revision: str | None, weight_name: str | None, model: str | None, *, as_json: bool
) -> None:
    from vidgen_dist.engine import unknown_lora_keys
    from vidgen_dist.spec import LoraOptions, make_model
    from vidgen_dist.weights.lora.files import open_lora
    from vidgen_dist.weights.lora.inspection import inspect_lora

    options = LoraOptions(id=place, revision=revision, weight_name=weight_name)
    lora = open_lora(options)
    facts = inspect_lora(lora)
    unfitting: list[str] | None = None
    if model is not None:
        given = {"id": model, "loras": [options.model_dump(exclude_none=True)]}
        unfitting = unknown_lora_keys(make_model(given, "inspect"))
    if as_json:
        print(json.dumps(_as_json(lora, facts, unfitting)))
        return
    for name, value in _lines(lora, facts, model, unfitting):
        print(f"{name:<12} {value}")


def _as_json(lora: LoraFile, facts: LoraFacts, unfitting: list[str] | None) -> dict[str, Any]:
    return {
        "kind": "lora",
        "id": lora.place,
        "revision": lora.revision,
        "digest": lora.digest,
        "keys": len(lora.tensors.keys),
        "parameters": lora.num_parameters,
        **dataclasses.asdict(facts),
        "unfitting": unfitting,
    }


def _lines(
    lora: LoraFile, facts: LoraFacts, model: str | None, unfitting: list[str] | None
) -> list[tuple[str, str]]:
    lines = [("file", str(lora.path)), ("digest", lora.digest)]
    if lora.revision is not None:
        lines.append(("commit", lora.revision))
    lines += [("made for", f"{value} ({key})") for key, value in facts.made_for.items()]
    keys = len(lora.tensors.keys)
    lines.append(("size", f"{counted(lora.num_parameters, 'parameter')}, {counted(keys, 'key')}"))
    for component, of in facts.components.items():
        parts = [counted(of.modules, "module"), f"rank {_shares(of.ranks)}", f"scale {_shares(of.scales)}"]
        told = parts if of.modules else []
        if of.differences:
            told.append(counted(of.differences, "whole difference"))
        lines.append((component, ", ".join(told)))
    if facts.unknown:
        lines.append(("no layout", listed(facts.unknown)))
    if unfitting is not None:
        without = f"{counted(len(unfitting), 'key')} without a place in {model}: {listed(unfitting)}"
        lines.append(("model", without if unfitting else f"every key fits {model}"))
    return lines


def _shares(counts: Mapping[Any, int]) -> str:
    """Values with their counts, the most frequent first: `16 (118), 32 (2)`; a single one alone."""
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{value:g} ({count})" for value, count in ordered)
