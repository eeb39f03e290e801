"""From a checkpoint to a pipeline that renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder, text_key
from vidgen_dist.encoders.llama import LlamaEncoder
from vidgen_dist.encoders.t5 import T5Encoder, encoder_key
from vidgen_dist.errors import Refused
from vidgen_dist.families.cogvideox.autoencoder import AutoencoderKLCogVideoX
from vidgen_dist.families.cogvideox.pipeline import CogVideoXPipeline
from vidgen_dist.families.cogvideox.transformer import CogVideoXTransformer3DModel
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
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
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint
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
    checkpoint = open_checkpoint(model, revision=revision, variant=variant)
    rules = load_rules(checkpoint, task)
    if adapter is not None:
        raise Refused(f"adapter {adapter!r}: {rules.family} takes none; leave it out")
    return _LOADERS[rules.family](checkpoint, rules, compute_dtype(dtype, nn.device()), mesh or alone())


def check_models(checkpoint: Checkpoint, *, vae_tiling: bool = False) -> None:
    """See that a checkpoint's models and its noise schedule can be built, and that its weights are theirs;
    none of these is read.

    Weights that are not on this machine yet are left to `load_pipeline`.

    Args:
        checkpoint: It may have been opened without weights.
        vae_tiling: Whether the VAE is to work in tiles.

    Raises:
        Refused: A config that cannot be, or of which no tiles can be made; keys or shapes of weights that
            are not the model's, which names the keys and both shapes.
    """
    _build_scheduler(checkpoint)
    for component in find_family(checkpoint).components:
        if checkpoint.class_name(component) not in MODELS:
            continue
        model = build_model(checkpoint, component)
        if vae_tiling and isinstance(model, VideoAutoencoder):
            model.enable_tiling()
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


def _load_models(checkpoint: Checkpoint, dtype: str, mesh: Mesh) -> dict[str, nn.Module]:
    """The models of all components that are one, by the components' names."""
    components = find_family(checkpoint).components
    names = [component for component in components if checkpoint.class_name(component) in MODELS]
    # All are built before the first weight is read: a config that cannot be is refused at once.
    models = {name: build_model(checkpoint, name, mesh) for name in names}
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


def _common_parts(checkpoint: Checkpoint, rules: Rules, dtype: str, mesh: Mesh) -> dict[str, Any]:
    """What the pipeline of every family is made of, by the names of its arguments."""
    return {
        "rules": rules,
        "tokenizer": load_tokenizer(checkpoint),
        **_load_models(checkpoint, dtype, mesh),
        "scheduler": _build_scheduler(checkpoint),
        "vae_config": checkpoint.config("vae"),
        "dtype": dtype,
        "mesh": mesh,
    }


def _load_cogvideox(checkpoint: Checkpoint, rules: Rules, dtype: str, mesh: Mesh) -> CogVideoXPipeline:
    return CogVideoXPipeline(
        **_common_parts(checkpoint, rules, dtype, mesh),
        transformer_config=checkpoint.config("transformer"),
    )


def _load_ltx(checkpoint: Checkpoint, rules: Rules, dtype: str, mesh: Mesh) -> LTXPipeline:
    return LTXPipeline(**_common_parts(checkpoint, rules, dtype, mesh))


def _load_hunyuan_video(checkpoint: Checkpoint, rules: Rules, dtype: str, mesh: Mesh) -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(
        **_common_parts(checkpoint, rules, dtype, mesh),
        tokenizer_2=load_tokenizer(checkpoint, "tokenizer_2"),
        transformer_config=checkpoint.config("transformer"),
    )


def _load_mochi(checkpoint: Checkpoint, rules: Rules, dtype: str, mesh: Mesh) -> MochiPipeline:
    return MochiPipeline(
        **_common_parts(checkpoint, rules, dtype, mesh),
        transformer_config=checkpoint.config("transformer"),
        zeros_for_empty_prompt=zeros_for_empty_prompt(checkpoint),
    )


_LOADERS: Mapping[str, Callable[[Checkpoint, Rules, str, Mesh], Pipeline]] = {
    "CogVideoX": _load_cogvideox,
    "LTX-Video": _load_ltx,
    "HunyuanVideo": _load_hunyuan_video,
    "Mochi": _load_mochi,
}
