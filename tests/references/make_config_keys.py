"""The keys of configs: what the references' classes take, and their defaults, as data of the package.

    python tests/references/make_config_keys.py    # once with transformers 4.57.1, once with transformers 5

Runs where diffusers and transformers are installed, never in tests. Each run replaces the sections of
releases with the same major version, and leaves the others.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import diffusers
import transformers

DATA = Path(__file__).parents[2] / "vidgen_dist" / "reference_keys.json"

PIPELINES = (
    "AnimateDiffPipeline",
    "CogVideoXImageToVideoPipeline",
    "CogVideoXPipeline",
    "CogVideoXVideoToVideoPipeline",
    "HunyuanVideoPipeline",
    "I2VGenXLPipeline",
    "LTXImageToVideoPipeline",
    "LTXPipeline",
    "MochiPipeline",
    "StableDiffusionPipeline",
    "StableVideoDiffusionPipeline",
)
MODELS = (
    "AutoencoderKL",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLHunyuanVideo",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLMochi",
    "AutoencoderKLTemporalDecoder",
    "CogVideoXTransformer3DModel",
    "HunyuanVideoTransformer3DModel",
    "I2VGenXLUNet",
    "LTXVideoTransformer3DModel",
    "MochiTransformer3DModel",
    "MotionAdapter",
    "UNet2DConditionModel",
    "UNetMotionModel",
    "UNetSpatioTemporalConditionModel",
)
SCHEDULERS = (
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
ENCODERS = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "LlamaModel": "LlamaConfig",
    "T5EncoderModel": "T5Config",
}
BASE = getattr(transformers, "PreTrainedConfig", None) or transformers.PretrainedConfig


def of_signature(kind: type) -> dict[str, Any]:
    """Keys and defaults of a class of diffusers."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name: each.default for each in parameters if each.kind not in kinds}


def of_pipeline(kind: type) -> dict[str, Any]:
    """A pipeline's arguments that are not components: those with a plain value as default."""
    plain = (bool, int, float, str)
    return {name: value for name, value in of_signature(kind).items() if isinstance(value, plain)}


def declared_by(kind: type) -> dict[str, Any]:
    """Keys that a config class of transformers declares, the inherited ones too, and their defaults."""
    if not dataclasses.is_dataclass(kind):
        return of_signature(kind)
    missing = dataclasses.MISSING
    return {each.name: None if each.default is missing else each.default for each in dataclasses.fields(kind)}


def made_of(kind: type) -> dict[str, Any]:
    """Further attributes of an object that is made without arguments, such as derived keys."""
    return {name: value for name, value in kind().to_dict().items() if name != "model_type"}


def of_arguments(*functions: Any) -> dict[str, Any]:
    """What functions take out of `**kwargs`, and the defaults there, as far as they are literals."""
    taken: dict[str, Any] = {}
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("pop", "get")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "kwargs"
                and isinstance(node.args[0], ast.Constant)
            ):
                default = node.args[1] if len(node.args) > 1 else ast.Constant(None)
                taken[node.args[0].value] = default.value if isinstance(default, ast.Constant) else None
    return taken


def generation_keys() -> dict[str, Any]:
    """Keys of text generation, which configs contained before these had a file of their own."""
    if hasattr(BASE, "_get_global_generation_defaults"):
        return plain(BASE._get_global_generation_defaults())
    return plain(transformers.GenerationConfig._get_default_generation_params())


def base_keys() -> dict[str, Any]:
    """Keys that all config classes of transformers take, except those of generation."""
    functions = (BASE.__init__,)
    if dataclasses.is_dataclass(BASE):
        functions = (BASE.__post_init__, BASE.convert_rope_params_to_dict)
    keys = plain({**of_arguments(*functions), **made_of(BASE), **declared_by(BASE)})
    return {name: value for name, value in keys.items() if name not in generation_keys()}


def encoder_keys(kind: type) -> dict[str, Any]:
    """Keys of an encoder's config class, except those that all classes have and it does not change."""
    declared, made = plain(declared_by(kind)), plain(made_of(kind))
    common = {**plain(made_of(BASE)), **plain(declared_by(BASE))}
    of_all = {**plain(made_of(BASE)), **generation_keys(), "transformers_version": None}
    beside = {name: value for name, value in made.items() if name not in of_all}
    own = {name: value for name, value in declared.items() if common.get(name, ...) != value}
    return {**beside, **own}


def plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(value, default=int))


def entry(keys: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"keys": dict(sorted(keys.items())), **{name: value for name, value in more.items() if value}}


def of_diffusers() -> dict[str, Any]:
    kinds = {name: plain(of_signature(getattr(diffusers, name))) for name in MODELS + SCHEDULERS}
    index: dict[str, Any] = {}
    for name in PIPELINES:
        index |= of_pipeline(getattr(diffusers, name))
    return {name: entry(keys) for name, keys in sorted({**kinds, "model_index.json": index}.items())}


def of_transformers() -> dict[str, Any]:
    found = {"PreTrainedConfig": entry(base_keys()), "GenerationConfig": entry(generation_keys())}
    for name, config in ENCODERS.items():
        kind = getattr(transformers, config)
        found[name] = entry(
            encoder_keys(kind),
            model_type=kind.model_type,
            part=kind.base_config_key,
            aliases=dict(sorted(kind.attribute_map.items())),
        )
    found["CLIPImageProcessor"] = entry(of_image_processor())
    return dict(sorted(found.items()))


def of_image_processor() -> dict[str, Any]:
    made = plain(transformers.CLIPImageProcessor().to_dict())
    kind = transformers.CLIPImageProcessor
    declared = getattr(kind, "valid_kwargs", None)
    names = set(declared.__annotations__) if declared else set(of_signature(kind))
    return {name: made.get(name) for name in {*made, *names} - {"image_processor_type"}}


def main() -> None:
    known = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    for library, sections in ((diffusers, of_diffusers()), (transformers, of_transformers())):
        name, major = library.__name__, library.__version__.split(".")[0]
        known = {key: value for key, value in known.items() if not key.startswith(f"{name} {major}.")}
        known[f"{name} {library.__version__}"] = sections
    text = json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False)
    DATA.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
