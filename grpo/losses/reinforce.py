"""Plain REINFORCE, on-policy.

    loss_t = -A_t log pi(t)

Williams 1992; for language models arXiv 2402.14740. There is no ratio, so it is exact only for tokens that the
policy itself sampled: one update a batch (more are refused), and what staleness is left is the correction's.
The constant normaliser makes the sum over the batch REINFORCE's mean over completions, up to 1 / max_tokens.
"""

from __future__ import annotations

import torch

from grpo.losses.types import LossInputs, TokenLoss


def reinforce(inputs: LossInputs) -> TokenLoss:
    return TokenLoss(-inputs.advantage_T * inputs.logprobs_T, torch.zeros_like(inputs.advantage_T, dtype=torch.bool))
