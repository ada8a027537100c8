"""CISPO: the importance weight is clipped, not the update, so that every token keeps a gradient.

    loss_t = -sg[clip(rho_t, 1 - low, 1 + high)] A_t log pi(t),    rho_t = pi(t) / pi_old(t)

MiniMax-M1, arXiv 2506.13585 (sg: no gradient). The paper sets no lower bound (clip_low: 1) and does
not publish its upper one; 1 + high = 5 is ScaleRL's (arXiv 2510.13786). TRL's epsilon_high is our 1 + clip_high.

Degenerate: at pi = pi_old the gradient is REINFORCE's; the value has no meaning of its own.
"""

from __future__ import annotations

import torch

from grpo.losses.types import LossInputs, TokenLoss


def cispo(inputs: LossInputs, *, clip_low: float, clip_high: float) -> TokenLoss:
    """`clipped_T`: tokens whose weight is cut; they keep a gradient."""
    ratio_T = torch.exp(inputs.logprobs_T.detach() - inputs.old_logprobs_T)
    weight_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    return TokenLoss(-weight_T * inputs.advantage_T * inputs.logprobs_T, weight_T != ratio_T)
