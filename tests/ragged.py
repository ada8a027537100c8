"""Random ragged batches as losses get them, and a loss's value and gradient by log-prob."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses import LossInputs, LossTerms, token_weights
from grpo.losses.objective import Objective

MAX_TOKENS = 12
LENGTHS = (5, 1, 12, 3, 8, 2, 7, 4)


def ragged_inputs(seed: int = 0, lengths: Sequence[int] = LENGTHS, spread: float = 0.5) -> LossInputs:
    """Completions of `lengths` tokens; log-probs of the four policies differ by `spread` nats, the weights are 1."""
    rng = random.Random(seed)
    n = sum(lengths)

    def near(values: list[float]) -> list[float]:
        return [value + rng.gauss(0, spread) for value in values]

    old = [-3 * rng.random() - 0.5 for _ in range(n)]
    advantages = [rng.gauss(0, 1) for _ in lengths]
    return LossInputs(
        logprobs_T=torch.tensor(near(old), requires_grad=True),
        old_logprobs_T=torch.tensor(old),
        sampler_logprobs_T=torch.tensor(near(old)),
        advantage_T=torch.tensor([a for a, length in zip(advantages, lengths, strict=True) for _ in range(length)]),
        weight_T=torch.ones(n),
        sequence_T=torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)]),
        n_sequences=len(lengths),
        entropy_T=torch.tensor([3 * rng.random() for _ in range(n)], requires_grad=True),
        ref_logprobs_T=torch.tensor(near(old)),
        staleness_T=torch.tensor([rng.choice((0, 0, 1, 4)) for _ in range(n)]),
    )


def lengths_of(inputs: LossInputs) -> list[int]:
    return torch.bincount(inputs.sequence_T, minlength=inputs.n_sequences).tolist()


def weighted(inputs: LossInputs, config: GRPOConfig) -> LossInputs:
    """With the weights of the config's normaliser, the batch taken as the whole optimizer batch."""
    weights_S = torch.tensor(token_weights(config.normaliser_kind, lengths_of(inputs), MAX_TOKENS))
    return replace(inputs, weight_T=weights_S[inputs.sequence_T])


def completions(inputs: LossInputs, chosen: Sequence[int]) -> LossInputs:
    """The micro-batch of these completions, numbered anew. Its leaves are those of `inputs`."""
    where = torch.cat([(inputs.sequence_T == i).nonzero().squeeze(1) for i in chosen])
    tensors = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    cut = {name: value[where] for name, value in tensors.items() if isinstance(value, Tensor)}
    new_number = torch.tensor([chosen.index(int(i)) for i in cut["sequence_T"]])
    return LossInputs(**tensors | cut | {"sequence_T": new_number, "n_sequences": len(chosen)})


def gradient(inputs: LossInputs, loss: Callable[[LossInputs], LossTerms]) -> tuple[float, Tensor, LossTerms]:
    """Value, gradient by log-prob (T,), and the terms."""
    inputs.logprobs_T.grad = None
    terms = loss(inputs)
    terms.loss.backward()
    assert inputs.logprobs_T.grad is not None
    return terms.loss.item(), inputs.logprobs_T.grad.clone(), terms


def ours(inputs: LossInputs, config: GRPOConfig) -> tuple[float, Tensor, LossTerms]:
    return gradient(weighted(inputs, config), Objective(config))
