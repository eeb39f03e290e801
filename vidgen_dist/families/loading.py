"""From a checkpoint to a pipeline that renders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder, text_key
from vidgen_dist.encoders.llama import LlamaEncoder
from vidgen_dist.encoders.t5 import T5Encoder, encoder_key
from vidgen_dist.errors import Refused
from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX
from vidgen_dist.families.cogvideox.pipeline import CogVideoXPipeline
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel
from vidgen_dist.families.common.rendering import Pipeline
from vidgen_dist.families.hunyuan_video.autoencoder import AutoencoderKLHunyuanVideo
from vidgen_dist.families.hunyuan_video.pipeline import HunyuanVideoPipeline
from vidgen_dist.families.hunyuan_video.transformer import HunyuanVideoTransformer3DModel
from vidgen_dist.families.ltx.autoencoder import AutoencoderKLLTXVideo
from vidgen_dist.families.ltx.pipeline import LTXPipeline
from vidgen_dist.families.ltx.transformer import LTXVideoTransformer3DModel
from vidgen_dist.families.mochi.autoencoder import AutoencoderKLMochi
from vidgen_dist.families.mochi.pipeline import MochiPipeline
from vidgen_dist.families.mochi.rules import zeros_for_empty_prompt
from vidgen_dist.families.mochi.transformer import MochiTransformer3DModel
from vidgen_dist.families.rules import Rules, compute_dtype, config_of, find_family, load_rules
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.schedulers import load_scheduler
from vidgen_dist.spec import Model, make_model
from vidgen_dist.weights.checkpoint import Checkpoint, checkpoint_of
from vidgen_dist.weights.load import load_weights, match_weights
from vidgen_dist.weights.tokenizer import load_tokenizer

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "AutoencoderKLCogVideoX": AutoencoderKLCogVideoX,
    "AutoencoderKLHunyuanVideo": AutoencoderKLHunyuanVideo,
    "AutoencoderKLLTXVideo": AutoencoderKLLTXVideo,
    "AutoencoderKLMochi": AutoencoderKLMochi,
    "CLIPTextModel": CLIPTextEncoder,
    "CogVideoXTransformer3DModel": CogVideoXTransformer3DModel,
    "HunyuanVideoTransformer3DModel": HunyuanVideoTransformer3DModel,
    "LTXVideoTransformer3DModel": LTXVideoTransformer3DModel,
    "LlamaModel": LlamaEncoder,
    "MochiTransformer3DModel": MochiTransformer3DModel,
    "T5EncoderModel": T5Encoder,
}
"""The models, by the class names of `model_index.json`."""

_DIVIDED = frozenset(MODELS) - {"CLIPTextModel", "LlamaModel", "T5EncoderModel"}
"""Those whose work the ranks of a gang divide. Of the others every rank does the same."""


@runtime_checkable
class Configurable(Protocol):
    """A model of a checkpoint for which there are options."""

    def configure(self, options: Model) -> None:
        """Do what the options say; called before weights are read.

        Raises:
            Refused: Its config does not allow it.
        """


def load_pipeline(
    model: str,
    *,
    task: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    adapter: str | None = None,
    mesh: Mesh | None = None,
) -> Pipeline:
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
    options = {
        "id": os.fspath(model),
        "task": task,
        "revision": revision,
        "variant": variant,
        "dtype": dtype,
        "adapter": adapter,
    }
    return load_model(make_model(options, "load_pipeline"), mesh)


def load_model(options: Model, mesh: Mesh | None = None) -> Pipeline:
    """Load the checkpoint that options name, and return the pipeline that renders with it as they say.

    Args:
        options: Which checkpoint, and how it is read.
        mesh: As `load_pipeline` has it.

    Raises:
        Refused: As `load_pipeline`.
    """
    checkpoint = checkpoint_of(options)
    rules = load_rules(checkpoint, options.task)
    if options.adapter is not None:
        raise Refused(f"adapter {options.adapter!r}: {rules.family} takes none; leave it out")
    parts = _common_parts(checkpoint, rules, options, mesh or alone())
    return _LOADERS[rules.family](checkpoint, parts)


def check_models(checkpoint: Checkpoint, options: Model) -> None:
    """See that a checkpoint's models and its noise schedule can be built, and that its weights are theirs;
    none of these is read.

    Weights that are not on this machine yet are left to `load_pipeline`.

    Args:
        checkpoint: It may have been opened without weights.
        options: What the models are to do.

    Raises:
        Refused: A config that cannot be, or that an option does not go with; keys or shapes of weights that
            are not the model's, which names the keys and both shapes.
    """
    _build_scheduler(checkpoint)
    for component in find_family(checkpoint).components:
        if checkpoint.class_name(component) not in MODELS:
            continue
        model = _configured(build_model(checkpoint, component), options)
        if checkpoint.has_weights(component):
            folder = checkpoint.component_folder(component)
            match_weights(model, folder, variant=checkpoint.variant, rename=_own_keys(model))


def build_model(checkpoint: Checkpoint, component: str, mesh: Mesh | None = None) -> nn.Module:
    """A component's model without its weights; its parameters take no memory.

    Args:
        mesh: As `load_pipeline` has it.

    Raises:
        Refused: A config that cannot be.
    """
    name = checkpoint.class_name(component)
    kind, config = MODELS[name], checkpoint.config(component)
    with config_of(checkpoint.component_folder(component)):
        return kind(config, mesh) if name in _DIVIDED else kind(config)


def _build_scheduler(checkpoint: Checkpoint) -> Any:
    """The checkpoint's noise schedule; raises as `build_model`."""
    with config_of(checkpoint.component_folder("scheduler")):
        return load_scheduler(checkpoint.class_name("scheduler"), checkpoint.config("scheduler"))


