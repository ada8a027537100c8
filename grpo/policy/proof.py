"""What is served is what is trained: proven before the first step, by numbers that both sides compute.

    perturb every trained tensor, send, ask every server for a few completions    log-probs equal the trainer's?
    put the tensors back to the bit, send, ask again                              log-probs equal the trainer's?

Equal is: their root mean square difference is within a multiple of the noise that the trainer's own log-probs of the
same tokens have (noise.py). A tensor that is not served, or is served in another's place, shows in the first
comparison, however small its part in the true model is; a function that the server computes in another way shows in
the second. What fails is looked for then: the head, the attention, or which tensors (perturbed a few at a time).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import torch

from grpo.config import ModelError, ModelSettings, RolloutSettings
from grpo.policy.compare import LONG_TOKENS, Comparison, requests_for, served_logprobs
from grpo.policy.learner import Learner
from grpo.policy.load import FAILS, max_positions
from grpo.policy.noise import rms
from grpo.policy.perturb import Part
from grpo.rollout.engine import RolloutEngine
from grpo.rollout.vllm.gpu_only import ROUNDING
from grpo.types import Group, RolloutRequest, Sample

T = TypeVar("T")

BEFORE = 1_000_000  # versions of perturbed weights lie so far below the run's: none is taken for one of its own
MOST_TRIES = 60  # weight syncs that looking for the tensors may take
MOST_PAIRS = 200  # of layers that may have changed places
MOST_FAR = 4096  # tokens of a prompt that proves scaled positions
SHOWN = 4  # names in a message
SCALES = (0.8, 1.25)  # factor of the logits that the head may be off by, to be recognised as such


@dataclass(frozen=True, slots=True)
class ServedProof:
    """The worst of all servers."""

    perturbed: Comparison
    true: Comparison
    tensors: int
    servers: int

    def summary(self) -> dict[str, Any]:
        return {
            "tensors": self.tensors,
            "servers": self.servers,
            "tokens": self.true.tokens,
            "difference": self.true.difference,
            "noise": self.true.noise,
            "bound": self.true.bound,
            "perturbed_difference": self.perturbed.difference,
            "perturbed_noise": self.perturbed.noise,
            "perturbed_bound": self.perturbed.bound,
        }


class Prover:
    """Proves that `engine` serves what `learner` trains.

    Args:
        send: serves the learner's present weights under a version; the trainer's own way to do so.
        requests: that the log-probs are compared on, see `requests_for`.
        compute: where the learner's work is done; its threads are the only ones that use the learner.
        rounding: relative, of what the servers quantise; None: they compute in the trainer's dtype.
    """

    def __init__(
        self,
        learner: Learner,
        engine: RolloutEngine,
        send: Callable[[int], Awaitable[Any]],
        requests: Sequence[RolloutRequest],
        compute: Executor,
        rounding: float | None = None,
    ) -> None:
        self._learner, self._engine, self._send = learner, engine, send
        self._requests, self._compute, self._rounding = requests, compute, rounding
        in_process = engine.name != "vllm"
        self._instead = (
            "try another version of transformers, or another model"
            if in_process
            else "use rollout.engine: transformers, or another version of vLLM"
        )
        self._tries = 0  # syncs of perturbed weights
        self._servers = 0

    async def prove(self, version: int, fresh: bool) -> ServedProof:
        """At the end the engine serves the true weights, as `version`.

        Args:
            fresh: the servers hold the checkpoint that the learner has loaded, and nothing was sent yet.

        Raises ModelError that names the part that fails and what to do; whatever `send` raises.
        """
        parts = self._learner.perturbation.parts
        if fresh and not (loaded := await self._compare()).equal:
            raise ModelError(await self._why_other(loaded, "before any weight was sent"))
        perturbed = await self._perturbed(parts, version)
        await self._send(version)
        true = await self._compare()
        if not true.equal:
            raise ModelError(
                await self._misplaced(true) if fresh else await self._why_other(true, "with these very weights")
            )
        if not perturbed.equal:
            raise ModelError(await self._not_served(parts, perturbed, version))
        return ServedProof(perturbed, true, len(parts), self._servers)

    # -- comparing -------------------------------------------------------------------------------------------------

    async def _perturbed(self, parts: Sequence[Part], version: int) -> Comparison:
        """The comparison with these parts perturbed, which are put back then, also after an error."""
        self._tries += 1
        async with self._flipped(parts):
            await self._send(version - BEFORE + self._tries)
            return await self._compare()

    @asynccontextmanager
    async def _flipped(self, parts: Sequence[Part]) -> AsyncIterator[None]:
        await self._run(self._learner.flip, parts)
        try:
            yield
        finally:
            await asyncio.shield(self._run(self._learner.flip, parts))

    async def _compare(self) -> Comparison:
        """Of the server that is farthest from the trainer."""
        answers = await self._engine.ask_each(self._requests)
        self._servers = len(answers)
        found = [await self._compared(server, groups) for server, groups in answers.items()]
        return max(found, key=lambda one: (not one.equal, one.difference))

    async def _compared(self, server: str, groups: Sequence[Group]) -> Comparison:
        samples = [Sample.of(group.prompt, completion) for group in groups for completion in group.completions]
        if not samples:
            causes = {cause for group in groups for cause in group.failures}
            raise ModelError(f"the server at {server} answers none of the proof's requests ({', '.join(causes)})")
        trained_T = torch.cat(await self._run(self._learner.measured, samples)).double()
        noise = await self._run(self._learner.noise, samples, self._rounding)
        difference_T = trained_T - served_logprobs(samples)
        least = torch.finfo(torch.float32).eps * max(1.0, rms(trained_T))
        return Comparison(
            server,
            rms(difference_T),
            difference_T.abs().mean().item(),
            max(noise, least),
            len(trained_T),
            tuple(samples),
            trained_T,
        )

    async def _run(self, method: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._compute, method, *args)
        except FAILS as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ModelError(
                f"model.path: its forward fails on the lengths that a run has ({why}); try train.packing: false, or a "
                "config.json that fits together"
            ) from error

    # -- what fails ------------------------------------------------------------------------------------------------

    async def _why_other(self, found: Comparison, when: str) -> str:
        """The server computes another function of the same weights: which part of it."""
        start = f"the server at {found.server} does not compute what is trained: {when} its log-probs differ by {found}"
        scale, left = await self._best_scale(found)
        if left <= found.bound:
            return (
                f"{start}. The head: its logits are {scale:.4g} times the trainer's. Look at what scales logits in "
                f"config.json, and at the temperature of a server of yours, or {self._instead}"
            )
        if self._first_tokens_agree(found):
            return (
                f"{start}. The attention: the first token, which attends to itself alone, agrees. Look at positions "
                "(rope_theta, rope_scaling), sliding windows, caps and sinks in the config.json that the server reads, "
                f"or {self._instead}"
            )
        return (
            f"{start}. The layers, not the attention alone: weights that the server loads in another way, or another "
            f"kind of layer: {self._instead}"
        )

    async def _best_scale(self, found: Comparison) -> tuple[float, float]:
        """The factor of the trainer's logits that comes closest to the server, and the difference that it leaves."""
        temperature = self._requests[0].sampling.temperature

        async def left(scale: float) -> float:
            logprobs = await self._run(self._learner.measured, found.samples, temperature / scale)
            return rms(torch.cat(logprobs).double() - served_logprobs(found.samples))

        low, high = SCALES
        ratio = (5**0.5 - 1) / 2
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        at_a, at_b = await left(a), await left(b)
        for _ in range(28):  # golden section: to a millionth
            if at_a < at_b:
                high, b, at_b = b, a, at_a
                a = high - ratio * (high - low)
                at_a = await left(a)
            else:
                low, a, at_a = a, b, at_b
                b = low + ratio * (high - low)
                at_b = await left(b)
        return (a, at_a) if at_a < at_b else (b, at_b)

    def _first_tokens_agree(self, found: Comparison) -> bool:
        served_T, start, firsts = served_logprobs(found.samples), 0, []
        for sample in found.samples:
            if len(sample.prompt_ids) == 1:
                firsts.append(start)
            start += len(sample.completion_ids)
        at = torch.tensor(firsts, dtype=torch.long)
        return bool(firsts) and rms(found.trained[at] - served_T[at]) <= found.bound

    async def _misplaced(self, found: Comparison) -> str:
        places = await self._exchanged(found)
        where = f": {places[0]} and {places[1]}" if places else ", or not at all"
        return (
            f"sync: the server at {found.server} computed what the trainer does when it had loaded the checkpoint, and "
            f"no more when it was sent the same weights: its log-probs differ by {found}. Tensors were loaded into "
            f"each other's places{where}: {self._instead}"
        )

    async def _exchanged(self, found: Comparison) -> tuple[str, str] | None:
        """Two blocks with whose weights exchanged the trainer computes what the server does."""
        blocks = self._learner.perturbation.blocks()
        pairs = sorted(combinations(range(len(blocks)), 2), key=lambda pair: pair[1] - pair[0])
        for a, b in pairs[:MOST_PAIRS]:
            await self._run(self._learner.exchange, blocks[a], blocks[b])
            try:
                trained_T = torch.cat(await self._run(self._learner.measured, found.samples))
            finally:
                await asyncio.shield(self._run(self._learner.exchange, blocks[a], blocks[b]))
            if rms(trained_T.double() - served_logprobs(found.samples)) <= found.bound:
                return blocks[a], blocks[b]
        return None

    async def _not_served(self, parts: Sequence[Part], found: Comparison, version: int) -> str:
        names = await self._guilty(parts, version)
        await self._send(version)
        return (
            f"sync: {_in_words(names)} did not reach the server at {found.server}: with every trained tensor perturbed "
            f"its log-probs differ from the trainer's by {found}. Training them would train another model than the one "
            f"that is sampled: {self._instead}"
        )

    async def _guilty(self, parts: Sequence[Part], version: int) -> list[str]:
        """Names of the tensors whose perturbation does not reach the server: kind by kind, then by halves."""
        kinds: defaultdict[str, list[Part]] = defaultdict(list)
        for part in parts:
            kinds[kind_of(part.name)].append(part)
        suspects, found = [kind for kind in kinds.values() if not await self._reaches(kind, version)], []
        for kind in suspects:
            found += await self._guilty_of(kind, version)
        return found or ["tensors that only matter together"]

    async def _guilty_of(self, parts: Sequence[Part], version: int) -> list[str]:
        if len(parts) == 1:
            if len(parts := self._learner.perturbation.stacked(parts[0])) == 1:
                return [str(parts[0])]
        elif self._tries >= MOST_TRIES:
            return [f"some of {parts[0]} to {parts[-1]}"]
        halves = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        bad = [half for half in halves if not await self._reaches(half, version)]
        if len(bad) == 2 and len(parts) > SHOWN:
            return [f"{parts[0]} to {parts[-1]}"]
        return [name for half in bad for name in await self._guilty_of(half, version)]

    async def _reaches(self, parts: Sequence[Part], version: int) -> bool:
        return (await self._perturbed(parts, version)).equal


