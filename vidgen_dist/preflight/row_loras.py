"""The LoRAs that a manifest's rows name: opened before a run, each once."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any, Generic

from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import R, Rules
from vidgen_dist.request import RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.contract import SamplingContract, merged_contract
from vidgen_dist.weights.lora.files import LoraFile, open_lora


class RowLoras(Generic[R]):
    """Opens the LoRAs that rows name as the rows are resolved, and applies their sampling contracts.

    Args:
        rules: What the model takes.
        scheduler: Settings over the checkpoint's scheduler config, of the run or its contract.
        binding: Whether rows that contradict a contract are refused.
    """

    def __init__(
        self, rules: Rules[R], scheduler: Mapping[str, Any] | None = None, *, binding: bool = True
    ) -> None:
        self._rules = rules
        self._scheduler = scheduler
        self._binding = binding
        self._found: dict[str, LoraFile | str] = {}
        self._rules_with: dict[tuple[str, ...], Rules[R]] = {}
        self._lock = threading.Lock()

    def resolve(self, request: RenderRequest | ResolvedRequest, *seed: int) -> R:
        """As `Rules.resolve`; also raises RequestError for a LoRA that cannot be used in this run."""
        contracts = {}
        for place in request.lora or ():
            found = self._find(place)
            if isinstance(found, str):
                raise RequestError("lora", place, found)
            if found.contract is not None:
                contracts[place] = found.contract
        rules = self._rules_for(contracts) if contracts else self._rules
        return rules.resolve(request, *seed)

    @property
    def found(self) -> list[dict[str, Any]]:
        """The LoRAs that could be opened, each with its commit and digest, as a spec holds them."""
        return [
            LoraOptions(id=place, revision=lora.revision, digest=lora.digest).model_dump(exclude_none=True)
            for place, lora in self._opened.items()
        ]

    @property
    def digests(self) -> dict[str, str]:
        """Their digests by place."""
        return {place: lora.digest for place, lora in self._opened.items()}

    @property
    def _opened(self) -> dict[str, LoraFile]:
        return {place: lora for place, lora in self._found.items() if isinstance(lora, LoraFile)}

    def _find(self, place: str) -> LoraFile | str:
        """A LoRA, or why it cannot be opened."""
        with self._lock:
            if place not in self._found:
                try:
                    self._found[place] = open_lora(LoraOptions(id=place))
                except Refused as error:
                    self._found[place] = str(error)
            return self._found[place]

    def _rules_for(self, contracts: Mapping[str, SamplingContract]) -> Rules[R]:
        """The rules for rows with LoRAs of these contracts, beside the run's."""
        key = tuple(contracts)
        with self._lock:
            if key not in self._rules_with:
                self._rules_with[key] = self._with_contracts(contracts)
            return self._rules_with[key]

    def _with_contracts(self, contracts: Mapping[str, SamplingContract]) -> Rules[R]:
        for place, contract in contracts.items():
            if contract.scheduler is not None and contract.scheduler != self._scheduler:
                asked = f"{contract.place} asks for the scheduler {dict(contract.scheduler)}"
                allowed = f"{asked}, but all rows of a run have one: give it as model.scheduler"
                raise RequestError("lora", place, allowed)
        try:
            merged = merged_contract([self._rules.contract, *contracts.values()])
        except Refused as error:
            raise RequestError("lora", ", ".join(contracts), str(error)) from None
        assert merged is not None
        return dataclasses.replace(self._rules, contract=dataclasses.replace(merged, binding=self._binding))