def _configured(model: nn.Module, options: Model) -> nn.Module:
    """The model, told of the options if there are any for it."""
    if isinstance(model, Configurable):
        model.configure(options)
    return model


def _load_models(checkpoint: Checkpoint, options: Model, dtype: str, mesh: Mesh) -> dict[str, nn.Module]:
    """The models of all components that are one, by the components' names."""
    components = find_family(checkpoint).components
    names = [component for component in components if checkpoint.class_name(component) in MODELS]
    # All are built before the first weight is read: a config that cannot be is refused at once.
    models = {name: _configured(build_model(checkpoint, name, mesh), options) for name in names}
    for name, model in models.items():
        load_weights(
            model,
            checkpoint.component_folder(name),
            variant=checkpoint.variant,
            dtype=dtype,
            rename=_own_keys(model),
            mesh=mesh,
        )
    return models


def _own_keys(model: nn.Module) -> Callable[[str], str | None] | None:
    """The model's name of a checkpoint's key, where that is not the key."""
    if isinstance(model, LlamaEncoder):
        return model.own_key
    return {T5Encoder: encoder_key, CLIPTextEncoder: text_key}.get(type(model))


def _common_parts(checkpoint: Checkpoint, rules: Rules, options: Model, mesh: Mesh) -> dict[str, Any]:
    """What the pipeline of every family is made of, by the names of its arguments."""
    dtype = compute_dtype(options.dtype, nn.device())
    return {
        "rules": rules,
        "tokenizer": load_tokenizer(checkpoint),
        **_load_models(checkpoint, options, dtype, mesh),
        "scheduler": _build_scheduler(checkpoint),
        "vae_config": checkpoint.config("vae"),
        "dtype": dtype,
        "mesh": mesh,
    }


def _load_cogvideox(checkpoint: Checkpoint, parts: dict[str, Any]) -> CogVideoXPipeline:
    return CogVideoXPipeline(
        **parts,
        transformer_config=checkpoint.config("transformer"),
    )


def _load_ltx(_checkpoint: Checkpoint, parts: dict[str, Any]) -> LTXPipeline:
    return LTXPipeline(**parts)


def _load_hunyuan_video(checkpoint: Checkpoint, parts: dict[str, Any]) -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(
        **parts,
        tokenizer_2=load_tokenizer(checkpoint, "tokenizer_2"),
        transformer_config=checkpoint.config("transformer"),
    )


def _load_mochi(checkpoint: Checkpoint, parts: dict[str, Any]) -> MochiPipeline:
    return MochiPipeline(
        **parts,
        transformer_config=checkpoint.config("transformer"),
        zeros_for_empty_prompt=zeros_for_empty_prompt(checkpoint),
    )


_LOADERS: Mapping[str, Callable[[Checkpoint, dict[str, Any]], Pipeline]] = {
    "CogVideoX": _load_cogvideox,
    "LTX-Video": _load_ltx,
    "HunyuanVideo": _load_hunyuan_video,
    "Mochi": _load_mochi,
}
