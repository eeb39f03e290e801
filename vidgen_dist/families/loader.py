"""Loads a pipeline from a checkpoint."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from vidgen_dist import nn
from vidgen_dist.families import find_family
from vidgen_dist.families.checkpoints import open_model_checkpoint, warn_unknown_keys
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Parts
from vidgen_dist.families.common.prompt_store import PromptStore
from vidgen_dist.families.family import (
    ComponentClass,
    Configs,
    Family,
    ModelClass,
    SchedulerClass,
    TokenizerClass,
)
from vidgen_dist.families.rules import choose_rules, compute_dtype
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.spec import ModelOptions, make_model
from vidgen_dist.storage.folder import open_writable
from vidgen_dist.weights.checkpoint import Checkpoint
from vidgen_dist.weights.digests import digest_of
from vidgen_dist.weights.load import LazyModel, LazyWeights, MatchedWeights, match_weights
from vidgen_dist.weights.lora.files import open_lora, unchanged
from vidgen_dist.weights.lora.fit import Weights, fit_loras, unknown_keys
from vidgen_dist.weights.lora.switch import Fit, LoraSwitch
from vidgen_dist.weights.tokenizer import load_tokenizer

AnyPipeline = DiffusionPipeline[Any, Any, Any]

K = TypeVar("K", bound=ComponentClass)

ENCODERS = "text_encoder"
"""How the names of the components begin that encode prompts."""


@runtime_checkable
class Configurable(Protocol):
    """A model that has options."""

    def configure(self, options: ModelOptions) -> None:
        """Apply the options; called before weights are read.

        Raises:
            Refused: Its config does not allow it.
        """


@runtime_checkable
class OwnDtypes(Protocol):
    """A model with parts that compute in another dtype."""

    def own_dtypes(self, dtype: str) -> Mapping[str, str]:
        """The beginning of these parts' parameter names -> the name of their dtype, if the other parameters
        have `dtype`."""


def load_pipeline(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    adapter_revision: str | None = None,
    loras: Sequence[str | tuple[str, float] | Mapping[str, Any]] = (),
    lora_ignore_unknown: bool = False,
    scheduler: Mapping[str, Any] | None = None,
    prompt_cache: str | None = None,
    mesh: Mesh | None = None,
) -> AnyPipeline:
    """Load a checkpoint and return the pipeline that renders with it.

    Args:
        model: Hub id or folder, in diffusers' layout.
        task: `text-to-video`, `image-to-video` or `video-to-video`; by default what
            `model_index.json` says.
        revision: Branch, tag or commit of a hub id.
        variant: Variant of the weight files, such as `fp16`.
        dtype: The dtype that models compute in: `float32`, `float16` or `bfloat16`. By default `bfloat16` on
            Ascend; on CPU always `float32`, the only dtype of its kernels.
        adapter: AnimateDiff's motion adapter: hub id or folder.
        adapter_revision: Branch, tag or commit of the adapter's hub id.
        loras: LoRAs that are added to the weights, in this order: hub ids, folders, paths or URIs; with a
            scale `(place, scale)`; or mappings of `id`, `scale`, `revision` and `weight_name`.
        lora_ignore_unknown: Whether keys of LoRAs that fit nothing in the model are left out; by default they
            are refused.
        scheduler: Changes to the checkpoint's scheduler config, as diffusers' `from_config` takes them;
            `_class_name` for another class, such as `{"_class_name": "DDIMScheduler", "clip_sample": False}`.
        prompt_cache: Folder or URI that keeps encoded prompts. Text encoders are loaded when a prompt is not
            there.
        mesh: The gang that renders together, as `Rendezvous.join` returns it to each rank; by default this
            process alone. All ranks render the same requests in the same order.

    Returns:
        A pipeline; `pipeline(RenderRequest(...))` returns float32 frames (frames, height, width, 3) in
        [0, 1], on the first rank of a gang.

    Raises:
        Refused: A checkpoint, task or dtype that is not supported; the message says what is allowed.
    """
    options = {
        "id": os.fspath(model),
        "task": task,
        "revision": revision,
        "variant": variant,
        "dtype": dtype,
        "adapter": adapter,
        "adapter_revision": adapter_revision,
        "loras": [{"id": lora[0], "scale": lora[1]} if isinstance(lora, tuple) else lora for lora in loras],
        "lora_ignore_unknown": lora_ignore_unknown,
        "scheduler": scheduler,
        "prompt_cache": prompt_cache,
    }
    known = make_model(options, "load_pipeline")
    checkpoint = open_model_checkpoint(known)
    warn_unknown_keys(checkpoint)
    return _load(checkpoint, known, mesh)


def load_model(options: ModelOptions, mesh: Mesh | None = None) -> AnyPipeline:
    """Load the checkpoint that options name, and return the pipeline that renders with it.

    Args:
        options: The checkpoint, and how it is read; digests of LoRAs must be those of their content.
        mesh: As in `load_pipeline`.

    Raises:
        Refused: As `load_pipeline`; or a LoRA has changed.
    """
    checkpoint = open_model_checkpoint(options)
    for lora, asked in zip(checkpoint.loras, options.loras, strict=True):
        unchanged(lora, asked)
    return _load(checkpoint, options, mesh)


def load_encoders(options: ModelOptions) -> AnyPipeline:
    """The pipeline of a checkpoint, to encode prompts with: no other weights are ever read.

    Args:
        options: As for `load_model`.

    Raises:
        Refused: As `load_model`.
    """
    return _load(open_model_checkpoint(options), options, None, lazy=True)


def _load(
    checkpoint: Checkpoint, options: ModelOptions, mesh: Mesh | None, *, lazy: bool = False
) -> AnyPipeline:
    family, mesh = find_family(checkpoint), mesh or alone()
    configs = family.read_configs(checkpoint)
    rules = choose_rules(checkpoint, family, configs, options.task, ring=mesh.ring.size)
    dtype = compute_dtype(options.dtype, nn.device())
    models = _build_models(family, checkpoint, configs, options, mesh)
    samplers = {name: getattr(configs, name) for name, _ in _of_kind(SchedulerClass, family, checkpoint)}
    tokenizers = {
        name: load_tokenizer(checkpoint, name) for name, _ in _of_kind(TokenizerClass, family, checkpoint)
    }
    matched = {name: _match(family, checkpoint, name, model) for name, model in models.items()}
    components: dict[str, Any] = {**models, **samplers, **tokenizers}
    fit = _fitting(family, matched, options)
    terms = fit(checkpoint.loras)
    weights: dict[str, MatchedWeights | LazyWeights] = {}
    for name, model in models.items():
        own_dtypes = model.own_dtypes(dtype) if isinstance(model, OwnDtypes) else {}
        how: dict[str, Any] = {"dtype": dtype, "own_dtypes": own_dtypes, "mesh": mesh}
        if lazy or (options.prompt_cache is not None and name.startswith(ENCODERS)):
            weights[name] = waiting = LazyWeights(matched[name], how, terms[name])
            components[name] = LazyModel(model, waiting)
        else:
            weights[name] = matched[name]
            matched[name].load(**how, terms=terms[name])
    store = _prompt_store(checkpoint, options, dtype)
    kind = family.pipeline_for(checkpoint.model_index["_class_name"], rules.task).load()
    known = {lora.id: lora for lora in options.row_loras or ()}
    loras = LoraSwitch(weights, fit, checkpoint.loras, known, mesh.gang)
    pipeline: AnyPipeline = kind(Parts(rules, configs, components, dtype, mesh, loras, store))
    return pipeline


def _prompt_store(checkpoint: Checkpoint, options: ModelOptions, dtype: str) -> PromptStore | None:
    """The store of encoded prompts that the options name, for this checkpoint."""
    if options.prompt_cache is None:
        return None
    model = checkpoint.revision or options.digest or checkpoint.digest()
    decides = {"model": model, "variant": checkpoint.variant or "", "dtype": dtype}
    decides["family"] = find_family(checkpoint).key
    return PromptStore(open_writable(options.prompt_cache), digest_of(decides))


def check_models(checkpoint: Checkpoint, options: ModelOptions) -> None:
    """Check that a checkpoint's models can be built, and that its weights and LoRAs fit them, without reading
    weights.

    Weights that are not on this machine yet are left to `load_pipeline`.

    Args:
        checkpoint: It may have been opened without weights.
        options: How the models are to work.

    Raises:
        Refused: A config that is not allowed, or that an option does not work with; weights or LoRAs whose
            keys or shapes do not match, with the keys and both shapes.
    """
    family = find_family(checkpoint)
    models = build_models(checkpoint, options)
    matched = {
        name: _match(family, checkpoint, name, model)
        for name, model in models.items()
        if all(checkpoint.has_weights(part) for part in _weights_in(family, checkpoint, name))
    }
    if len(matched) == len(models):
        fit = _fitting(family, matched, options)
        fit(checkpoint.loras)
        for lora in options.row_loras or ():
            fit([open_lora(lora)])


def unknown_lora_keys(checkpoint: Checkpoint, options: ModelOptions) -> list[str]:
    """The keys of a checkpoint's LoRAs that fit nothing in its models.

    Args:
        checkpoint: Opened with its weights.
        options: How the models are to work.

    Raises:
        Refused: As `check_models`, except for keys that fit nothing.
    """
    family = find_family(checkpoint)
    models = build_models(checkpoint, options)
    matched = {name: _match(family, checkpoint, name, model) for name, model in models.items()}
    weights = _weights_of(family, matched)
    found = [key for lora in checkpoint.loras for key in unknown_keys(lora, weights, family.denoiser)]
    if len(found) < sum(len(lora.tensors.keys) for lora in checkpoint.loras):
        fit_loras(checkpoint.loras, weights, family.denoiser, ignore_unknown=True)
    return found


def _match(family: Family[Any], checkpoint: Checkpoint, name: str, model: nn.Module) -> MatchedWeights:
    """A component's model, with the files that hold its weights."""
    folders = weight_folders(family, checkpoint, name)
    return match_weights(model, *folders, variant=checkpoint.variant, rename=_own_key(model))


