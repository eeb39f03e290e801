"""Finds the parameters that a LoRA changes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused, listed
from vidgen_dist.weights.lora.files import LoraFile
from vidgen_dist.weights.lora.layout import (
    ALPHA,
    BIAS_DIFFERENCE,
    DIFFERENCE,
    DOWN,
    UP,
    UP_BIAS,
    Module,
    names_of,
    read_layout,
)
from vidgen_dist.weights.lora.merge import Term, Terms


@dataclass(frozen=True)
class OriginalName:
    """What a module is called in the repository that first published the model.

    Args:
        module: Its name there.
        slot: Which of several modules of ours it becomes: their rows lie one after the other.
        halves_swapped: Whether the halves of its rows have changed places.
    """

    module: str
    slot: int = 0
    halves_swapped: bool = False


OriginalNames = Callable[[str], OriginalName | None]
"""From a module's name in a published checkpoint of diffusers to its original name, if that differs."""


@dataclass(frozen=True)
class Weights:
    """The parameters of a component's model, as its checkpoint has them.

    Args:
        keys: The model's names -> the checkpoint's keys.
        shapes: The parameters' shapes, by the model's names.
        original_name: The modules' original names.
    """

    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    original_name: OriginalNames = lambda _: None

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """The model's names by the checkpoint's keys and by themselves."""
        return {**{name: name for name in self.keys}, **{key: name for name, key in self.keys.items()}}

    @functools.cached_property
    def modules(self) -> dict[str, tuple[OriginalName, ...]]:
        """Every name of a module -> the modules of ours that it becomes, in the order of their rows."""
        own = sorted({_module_of(key) for key in self.parameters})
        found: dict[str, tuple[OriginalName, ...]] = {name: (OriginalName(name),) for name in own}
        split: dict[str, list[OriginalName]] = {}
        for name in own:
            if (original := self.original_name(name)) is not None:
                split.setdefault(original.module, []).append(
                    OriginalName(name, original.slot, original.halves_swapped)
                )
        for theirs, parts in split.items():
            found.setdefault(theirs, tuple(sorted(parts, key=lambda part: part.slot)))
        return found

    @functools.cached_property
    def underscored(self) -> dict[str, str]:
        """Every name of a module with underscores for dots -> the name."""
        return {name.replace(".", "_"): name for name in reversed(self.modules)}

    def parameter(self, module: str, kind: str) -> str:
        """The model's name of a module's weight or bias, or of a parameter outside of layers; "" if none."""
        outside = module if kind == "weight" else ""
        return self.parameters.get(f"{module}.{kind}", self.parameters.get(outside, ""))

    def find(self, module: Module) -> tuple[OriginalName, ...]:
        """The modules of ours that a file's module becomes; none if there are none."""
        if module.underscored:
            return self.modules.get(self.underscored.get(module.name, ""), ())
        return next((self.modules[name] for name in names_of(module.name) if name in self.modules), ())


def fit_loras(
    loras: Sequence[LoraFile], models: Mapping[str, Weights], denoiser: str, *, ignore_unknown: bool = False
) -> Mapping[str, Terms]:
    """What LoRAs add to the parameters of a checkpoint's models, in the order of the LoRAs.

    Args:
        loras: The LoRAs.
        models: The models' weights by component.
        denoiser: The component that keys without a component's name are for.
        ignore_unknown: Whether keys that fit nothing are left out; otherwise they are refused.

    Raises:
        Refused: Keys that fit nothing, or matrices of other shapes; names the file, the keys and both shapes.
    """
    found: dict[str, dict[str, tuple[Term, ...]]] = {component: {} for component in models}
    for lora in loras:
        placed, unknown = _place(lora, models, denoiser)
        _check_unknown(lora, unknown, ignore_unknown)
        for module, parts in placed:
            for name, term in _terms(lora, module, parts, models[module.component]):
                terms = found[module.component]
                terms[name] = (*terms.get(name, ()), term)
    return found


def unknown_keys(lora: LoraFile, models: Mapping[str, Weights], denoiser: str) -> list[str]:
    """The keys of a LoRA that fit nothing in a checkpoint's models, sorted; arguments as for `fit_loras`.

    Raises:
        Refused: Keys of a method that is not supported.
    """
    return sorted(_place(lora, models, denoiser)[1])


def _place(
    lora: LoraFile, models: Mapping[str, Weights], denoiser: str
) -> tuple[list[tuple[Module, tuple[OriginalName, ...]]], list[str]]:
    """The modules of a file, each with those of the models that it becomes; and the keys that fit nothing."""
    modules, unknown = read_layout(lora.tensors.keys, models.keys(), denoiser, lora.place)
    placed = []
    for module in modules:
        parts = models[module.component].find(module) if module.component in models else ()
        if parts:
            placed.append((module, parts))
        else:
            unknown += module.keys.values()
    return placed, unknown


