"""Changes the LoRAs of models that are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from vidgen_dist.errors import Refused, RowError
from vidgen_dist.parallel.collectives import Group, holds_on_all
from vidgen_dist.parallel.mesh import alone
from vidgen_dist.spec import LoraOptions
from vidgen_dist.storage.uris import redact
from vidgen_dist.weights.lora.files import LoraFile, open_lora, state_of, unchanged
from vidgen_dist.weights.lora.merge import Terms

Fit = Callable[[Sequence[LoraFile]], Mapping[str, Terms]]
"""What LoRAs add to the parameters of a checkpoint's models, by component."""


KEPT = 64
"""How many LoRAs are not opened again when they are used again, if their files have not changed."""


class LoraError(RowError, ValueError):
    """A row's LoRA cannot be opened, or does not fit the model."""


class Weights(Protocol):
    """The weights of a component's model."""

    def read_again(self, names: Collection[str], terms: Terms, on_read: Callable[[], None]) -> None:
        """Read some parameters again, with what LoRAs add to them; `on_read` is called for each."""


class LoraSwitch:
    """The LoRAs that are in the weights of a checkpoint's models, and the change to those of another row.

    Weights are not kept: parameters that one of the LoRAs changes are read again from the checkpoint's files,
    which are usually in the page cache. So a change takes time in proportion to these parameters and no
    memory, and the weights are the same bytes whichever LoRAs were there before.

    In a gang all ranks change their shares for the same row. Each opens and fits the LoRAs first, then they
    agree whether all could, and only then weights are written.

    Args:
        models: The models by component, loaded with what `fit` gives for `always`.
        fit: Finds the parameters that LoRAs change.
        always: LoRAs that are in the weights for all rows, before a row's own.
        known: Options of LoRAs that rows name, by place; others have only their place.
        gang: The ranks that hold the models together; by default this process alone.
    """

    def __init__(
        self,
        models: Mapping[str, Weights],
        fit: Fit,
        always: Sequence[LoraFile] = (),
        known: Mapping[str, LoraOptions] | None = None,
        gang: Group | None = None,
    ) -> None:
        self._models = models
        self._fit = fit
        self._always = tuple(always)
        self._known = known or {}
        self._gang = gang or alone().gang
        self._opened: dict[str, LoraFile] = {}
        self._of_row: tuple[tuple[str, float], ...] = ()
        self._terms = fit(self._always)
        self._counting = self._of(self._always)
        self._uncertain: dict[str, frozenset[str]] = {}

    def use(
        self, loras: Sequence[tuple[str, float]], on_read: Callable[[], None] = lambda: None
    ) -> frozenset[str]:
        """Let the weights have a row's LoRAs, and no other row's.

        Args:
            loras: Their places and scales; they are added in this order.
            on_read: Called for each parameter that is read: a sign of life.

        Returns:
            The components whose weights have changed.

        Raises:
            LoraError: A LoRA cannot be opened, has changed since the run began, or does not fit, here or on
                another rank of the gang; the weights are as they were.
            Refused: Weights cannot be read; the next row's change reads the same parameters again.
        """
        of_row = tuple(loras)
        if of_row == self._of_row and not self._uncertain:
            return frozenset()
        files, terms = self._fit_together(of_row)
        names = {component: self._differing(component, terms[component]) for component in self._models}
        self._uncertain = {component: some for component, some in names.items() if some}
        changed = frozenset(self._uncertain)
        for component in changed:
            self._models[component].read_again(names[component], terms[component], on_read)
        self._uncertain, self._terms, self._of_row = {}, terms, of_row
        self._counting = self._of(files)
        return changed

    def changing(self, components: str) -> tuple[tuple[str, float], ...]:
        """Digests and scales of the LoRAs, if they change components of these names' beginning."""
        touched = any(terms for name, terms in self._terms.items() if name.startswith(components))
        return self._counting if touched else ()

    @staticmethod
    def _of(loras: Sequence[LoraFile]) -> tuple[tuple[str, float], ...]:
        return tuple((lora.digest, lora.scale) for lora in loras)

    def _fit_together(
        self, of_row: Sequence[tuple[str, float]]
    ) -> tuple[Sequence[LoraFile], Mapping[str, Terms]]:
        """The LoRAs and what they add, once all ranks of the gang know it."""
        try:
            files = [*self._always, *(self._open(place, scale) for place, scale in of_row)]
            terms = self._fit(files)
        except Refused as error:
            holds_on_all(False, self._gang, "loras")
            raise LoraError(str(error)) from error
        if not holds_on_all(True, self._gang, "loras"):
            places = ", ".join(redact(place) for place, _ in of_row)
            raise LoraError(f"lora {places}: another rank of the gang cannot open or fit it")
        return files, terms

    def _open(self, place: str, scale: float) -> LoraFile:
        found = self._opened.pop(place, None)
        if found is None or found.state != state_of(found.path):
            known = self._known.get(place, LoraOptions(id=place))
            found = unchanged(open_lora(known), known)
        self._opened[place] = found
        while len(self._opened) > KEPT:
            del self._opened[next(iter(self._opened))]
        return dataclasses.replace(found, scale=scale)

    def _differing(self, component: str, terms: Terms) -> frozenset[str]:
        """The names of a model's parameters that the LoRAs of before and these do not change alike."""
        before = self._terms[component]
        differing = {name for name in before.keys() | terms.keys() if before.get(name) != terms.get(name)}
        return self._uncertain.get(component, frozenset()) | differing
