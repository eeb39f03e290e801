"""Encode the prompts of a run's pending rows, and keep them in its prompt store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vidgen_dist import engine as engines
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.plan import make_plan, open_run
from vidgen_dist.request import ResolvedRequest
from vidgen_dist.runtime.connection import RayFault, choose_device, connected
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.watchdog import limits_of
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.uris import redact

SHOWN = 20
"""Failed rows that are shown."""


@dataclass(frozen=True)
class EncodeResult:
    """What became of the rows.

    Args:
        store: Where the encoded prompts are.
        encoded, failed: Numbers of rows.
        fault: Why it ended before the last row; empty if it did not.
    """

    store: str
    encoded: int
    failed: int
    fault: str = ""


def encode(
    spec: RunSpec,
    actors: int,
    print_line: Callable[[str], None],
    show: Callable[[int, int | None], None],
    *,
    engine: str | None = None,
) -> EncodeResult:
    """Encode the prompts of all rows that are not done, on Ray actors.

    Args:
        spec: The run, with a prompt store.
        actors: How many processes have the text encoders, each on one NPU.
        print_line: Receives lines for a person.
        show: Receives numbers of rows: those that are done, and all of them.
        engine: See `render`.

    Raises:
        Refused: The run is wrong, as for `render`, or it has no prompt store.
        KeyboardInterrupt: Interrupted; what is encoded is kept.
    """
    if spec.model.prompt_cache is None:
        raise Refused("model.prompt_cache is missing: give it in the run file, or --prompt-cache")
    engine = engine or engines.ENGINE
    device = choose_device(spec.topology)
    encoded = failed = 0
    fault = ""
    # Without `count_only` a SIGTERM raises KeyboardInterrupt, too: each row that is encoded is kept at once.
    with Interrupts():
        plan = make_plan(*open_run(spec), device=device, engine=engine)

        def end(request: ResolvedRequest, error: str | None) -> None:
            nonlocal encoded, failed
            if error is None:
                encoded += 1
            else:
                failed += 1
                if failed <= SHOWN:
                    print_line(f"failed: {request.id}: {error}")
            show(encoded + failed, plan.pending)

        if plan.pending:
            with connected(spec.topology):
                from vidgen_dist.runtime.scheduling.encoder_pool import EncoderPool

                limits = limits_of(spec.topology.watchdog, device)
                try:
                    count = min(actors, plan.pending)
                    pool = EncoderPool(engine, plan.decided.model, device, count, limits, print_line)
                    pool.encode((row.request for row in plan.rows()), end)
                except RayFault as error:
                    fault = str(error)
    return EncodeResult(redact(spec.model.prompt_cache), encoded, failed, fault)
