"""Opens the checkpoint that a run's options name, with the changes that they ask for."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vidgen_dist.errors import ConfigError, Refused
from vidgen_dist.families import family_of, find_family
from vidgen_dist.families.family import Component, Family, SchedulerClass, TokenizerClass
from vidgen_dist.spec import ModelOptions
from vidgen_dist.weights.checkpoint import Checkpoint, ComponentOverride, open_checkpoint
from vidgen_dist.weights.contract import merged_contract, read_contract
from vidgen_dist.weights.lora.files import open_lora
from vidgen_dist.weights.repository import open_component
from vidgen_dist.weights.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

_CLASS_NAME = "_class_name"
_NOTES = (_CLASS_NAME, "_diffusers_version")
"""Keys of a scheduler's file that are not settings."""


def open_model_checkpoint(options: ModelOptions, *, weights: bool = True) -> Checkpoint:
    """Open the checkpoint that a run's options name.

    Args:
        options: The checkpoint, its revision and variant, a motion adapter, LoRAs, and settings of the
            scheduler.
        weights: False to download only configs, vocabularies and LoRAs.

    Raises:
        Refused: As `open_checkpoint`, `open_component`, `open_lora` and `with_scheduler`; an adapter for a
            family that takes none; a scheduler that contradicts a sampling contract.
    """
    checkpoint = open_checkpoint(
        options.id, revision=options.revision, variant=options.variant, ignores=_ignored, weights=weights
    )
    checkpoint = _with_adapter(checkpoint, options, weights)
    checkpoint = dataclasses.replace(checkpoint, loras=tuple(map(open_lora, options.loras)))
    checkpoint = _with_contract(checkpoint, options)
    settings = scheduler_settings(checkpoint, options)
    return checkpoint if settings is None else with_scheduler(checkpoint, settings)


def scheduler_settings(checkpoint: Checkpoint, options: ModelOptions) -> Mapping[str, Any] | None:
    """Settings over a checkpoint's scheduler config: the options', or its sampling contract's."""
    if options.scheduler is not None or checkpoint.contract is None:
        return options.scheduler
    return checkpoint.contract.scheduler


def _with_contract(checkpoint: Checkpoint, options: ModelOptions) -> Checkpoint:
    """The checkpoint with the sampling contract of itself and its LoRAs, as binding as the options say."""
    contracts = (read_contract(checkpoint.folder), *(lora.contract for lora in checkpoint.loras))
    contract = merged_contract(contracts)
    if contract is None:
        return checkpoint
    contract = dataclasses.replace(contract, binding=options.contract == "refuse")
    if None not in (contract.scheduler, options.scheduler) and contract.scheduler != options.scheduler:
        told = (
            f"model.scheduler: {dict(options.scheduler or {})} is not allowed; {contract.place} asks for "
            f"{dict(contract.scheduler or {})}: leave it out, or take --contract warn"
        )
        if contract.binding:
            raise Refused(told)
        _warn_once(told)
    return dataclasses.replace(checkpoint, contract=contract)


def warn_unknown_keys(checkpoint: Checkpoint) -> None:
    """Warn of unknown keys in a checkpoint's configs, once per key in a process.

    Raises:
        Refused: As `Family.read_configs`.
    """
    for line in find_family(checkpoint).unknown_keys(checkpoint):
        _warn_once(line)


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


def check_tokenizers(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint's tokenizers can be read. A hub id's vocabularies come with its configs.

    Raises:
        Refused: As `load_tokenizer`.
    """
    for component in find_family(checkpoint).components:
        if isinstance(component.class_of(checkpoint), TokenizerClass):
            load_tokenizer(checkpoint, component.name)


def with_scheduler(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint with changed settings of its scheduler, as by diffusers' `from_config`.

    Args:
        checkpoint: An opened checkpoint.
        settings: Keys of `scheduler_config.json`; `_class_name` for another class. Keys of the checkpoint's
            own config that the other class does not know are left out.

    Raises:
        Refused: A class that the family does not take, a key that the class does not know, or a value that is
            not allowed; the message says what is allowed.
    """
    family = find_family(checkpoint)
    component = _scheduler_of(family)
    own = checkpoint.class_name(component.name)
    known = _scheduler_class(family, component, settings.get(_CLASS_NAME, own))
    keys = known.config.keys()
    for key in settings:
        if key not in keys and key not in _NOTES:
            raise Refused(
                f"model.scheduler.{key}: unknown key; {_allowed(key, (*keys, _CLASS_NAME), known.name)}"
            )
    raw = checkpoint.config(component.name)
    kept = raw if known.name == own else {key: value for key, value in raw.items() if key in keys}
    config = {**kept, **settings}
    try:
        known.config.read({key: value for key, value in config.items() if key in keys})
    except ConfigError as error:
        over = f"model.scheduler, over {checkpoint.component_folder(component.name)}"
        raise Refused("\n".join(f"{over}: {fault}" for fault in str(error).splitlines())) from None
    overrides = {**checkpoint.overrides, component.name: ComponentOverride(known.name, config)}
    return dataclasses.replace(checkpoint, overrides=overrides)


def _scheduler_of(family: Family[Any]) -> Component:
    for component in family.components:
        if any(isinstance(known, SchedulerClass) for known in component.takes):
            return component
    raise Refused(f"model.scheduler is not allowed; {family.name} has no scheduler: leave it out")


def _scheduler_class(family: Family[Any], component: Component, class_name: Any) -> SchedulerClass:
    known = {taken.name: taken for taken in component.takes if isinstance(taken, SchedulerClass)}
    if not isinstance(class_name, str) or class_name not in known:
        allowed = _allowed(str(class_name), tuple(known), family.name)
        raise Refused(f"model.scheduler._class_name: {class_name!r} is not allowed; {allowed}")
    return known[class_name]


def _allowed(given: str, names: Sequence[str], taker: str) -> str:
    near = difflib.get_close_matches(given, names, 1)
    return f"{f'did you mean {near[0]}? ' if near else ''}{taker} takes {', '.join(names)}"


def _with_adapter(checkpoint: Checkpoint, options: ModelOptions, weights: bool) -> Checkpoint:
    if options.adapter is None:
        if options.adapter_revision is not None:
            raise Refused(
                f"model.adapter_revision: {options.adapter_revision!r} is not allowed without model.adapter"
            )
        return checkpoint
    family = find_family(checkpoint)
    named = f"model.adapter: {options.adapter!r} is not allowed"
    if family.adapter is None:
        raise Refused(f"{named}; {family.name} takes none: leave it out")
    if checkpoint.has_component(family.adapter):
        raise Refused(f"{named}; {checkpoint.model} has a {family.adapter} of its own: leave it out")
    adapter = open_component(
        "adapter",
        options.adapter,
        revision=options.adapter_revision,
        variant=options.variant,
        weights=weights,
    )
    with_adapter = dataclasses.replace(checkpoint, separate={family.adapter: adapter})
    if not any(family.adapter in component.weights_in(with_adapter) for component in family.components):
        raise Refused(f"{named}; {checkpoint.model} already contains its motion modules: leave it out")
    return with_adapter


def _ignored(model_index: Mapping[str, Any]) -> Collection[str]:
    family = family_of(model_index.get("_class_name"))
    return () if family is None else family.ignores
