"""From a checkpoint to a pipeline that renders."""

from __future__ import annotations

from typing import Any

from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families import find_family
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Parts
from vidgen_dist.families.family import Component, Configs, Family, ModelClass, SchedulerClass
from vidgen_dist.families.rules import compute_dtype, load_rules
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint
from vidgen_dist.weights.load import load_weights, match_weights
from vidgen_dist.weights.tokenizer import load_tokenizer


def load_pipeline(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    mesh: Mesh | None = None,
) -> DiffusionPipeline[Any, Any, Any]:
    """Load a checkpoint and return the pipeline that renders with it.

    Args:
        model: Hub id or folder, in diffusers' layout.
        task: `text-to-video`, `image-to-video` or `video-to-video`; by default what
            `model_index.json` says.
        revision: Branch, tag or commit of a hub id.
        variant: Variant of the weight files, such as `fp16`.
        dtype: What the models compute in: `float32`, `float16` or `bfloat16`. By default `bfloat16` on
            Ascend; on CPU always `float32`, whose kernels know no other.
        adapter: A motion adapter; for AnimateDiff checkpoints alone.
        mesh: The gang that renders together, as `Seat.join` gives it to each of its ranks; by default this
            process alone. All ranks render the same requests in the same order.

    Returns:
        A pipeline; `pipeline(RenderRequest(...))` gives float32 frames (frames, height, width, 3) in
        [0, 1], on the first rank of a gang.

    Raises:
        Refused: A checkpoint, task or dtype that cannot be rendered with; names what is allowed.
    """
    checkpoint = open_checkpoint(model, revision=revision, variant=variant)
    rules = load_rules(checkpoint, task)
    if adapter is not None:
        raise Refused(f"adapter {adapter!r}: {rules.family} takes none; leave it out")
    family, mesh = find_family(checkpoint), mesh or alone()
    dtype = compute_dtype(dtype, nn.device())
    configs = family.read_configs(checkpoint)
    parts = Parts(rules, configs, _load_components(family, checkpoint, configs, dtype, mesh), dtype, mesh)
    pipeline: DiffusionPipeline[Any, Any, Any] = family.pipeline_for(
        checkpoint.model_index["_class_name"], rules.task
    ).load()(parts)
    return pipeline


def check_models(checkpoint: Checkpoint, *, vae_tiling: bool = False) -> None:
    """See that a checkpoint's models can be built, and that its weights are theirs; none of these is read.

    Weights that are not on this machine yet are left to `load_pipeline`.

    Args:
        checkpoint: It may have been opened without weights.
        vae_tiling: Whether the VAE is to work in tiles.

    Raises:
        Refused: A config that cannot be, or of which no tiles can be made; keys or shapes of weights that
            are not the model's, which names the keys and both shapes.
    """
    family = find_family(checkpoint)
    for name, model in _build_models(family, checkpoint, family.read_configs(checkpoint), alone()).items():
        if vae_tiling and isinstance(model, VideoAutoencoder):
            model.enable_tiling()
        if checkpoint.has_weights(name):
            folder = checkpoint.component_folder(name)
            match_weights(model, folder, variant=checkpoint.variant, rename=getattr(model, "own_key", None))


def build_model(checkpoint: Checkpoint, component: str) -> nn.Module:
    """A component's model without its weights; its parameters take no memory.

    Raises:
        Refused: A config that cannot be.
    """
    known = next(known for known in find_family(checkpoint).components if known.name == component)
    model = _build_model(known, checkpoint, known.read(checkpoint), alone())
    if model is None:
        raise Refused(f"{checkpoint.component_folder(component)}: {component} is no model")
    return model


def _build_model(component: Component, checkpoint: Checkpoint, config: Any, mesh: Mesh) -> nn.Module | None:
    """A component's model; None of one that is no model."""
    known = component.class_of(checkpoint)
    if not isinstance(known, ModelClass):
        return None
    cell = known.cell.load()
    return cell(config, mesh) if known.divided else cell(config)


def _build_models(
    family: Family[Any], checkpoint: Checkpoint, configs: Configs, mesh: Mesh
) -> dict[str, nn.Module]:
    """The models of all components that are one, by the components' names."""
    models = {}
    for component in family.components:
        model = _build_model(component, checkpoint, getattr(configs, component.name, None), mesh)
        if model is not None:
            models[component.name] = model
    return models


def _load_components(
    family: Family[Any], checkpoint: Checkpoint, configs: Configs, dtype: str, mesh: Mesh
) -> dict[str, Any]:
    """What the pipeline is made of, by the components' names."""
    # All models are built before the first weight is read: a config that cannot be is refused at once.
    models = _build_models(family, checkpoint, configs, mesh)
    loaded: dict[str, Any] = {}
    for component in family.components:
        if component.name not in models:
            is_sampler = isinstance(component.class_of(checkpoint), SchedulerClass)
            loaded[component.name] = (
                getattr(configs, component.name) if is_sampler else load_tokenizer(checkpoint, component.name)
            )
    for name, model in models.items():
        load_weights(
            model,
            checkpoint.component_folder(name),
            variant=checkpoint.variant,
            dtype=dtype,
            rename=getattr(model, "own_key", None),
            mesh=mesh,
        )
    return loaded | models