def _module_of(key: str) -> str:
    """The layer of a parameter; the parameter itself if it is none of a layer's."""
    module, _, last = key.rpartition(".")
    return module if last in ("weight", "bias") else key


def _check_unknown(lora: LoraFile, unknown: Collection[str], ignore: bool) -> None:
    if len(unknown) == len(lora.tensors.keys):
        raise Refused(
            f"lora {lora.place!r}: none of its {len(unknown)} keys fits the model, such as "
            f"{listed(sorted(unknown), 3)}; is it for another model?"
        )
    if unknown and not ignore:
        raise Refused(
            f"lora {lora.place!r}: {len(unknown)} of its {len(lora.tensors.keys)} keys fit nothing in the "
            f"model: {listed(sorted(unknown))}; --lora-ignore-unknown goes on without them"
        )


def _terms(
    lora: LoraFile, module: Module, placed: Sequence[OriginalName], weights: Weights
) -> Iterator[tuple[str, Term]]:
    """What a file's module adds, by the names of the parameters."""
    keys = module.keys
    if UP in keys:
        scale = lora.scale * relative_scale(lora, module)
        yield from _placed(lora, placed, weights, "weight", keys[UP], keys[DOWN], scale)
        if UP_BIAS in keys:
            yield from _placed(lora, placed, weights, "bias", keys[UP_BIAS], None, scale)
    if DIFFERENCE in keys:
        yield from _placed(lora, placed, weights, "weight", keys[DIFFERENCE], None, lora.scale)
    if BIAS_DIFFERENCE in keys:
        yield from _placed(lora, placed, weights, "bias", keys[BIAS_DIFFERENCE], None, lora.scale)


def _placed(
    lora: LoraFile,
    placed: Sequence[OriginalName],
    weights: Weights,
    kind: str,
    up: str,
    down: str | None,
    scale: float,
) -> Iterator[tuple[str, Term]]:
    """A product or difference, divided among the parameters of one or several modules."""
    names = [weights.parameter(part.module, kind) for part in placed]
    for part, name in zip(placed, names, strict=True):
        if not name:
            raise Refused(f"lora {lora.place!r}: {up}: {part.module} has no {kind} in the model")
    shapes = [weights.shapes[name] for name in names]
    _check_shapes(lora, up, down, shapes)
    start = 0
    for part, name, shape in zip(placed, names, shapes, strict=True):
        end, middle = start + shape[0], start + shape[0] // 2
        rows = (slice(middle, end), slice(start, middle)) if part.halves_swapped else (slice(start, end),)
        yield name, Term(lora.tensors, up, down, scale, rows, lora.digest)
        start = end


def _check_shapes(lora: LoraFile, up: str, down: str | None, shapes: Sequence[tuple[int, ...]]) -> None:
    tensors = lora.tensors
    rows, width = sum(shape[0] for shape in shapes), math.prod(shapes[0][1:])
    of_up = tensors.shape(up)
    if down is None:
        fits = of_up[:1] == (rows,) and math.prod(of_up[1:]) == width
        told = f"{up} is {of_up}"
    else:
        of_down = tensors.shape(down)
        rank = of_down[0] if of_down else 0
        fits = of_up[:1] == (rows,) and math.prod(of_up[1:]) == rank and math.prod(of_down) == rank * width
        told = f"{up} is {of_up} and {down} is {of_down}"
    if not fits:
        own = " and ".join(map(str, shapes))
        raise Refused(
            f"lora {lora.place!r}: {told}, but the model's weights are {own}: is it for another model?"
        )


def relative_scale(lora: LoraFile, module: Module) -> float:
    """alpha / rank of a module's product, or alpha / √rank where the settings say so; 1 without an alpha.

    Raises:
        Refused: The settings ask for DoRA.
    """
    rank = lora.tensors.shape(module.keys[DOWN])[0]
    if ALPHA in module.keys:
        return float(lora.tensors.read(module.keys[ALPHA]).astype("float32").reshape(-1)[0]) / rank
    settings = lora.settings.get(module.component) or lora.settings.get("")
    if not settings:
        return 1.0
    if settings.get("use_dora"):
        raise Refused(f"lora {lora.place!r}: its settings say use_dora: DoRA is not supported")
    alpha = _of_pattern(settings.get("alpha_pattern"), module.name, settings.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _of_pattern(patterns: Any, name: str, default: Any) -> Any:
    """A setting of PEFT that some modules have of their own: patterns match the end of a name."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