def _fitting(family: Family[Any], matched: Mapping[str, MatchedWeights], options: ModelOptions) -> Fit:
    """The function that finds the parameters that LoRAs change, of all components' models."""
    return functools.partial(
        fit_loras,
        models=_weights_of(family, matched),
        denoiser=family.denoiser,
        ignore_unknown=options.lora_ignore_unknown,
    )


def _weights_of(family: Family[Any], matched: Mapping[str, MatchedWeights]) -> dict[str, Weights]:
    named = {family.denoiser: family.original_names.load()} if family.original_names else {}
    return {
        name: Weights(model.sources, model.shapes, named.get(name, lambda _: None))
        for name, model in matched.items()
    }


def build_models(checkpoint: Checkpoint, options: ModelOptions) -> dict[str, nn.Module]:
    """A checkpoint's models by component, without weights: their parameters take no memory.

    Args:
        checkpoint: It may have been opened without weights.
        options: How the models are to work.

    Raises:
        Refused: A config that is not allowed, or that an option does not work with.
    """
    family = find_family(checkpoint)
    return _build_models(family, checkpoint, family.read_configs(checkpoint), options, alone())


def _build_models(
    family: Family[Any], checkpoint: Checkpoint, configs: Configs, options: ModelOptions, mesh: Mesh
) -> dict[str, nn.Module]:
    models = {}
    for name, known in _of_kind(ModelClass, family, checkpoint):
        cell, config = known.cell.load(), getattr(configs, known.made_of or name)
        model = cell(config, mesh) if known.divided else cell(config)
        if isinstance(model, Configurable):
            model.configure(options)
        models[name] = model
    return models


def _of_kind(kind: type[K], family: Family[Any], checkpoint: Checkpoint) -> Iterator[tuple[str, K]]:
    """The names and classes of the checkpoint's components of one kind."""
    for component in family.components:
        known = component.class_of(checkpoint)
        if isinstance(known, kind):
            yield component.name, known


def weight_folders(family: Family[Any], checkpoint: Checkpoint, name: str) -> list[Path]:
    """The folders with the weights of a component's model."""
    return [checkpoint.component_folder(part) for part in _weights_in(family, checkpoint, name)]


def _weights_in(family: Family[Any], checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    (component,) = (known for known in family.components if known.name == name)
    return component.weights_in(checkpoint)


def _own_key(model: nn.Module) -> Callable[[str], str | None] | None:
    """The function from a checkpoint's keys to the model's names, if they differ."""
    own_key: Callable[[str], str | None] | None = getattr(model, "own_key", None)
    return own_key