def kind_of(name: str) -> str:
    """model.layers.3.mlp.gate.weight -> model.layers.*.mlp.gate.weight"""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _in_words(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@dataclass(frozen=True, slots=True)
class Proof:
    """Of a run. `summary`: for summary.json; `noise`: mean nats that server and trainer differ by; `note`: in words."""

    summary: Mapping[str, Any]
    noise: float
    note: str


async def prove(
    learner: Learner,
    engine: RolloutEngine,
    send: Callable[[int], Awaitable[Any]],
    compute: Executor,
    rollout: RolloutSettings,
    model: ModelSettings,
    version: int,
) -> Proof:
    """Serve the weights as `version`, and prove that they are what is trained; see Prover."""
    started = time.monotonic()
    longest = min(rollout.max_prompt_tokens + rollout.max_tokens, max_positions(model))
    sizes = (rollout.max_prompt_tokens, longest, rollout.max_tokens)
    far = LONG_TOKENS
    if model.rope_scaling:  # into the positions that the checkpoint does not know
        far += min(MOST_FAR, max_positions(model.model_copy(update={"rope_scaling": None})))
    requests = requests_for(learner.vocabulary, *sizes, rollout.temperature, far)
    requests = [replace(request, experts=rollout.routing_replay) for request in requests]
    rounding = ROUNDING[kind] if (kind := rollout.server.quantization) else None
    prover = Prover(learner, engine, send, requests, compute, rounding)
    fresh = version == 0 and not rollout.server.urls and not model.prompted  # those vectors are drawn at random
    served = await prover.prove(version, fresh=fresh)
    seconds, forward = time.monotonic() - started, learner.forward
    ways = f"head {forward.head}, {learner.rows}"
    note = (
        f"proven in {seconds:.1f} s: training computes the model's own log-probs to {forward.difference:.1g} nats "
        f"({ways}); the server computes the trainer's to {served.true.difference:.1g} nats, and to "
        f"{served.perturbed.difference:.1g} with each of {served.tensors} tensors perturbed"
    )
    summary = {"forward": asdict(forward), "served": served.summary(), "seconds": round(seconds, 2)}
    return Proof(summary, max(served.true.mean, served.true.noise), note)
