"""Stored rollouts to train on, and what training on them must cost.

Random tokens, no group without advantage. Model FLOPs of one training step, as they are counted for utilisation:

    6 N_body P  +  6 V H T  +  12 L h d C

    N_body  weights of the linear layers between embedding and head: 2 operations forward, 4 backward, a position
    P       positions that have to be computed: each prompt once, each completion but for its last token
    V H     weights of the head; T trained tokens, all completions' tokens
    C       sum over the positions of the keys that each attends to (itself included), in each of L layers with h heads
            of size d: 4 operations a key and a channel forward (scores and values), 8 backward

This is the least that computes the gradient, whatever a program computes besides (padding, a prompt once for each
completion, anything a second time): both sides are measured against it.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

STD_FLOOR = 1e-4  # of the advantage's denominator, TRL's and ours


@dataclass(frozen=True)
class Rollout:
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    reward: float
    advantage: float


@dataclass(frozen=True)
class Work:
    """Example: Work(vocabulary=49152, prompt=200, lengths=((16, 512, 30), (77, 40, 260))) has two groups of three."""

    vocabulary: int
    prompt: int  # tokens
    lengths: tuple[tuple[int, ...], ...]  # tokens of every completion, by group
    seed: int = 0

    @cached_property
    def groups(self) -> list[list[Rollout]]:
        rng = random.Random(self.seed)
        return [self._group(rng, lengths) for lengths in self.lengths]

    def _group(self, rng: random.Random, lengths: Sequence[int]) -> list[Rollout]:
        # Half of the group is right: every group has an advantage.
        rewards = [float(i % 2) for i in range(len(lengths))]
        rng.shuffle(rewards)
        scale = statistics.stdev(rewards) + STD_FLOOR
        prompt = self._tokens(rng, self.prompt)
        return [
            Rollout(prompt, self._tokens(rng, n), reward, (reward - statistics.fmean(rewards)) / scale)
            for n, reward in zip(lengths, rewards, strict=True)
        ]

    def _tokens(self, rng: random.Random, n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(self.vocabulary) for _ in range(n))

    @property
    def tokens(self) -> int:
        """Trained tokens."""
        return sum(map(sum, self.lengths))

    @property
    def positions(self) -> int:
        return sum(self.prompt + sum(n - 1 for n in group) for group in self.lengths)

    @property
    def keys(self) -> int:
        """Keys attended to, over all positions."""
        of_prompt = self.prompt * (self.prompt + 1) // 2
        return sum(of_prompt + sum((n - 1) * self.prompt + (n - 1) * n // 2 for n in group) for group in self.lengths)


def mixed_lengths(
    groups: int, group_size: int, low: int = 16, high: int = 512, seed: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Uniform in low..high."""
    rng = random.Random(f"lengths/{seed}")
    return tuple(tuple(rng.randint(low, high) for _ in range(group_size)) for _ in range(groups))


def model_flops(config: Any, body: int, work: Work) -> float:
    """Of one training step on `work`. `config`: transformers' text config; `body`: `body_parameters` of the model."""
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (
        6 * body * work.positions
        + 6 * config.vocab_size * config.hidden_size * work.tokens
        + 12 * config.num_hidden_layers * heads * head_size * work.keys
    )


def body_parameters(config: Any) -> int:
    """Weights of all linear layers but the head, from the configuration alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(m.weight.numel() for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear))
