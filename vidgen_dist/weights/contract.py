"""Sampling contracts: how a LoRA or a checkpoint that was made for few steps is to be sampled.

    # vidgen.yaml, in the checkpoint's folder or beside the LoRA's file; NAME.vidgen.yaml for one of several
    sampling: {num_inference_steps: 4, guidance_scale: 1.0}
    scheduler: {_class_name: LCMScheduler}

A run file may lie there as it is: its `sampling` and `model.scheduler` are read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vidgen_dist.errors import Refused
from vidgen_dist.spec import RunSpec, make_model
from vidgen_dist.weights.checkpoint_files import is_there, unreadable
from vidgen_dist.yaml_core import Loader

CONTRACT = "vidgen.yaml"
"""The name of the file."""

_KEYS = ("sampling", "scheduler")


@dataclass(frozen=True)
class SamplingContract:
    """How a model is to be sampled.

    Args:
        place: The file that says so, for messages; several with commas between.
        sampling: Fields of rows and their values.
        scheduler: Settings put over the checkpoint's scheduler config; None to leave it as it is.
        binding: Whether a row that contradicts it is refused; otherwise there is a warning.
    """

    place: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] | None = None
    binding: bool = True


def contract_names(of_file: str) -> tuple[str, ...]:
    """The names that the contract of a file may have, the first that is there counts: `NAME.vidgen.yaml`."""
    return (f"{of_file.removesuffix('.safetensors')}.{CONTRACT}", CONTRACT)


def read_contract(folder: Path, of_file: str | None = None) -> SamplingContract | None:
    """The contract in a folder, or of a file in it; None if there is none.

    Raises:
        Refused: It is not YAML, or has other keys or kinds of values; names the file and the key.
    """
    names = (CONTRACT,) if of_file is None else contract_names(of_file)
    path = next((folder / name for name in names if is_there(folder / name)), None)
    if path is None:
        return None
    try:
        said = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise unreadable(path, error) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: not YAML: {error}") from None
    if not isinstance(said, dict):
        raise Refused(f"{path}: must hold a mapping with the keys {', '.join(_KEYS)}")
    for key in said:
        if key not in (*_KEYS, *RunSpec.model_fields):
            raise Refused(f"{path}: {key}: unknown key; allowed: {', '.join(_KEYS)}, or those of a run file")
    of_model = said.get("model")
    scheduler = said.get("scheduler", of_model.get("scheduler") if isinstance(of_model, dict) else None)
    sampling = said.get("sampling") or {}
    if not isinstance(sampling, dict):
        raise Refused(f"{path}: sampling: {sampling!r} is not allowed; a mapping of fields to values")
    # In the form that a run's own settings have, so that the two can be compared.
    settings = make_model({"id": "none", "scheduler": scheduler}, str(path)).scheduler
    return SamplingContract(str(path), sampling, settings)


def merged_contract(contracts: Iterable[SamplingContract | None]) -> SamplingContract | None:
    """What several contracts ask for together; None if there is none.

    Raises:
        Refused: They contradict each other; names both files and the key.
    """
    found = [contract for contract in contracts if contract is not None]
    return functools.reduce(_merged, found) if found else None


def _merged(one: SamplingContract, other: SamplingContract) -> SamplingContract:
    for name in one.sampling.keys() & other.sampling.keys():
        if one.sampling[name] != other.sampling[name]:
            raise Refused(
                f"{other.place}: sampling.{name} is {other.sampling[name]!r}, but "
                f"{one.sampling[name]!r} in {one.place}: the two cannot be used together"
            )
    if one.scheduler is not None and other.scheduler is not None and one.scheduler != other.scheduler:
        raise Refused(
            f"{other.place}: scheduler is {dict(other.scheduler)}, but {dict(one.scheduler)} in {one.place}: "
            "the two cannot be used together"
        )
    return SamplingContract(
        f"{one.place}, {other.place}",
        {**one.sampling, **other.sampling},
        other.scheduler if one.scheduler is None else one.scheduler,
        one.binding and other.binding,
    )
