"""One server's log-probs against the trainer's: what both are asked for, and what their difference may be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.types import Prompt, RolloutRequest, Sample, Sampling

SHORT, LONG, SINGLE = 6, 1, 4  # prompts of a few tokens, of many, and of one, whose log-prob no attention has a part in
SHORT_TOKENS, LONG_TOKENS, NEW_TOKENS = 16, 256, 8
MULTIPLE = 10.0  # of the noise: the server decodes token by token, by other kernels than the trainer's


@dataclass(frozen=True, slots=True)
class Comparison:
    """One server's log-probs against the trainer's. `difference`, `noise`: root mean square, in nats."""

    server: str
    difference: float
    mean: float  # absolute difference, as the metric logprob_diff
    noise: float
    tokens: int
    samples: tuple[Sample, ...]
    trained: Tensor  # the trainer's log-probs, sample after sample

    @property
    def bound(self) -> float:
        return MULTIPLE * self.noise

    @property
    def equal(self) -> bool:
        return self.difference <= self.bound

    def __str__(self) -> str:
        return f"{self.difference:.2g} nats, at most {self.bound:.2g} expected ({MULTIPLE:g} times the noise)"


def requests_for(
    vocabulary: int, max_prompt: int, longest: int, max_tokens: int, temperature: float, far: int = LONG_TOKENS
) -> list[RolloutRequest]:
    """What the log-probs are compared on: random prompts, the same for everybody.

    Args:
        vocabulary: tokens are drawn from it.
        max_prompt, longest: tokens of a prompt, and of prompt and completion, that the server takes.
        max_tokens: of a completion, that the recipe asks for.
        far: tokens of the long prompt, if it may have so many.
    """
    rng = random.Random(0)
    new = max(1, min(NEW_TOKENS, max_tokens, longest - 1))
    most = max(1, min(max_prompt, longest - new))
    lengths = [min(SHORT_TOKENS, most)] * SHORT + [min(far, most)] * LONG + [1] * SINGLE
    found = []
    for i, length in enumerate(lengths):
        tokens = tuple(rng.randrange(vocabulary) for _ in range(length))
        prompt = Prompt(id=f"proof/{i}", text="", token_ids=tokens, answer="")
        found.append(RolloutRequest(prompt, 1, Sampling(new if length > 1 else 1, temperature), seed=i))
    return found


def served_logprobs(samples: Sequence[Sample]) -> Tensor:
    return torch.tensor([x for sample in samples for x in sample.sampler_logprobs], dtype=torch.float64)
