"""The LoRAs that a manifest's rows name: opened before a run, each once."""

from __future__ import annotations

import threading
from typing import Any, Generic

from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import R, Rules
from vidgen_dist.request import RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.lora.files import open_lora


class RowLoras(Generic[R]):
    """Opens the LoRAs that rows name as the rows are resolved.

    Args:
        rules: What the model takes.
    """

    def __init__(self, rules: Rules[R]) -> None:
        self._rules = rules
        self._found: dict[str, LoraOptions | str] = {}
        self._lock = threading.Lock()

    def resolve(self, request: RenderRequest | ResolvedRequest, *seed: int) -> R:
        """As `Rules.resolve`; also raises RequestError for a LoRA that cannot be opened."""
        resolved = self._rules.resolve(request, *seed)
        for place in resolved.lora or ():
            found = self._find(place)
            if isinstance(found, str):
                raise RequestError("lora", place, found)
        return resolved

    @property
    def found(self) -> list[dict[str, Any]]:
        """The LoRAs that could be opened, each with its commit and digest, as a spec holds them."""
        return [lora.model_dump(exclude_none=True) for lora in self._options()]

    @property
    def digests(self) -> dict[str, str]:
        """Their digests by place."""
        return {lora.id: lora.digest for lora in self._options() if lora.digest is not None}

    def _options(self) -> list[LoraOptions]:
        return [lora for lora in self._found.values() if isinstance(lora, LoraOptions)]

    def _find(self, place: str) -> LoraOptions | str:
        """A LoRA with its commit and digest, or why it cannot be opened."""
        with self._lock:
            if place not in self._found:
                try:
                    lora = open_lora(LoraOptions(id=place))
                    self._found[place] = LoraOptions(id=place, revision=lora.revision, digest=lora.digest)
                except Refused as error:
                    self._found[place] = str(error)
            return self._found[place]
