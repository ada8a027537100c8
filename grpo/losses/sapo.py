"""SAPO: a sigmoid gate in place of the clip.

    loss_t = -(4 / tau) sigmoid(tau (rho_t - 1)) A_t,    rho_t = pi(t) / pi_old(t)
    tau = tau_positive where A_t > 0, else tau_negative

arXiv 2511.20347. The gradient fades smoothly on both sides of rho = 1, faster for negative advantages
(published: tau_positive 1.0, tau_negative 1.05). No token is clipped.

Degenerate: at pi = pi_old the gate has slope 1 and the gradient is REINFORCE's (the value there is -2 A_t / tau).
"""

from __future__ import annotations

import torch

from grpo.losses.types import LossInputs, TokenLoss


def sapo(inputs: LossInputs, *, tau_positive: float, tau_negative: float) -> TokenLoss:
    ratio_T = torch.exp(inputs.logprobs_T - inputs.old_logprobs_T)
    positive_T = inputs.advantage_T > 0
    tau_T = torch.where(positive_T, tau_positive, tau_negative)
    gate_T = torch.sigmoid(tau_T * (ratio_T - 1)) * 4 / tau_T
    return TokenLoss(-gate_T * inputs.advantage_T, torch.zeros_like(positive_T))
