"""What a loss is given of a micro-batch, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class LossError(ValueError):
    """A loss that cannot be found, or that returned what no gradient can be taken of. The message names it."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """The trained tokens of one micro-batch, flat, in nats. Completions are always whole.

    Example, two completions of 1 and 2 tokens:
        LossInputs(logprobs_T=tensor([-1.0, -0.2, -2.0], requires_grad=True), old_logprobs_T=tensor([-1.1, -0.2, -1.9]),
                   sampler_logprobs_T=tensor([-1.1, -0.2, -1.8]), advantage_T=tensor([0.7, -0.7, -0.7]),
                   weight_T=tensor([1/3, 1/3, 1/3]), sequence_T=tensor([0, 1, 1]), n_sequences=2,
                   entropy_T=tensor([0.9, 0.1, 1.4]))
    """

    logprobs_T: Tensor  # of the policy being trained, at the sampling temperature; carries the gradient
    old_logprobs_T: Tensor  # of the policy at the start of this batch's updates
    sampler_logprobs_T: Tensor  # as the server reported them
    advantage_T: Tensor
    weight_T: Tensor  # the normaliser's weight, counted over the whole optimizer batch
    sequence_T: Tensor  # int64: which completion of the micro-batch, 0..n_sequences - 1
    n_sequences: int
    entropy_T: Tensor  # of the policy being trained; carries a gradient where an entropy bonus asked for it
    ref_logprobs_T: Tensor | None = None  # of the reference, where a KL term asked for it
    staleness_T: Tensor | None = None  # int64: optimizer steps since the weights that sampled it; None: all 0
    policy_mask_T: Tensor | None = None  # bool: tokens with a policy gradient; None: all


class TokenLoss(NamedTuple):
    """A policy loss by token, before normaliser and correction."""

    loss_T: Tensor  # carries the gradient
    clipped_T: Tensor  # bool: tokens that the loss holds back


class LossTerms(NamedTuple):
    """A micro-batch's share of the loss; shares add up over micro-batches and processes."""

    loss: Tensor  # scalar; carries the gradient
    stats: Mapping[str, Tensor]  # scalars without gradient: sums over tokens, see `Objective.metrics`
