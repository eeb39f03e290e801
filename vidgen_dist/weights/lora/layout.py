"""What the tensors of a LoRA's file are, by their keys, in the layouts in which LoRAs are published.

===================  ==================================================================================
diffusers, PEFT      ``transformer.NAME.lora_A.weight``, ``.lora_B.weight``, ``.lora_B.bias``
PEFT alone           ``base_model.model.NAME.lora_A.weight``; with an adapter's name ``.lora_A.NAME.weight``
older diffusers      ``unet.NAME.lora.down.weight``, ``NAME.processor.to_q_lora.down.weight``,
                     ``text_encoder.NAME.lora_linear_layer.down.weight``
ComfyUI, trainers    ``diffusion_model.NAME.lora_A.weight`` or ``.lora_down.weight``
kohya, musubi        ``lora_unet_NAME_WITH_UNDERSCORES.lora_down.weight``, ``lora_te_…``, ``.alpha``
differences          ``NAME.diff`` for a weight, ``NAME.diff_b`` for a bias
===================  ==================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from vidgen_dist.errors import Refused, listed

DOWN, UP, UP_BIAS, ALPHA, DIFFERENCE, BIAS_DIFFERENCE = "down", "up", "up_bias", "alpha", "diff", "diff_b"

_ROLES = (
    (re.compile(r"(\.lora_A(\.[^.]+)?|[._]lora\.down|\.lora_linear_layer\.down|\.lora_down)\.weight$"), DOWN),
    (re.compile(r"(\.lora_B(\.[^.]+)?|[._]lora\.up|\.lora_linear_layer\.up|\.lora_up)\.weight$"), UP),
    (re.compile(r"\.lora_(B(\.[^.]+)?|up)\.bias$"), UP_BIAS),
    (re.compile(r"\.alpha$"), ALPHA),
    (re.compile(r"\.diff$"), DIFFERENCE),
    (re.compile(r"\.diff_b$"), BIAS_DIFFERENCE),
)
_OTHER_METHODS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector(\..+)?)$"), "DoRA"),
    (re.compile(r"\.hada_\w+$"), "LoHa"),
    (re.compile(r"\.lokr_\w+$"), "LoKr"),
    (re.compile(r"\.(oft|boft)_\w+(\..+)?$"), "OFT"),
    (re.compile(r"\.lora_mid\.weight$"), "LoCon's Tucker decomposition"),
    (re.compile(r"\.lora_embedding_[AB](\..+)?$"), "LoRA of an embedding"),
)
"""Methods that need more than a product of two matrices."""

_UNDERSCORED = {
    "lora_unet_": None,
    "lora_transformer_": None,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""kohya's prefixes and the components they stand for; None is the denoiser."""

_OF_DENOISER = ("model.diffusion_model.", "diffusion_model.")


@dataclass
class Module:
    """What a file holds for one module of a model.

    Args:
        component: The model's component.
        name: The module's name, as the file has it behind its prefix.
        underscored: Whether dots in the name are underscores.
        keys: The tensors' keys, by role.
    """

    component: str
    name: str
    underscored: bool
    keys: dict[str, str] = field(default_factory=dict)


def read_layout(
    keys: Iterable[str], components: Collection[str], denoiser: str, place: str
) -> tuple[list[Module], list[str]]:
    """What the tensors of a file are.

    Args:
        keys: Their keys.
        components: The components that have models.
        denoiser: The component that keys without a component's name are for.
        place: The file, for messages.

    Returns:
        The modules, in the order of the file; and the keys that no layout has.

    Raises:
        Refused: A tensor belongs to another method, such as DoRA; or one of a pair is missing.
    """
    modules: dict[tuple[str, str], Module] = {}
    unknown = []
    for key in keys:
        _refuse_other_method(key, place)
        found = next(
            ((key[: match.start()], role) for ending, role in _ROLES if (match := ending.search(key))), None
        )
        if found is None:
            unknown.append(key)
            continue
        component, name, underscored = _split(found[0], components, denoiser)
        module = modules.setdefault((component, name), Module(component, name, underscored))
        module.keys[found[1]] = key
    for module in modules.values():
        _check_pair(module, place)
    return list(modules.values()), unknown


def names_of(name: str) -> list[str]:
    """The names that a module may have in its model: as diffusers' older attention processors called it."""
    name = name.replace(".processor.", ".")
    parent, _, last = name.rpartition(".")
    old = {
        "to_out": ("to_out.0", "out_proj"),
        "to_q": ("q_proj",),
        "to_k": ("k_proj",),
        "to_v": ("v_proj",),
    }
    return [name, *(f"{parent}.{new}" for new in old.get(last, ()))]


def _refuse_other_method(key: str, place: str) -> None:
    for ending, method in _OTHER_METHODS:
        if ending.search(key):
            raise Refused(f"{place}: {key}: {method} is not supported; LoRA and whole differences are")


def _split(module: str, components: Collection[str], denoiser: str) -> tuple[str, str, bool]:
    """The component, the name in it, and whether the name's dots are underscores."""
    for prefix, component in _UNDERSCORED.items():
        if module.startswith(prefix):
            # CogVideoX-Fun writes two underscores.
            return component or denoiser, module.removeprefix(prefix).lstrip("_"), True
    module = module.removeprefix("base_model.model.")
    for prefix in _OF_DENOISER:
        if module.startswith(prefix):
            return denoiser, module.removeprefix(prefix), False
    first, _, rest = module.partition(".")
    return (first, rest, False) if first in components else (denoiser, module, False)


def _check_pair(module: Module, place: str) -> None:
    have = module.keys.keys()
    if (DOWN in have) != (UP in have):
        (there,) = have & {DOWN, UP}
        lacking = UP if there == DOWN else DOWN
        raise Refused(
            f"{place}: {module.keys[there]} is there, but the {lacking} matrix of the same module is not"
        )
    if DOWN not in have and have & {UP_BIAS, ALPHA}:
        keys = listed([module.keys[role] for role in (UP_BIAS, ALPHA) if role in have])
        raise Refused(f"{place}: {keys} is there, but no pair of matrices of the same module")
