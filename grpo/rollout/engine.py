"""What the trainer and the evaluator need of whatever samples for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from grpo.types import Group, RolloutRequest

if TYPE_CHECKING:
    from grpo.rollout.sync.stream import WeightStream


class RolloutError(RuntimeError):
    """Sampling cannot go on. The message says which stage, why, and what to do."""


class ServerLostError(RolloutError):
    """The server does not answer (any more). Whoever supervises it should look, restart it and ask again.

    `urls`: of the servers that are meant, where that is known.
    """

    def __init__(self, message: str, urls: Collection[str] = ()) -> None:
        super().__init__(message)
        self.urls = frozenset(urls)


class LeaseLostError(ServerLostError):
    """The server answers, and belongs to another run, or to none, by now."""


class WeightSyncError(RolloutError):
    """The server does not hold the weights that it was sent."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one weight sync did.

    Example: SyncReport(version=3, seconds=0.9, seconds_paused=0.3, n_bytes=269_000_000, checksum="9f2c...")
    """

    version: int
    seconds: float
    seconds_paused: float  # of these, in which nothing could be sampled
    n_bytes: int
    checksum: str  # of all tensors, computed by both sides; of an adapter, by the trainer alone


class RolloutEngine(Protocol):
    """Samples completions with a known version of the weights.

    Legal order of calls:

        await engine.start()
        while training:
            async for group in engine.generate(requests): ...
            await engine.update_weights(stream, version)          # may run while `generate` is in flight
        await engine.close()                                      # always, also after an error
    """

    name: str  # "vllm" or "transformers"; recorded in summary.json
    concurrent: bool  # whether what several calls of `generate` ask for is sampled together

    @property
    def version(self) -> int:
        """Of the weights being served; 0 until the first update."""
        ...

    @property
    def restarts(self) -> int:
        """Servers that died, or stood still, and were started again."""
        ...

    async def start(self) -> None: ...

    def generate(self, requests: Sequence[RolloutRequest]) -> AsyncIterator[tuple[int, Group]]:
        """Yield (index into requests, group) as groups complete; every request is answered once."""
        ...

    async def ask_each(self, requests: Sequence[RolloutRequest]) -> Mapping[str, Sequence[Group]]:
        """The groups of every server that serves, by its name: each is asked all of the requests."""
        ...

    async def update_weights(self, stream: WeightStream, version: int) -> SyncReport:
        """Serve these weights (names and shapes of the transformers checkpoint, in the served dtype).

        An engine that restarts its server sends the last ones again. It keeps them where the trainer may change its
        own in the meantime, which is where completions are in flight while a step trains; else it may read the
        stream again, until the next update. Raises WeightSyncError if they are refused.
        """
        ...

    async def close(self) -> None: ...


class AdapterEngine(RolloutEngine, Protocol):
    """An engine that can serve a LoRA adapter beside the weights of the start."""

    async def update_adapter(self, folder: Path, version: int) -> SyncReport:
        """Serve the adapter in `folder` (as peft saves it).

        The folder stays while one of the last `RolloutSettings.adapters_served`.
        """
        ...
