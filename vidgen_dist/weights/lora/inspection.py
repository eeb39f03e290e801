"""What a LoRA is, from its file alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vidgen_dist.weights.lora.files import LoraFile
from vidgen_dist.weights.lora.fit import relative_scale
from vidgen_dist.weights.lora.layout import BIAS_DIFFERENCE, DIFFERENCE, DOWN, read_layout
from vidgen_dist.weights.tensors import read_metadata

DENOISER = "denoiser"
"""The component of keys that name none: the transformer or UNet."""

_COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2", "vae")

_MADE_FOR = ("base_model_name_or_path", "ss_base_model_version", "ss_sd_model_name", "modelspec.architecture")
"""Settings and metadata in which trainers say which model they changed."""


@dataclass(frozen=True)
class ComponentFacts:
    """What a LoRA changes in one component.

    Args:
        modules: How many modules it has products of matrices for.
        ranks: Rank -> number of modules.
        scales: alpha / rank, or what the settings put in its place -> number of modules.
        differences: How many whole differences it has.
    """

    modules: int
    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    differences: int


@dataclass(frozen=True)
class LoraFacts:
    """What a LoRA is.

    Args:
        made_for: What the file says about the model that it was made for, by key.
        components: What it changes, by component.
        unknown: Keys that no layout has.
    """

    made_for: Mapping[str, str]
    components: Mapping[str, ComponentFacts]
    unknown: tuple[str, ...]


def inspect_lora(lora: LoraFile) -> LoraFacts:
    """What a LoRA is, as far as its file says it.

    Raises:
        Refused: It needs a method that is not supported, such as DoRA.
    """
    modules, unknown = read_layout(lora.tensors.keys, _COMPONENTS, DENOISER, lora.place)
    ranks: dict[str, Counter[int]] = {}
    scales: dict[str, Counter[float]] = {}
    differences: Counter[str] = Counter()
    for module in modules:
        of_ranks = ranks.setdefault(module.component, Counter())
        if DOWN in module.keys:
            of_ranks[lora.tensors.shape(module.keys[DOWN])[0]] += 1
            scales.setdefault(module.component, Counter())[relative_scale(lora, module)] += 1
        differences[module.component] += len(module.keys.keys() & {DIFFERENCE, BIAS_DIFFERENCE})
    components = {
        name: ComponentFacts(of_ranks.total(), dict(of_ranks), dict(scales.get(name, {})), differences[name])
        for name, of_ranks in ranks.items()
    }
    return LoraFacts(_made_for(lora), components, tuple(sorted(unknown)))


def _made_for(lora: LoraFile) -> dict[str, str]:
    (path,) = lora.tensors.folders
    said = dict(read_metadata(path))
    for settings in lora.settings.values():
        said |= {key: str(value) for key, value in settings.items() if value is not None}
    return {key: said[key] for key in _MADE_FOR if said.get(key)}
