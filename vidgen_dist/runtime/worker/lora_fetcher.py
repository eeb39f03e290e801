"""Fetches the LoRAs of rows that wait, while the rows before them are rendered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.spec import LoraOptions
from vidgen_dist.weights.lora.files import open_lora
from vidgen_dist.worker_events import OnWorkerEvent, WorkerEvent


class LoraFetcher:
    """Fetches each LoRA once, in a thread of its own, into the caches that this host's workers share.

    Args:
        known: The LoRAs that rows name, with their commits.
        on_event: Called if one cannot be fetched: rows that need it try again, and say so.
    """

    def __init__(self, known: Sequence[LoraOptions], on_event: OnWorkerEvent) -> None:
        self._known = {lora.id: lora for lora in known}
        self._on_event = on_event
        self._waiting: queue.SimpleQueue[LoraOptions] = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._thread = threading.Thread(target=self._fetch_all, name="loras", daemon=True)

    def fetch_for(self, rows: Sequence[PendingRow]) -> None:
        """Fetch the LoRAs of these rows; returns at once."""
        for place, _ in (lora for row in rows for lora in row.request.loras):
            if place not in self._asked:
                self._asked.add(place)
                self._waiting.put(self._known.get(place, LoraOptions(id=place)))
                if self._thread.ident is None:
                    self._thread.start()

    def _fetch_all(self) -> None:
        while True:
            lora = self._waiting.get()
            try:
                open_lora(lora)
            except Exception as error:  # noqa: BLE001 - the next one is fetched, and the row says what is wrong
                self._on_event(WorkerEvent("retried", error=type(error).__name__, message=str(error)))
