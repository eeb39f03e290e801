"""The LoRAs that a manifest's rows name: opened before a run, each once."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from vidgen_dist.engine import OpenedModel
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import R, Rules
from vidgen_dist.request import RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.spec import LoraOptions, RunSpec
from vidgen_dist.storage.uris import is_relative, redact
from vidgen_dist.weights.contract import SamplingContract, merged_contract
from vidgen_dist.weights.lora.files import open_lora


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
        self._found: dict[str, _Found | str] = {}
        self._rules_with: dict[tuple[str, ...], Rules[R] | str] = {}
        self._lock = threading.Lock()

    def resolve(self, request: RenderRequest | ResolvedRequest, *seed: int) -> R:
        """As `Rules.resolve`; also raises RequestError for a LoRA that cannot be used in this run."""
        contracts = {}
        for place in request.lora or ():
            found = self._find(place)
            if isinstance(found, str):
                raise RequestError("lora", redact(place), found)
            if found.contract is not None:
                contracts[place] = found.contract
        rules: Rules[R] | str = self._rules_for(contracts) if contracts else self._rules
        if isinstance(rules, str):
            raise RequestError("lora", ", ".join(map(redact, contracts)), rules)
        return rules.resolve(request, *seed)

    @classmethod
    def of_run(cls, model: OpenedModel, spec: RunSpec) -> RowLoras[Any]:
        """Those of a run with this model."""
        return cls(model.rules, model.scheduler, binding=spec.model.contract == "refuse")

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
    def _opened(self) -> dict[str, _Found]:
        return {place: lora for place, lora in self._found.items() if isinstance(lora, _Found)}

    def _find(self, place: str) -> _Found | str:
        """A LoRA, or why it cannot be opened."""
        with self._lock:
            if place not in self._found:
                self._found[place] = _look_up(place)
            return self._found[place]

    def _rules_for(self, contracts: Mapping[str, SamplingContract]) -> Rules[R] | str:
        """The rules for rows with LoRAs of these contracts, beside the run's; or why there can be none."""
        key = tuple(contracts)
        with self._lock:
            if key not in self._rules_with:
                try:
                    self._rules_with[key] = self._with_contracts(contracts.values())
                except Refused as error:
                    self._rules_with[key] = str(error)
            return self._rules_with[key]

    def _with_contracts(self, contracts: Iterable[SamplingContract]) -> Rules[R]:
        for contract in contracts:
            if contract.scheduler is not None and contract.scheduler != self._scheduler:
                asked = f"{contract.place} asks for the scheduler {dict(contract.scheduler)}"
                raise Refused(f"{asked}, but all rows of a run have one: give it as model.scheduler")
        merged = merged_contract([self._rules.contract, *contracts])
        assert merged is not None
        return dataclasses.replace(self._rules, contract=dataclasses.replace(merged, binding=self._binding))


@dataclass(frozen=True)
class _Found:
    """What is kept of a LoRA: there may be many thousands."""

    revision: str | None
    digest: str
    contract: SamplingContract | None


def _look_up(place: str) -> _Found | str:
    """Open a LoRA, or say why it cannot be opened."""
    if is_relative(place) and Path(place).exists():
        # Workers have another current folder.
        return f"a path that does not begin with a slash starts from the manifest's folder as ./{place}"
    try:
        lora = open_lora(LoraOptions(id=place))
    except Refused as error:
        return str(error)
    return _Found(lora.revision, lora.digest, lora.contract)
