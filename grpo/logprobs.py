"""Log-probabilities of chosen tokens, and entropies, without ever holding tokens x vocabulary.

    logp_t = z_t[y_t] - l_t,    z_t = W h_t / temperature,  l_t = logsumexp(z_t),  p_t = softmax(z_t)
    H_t = l_t - sum_v p_tv z_tv

    dlogp_t / dz_t = onehot(y_t) - p_t          dH_t / dz_t = -p_t * (log p_t + H_t)

Both directions work on chunks of tokens; the backward computes the logits again instead of keeping them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = 2**23  # logits held at once: 32 MiB in fp32


class _SelectedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        temperature: float,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs_T = hidden_TH.new_empty(len(target_T), dtype=torch.float32)
        entropy_T, lse_T = torch.empty_like(logprobs_T), torch.empty_like(logprobs_T)
        for rows in _chunks(len(target_T), len(weight_VH)):
            logits_CV = _logits(hidden_TH[rows], weight_VH, bias_V, temperature)
            lse_T[rows] = lse_C = torch.logsumexp(logits_CV, dim=1)
            logprobs_T[rows] = logits_CV.gather(1, target_T[rows, None]).squeeze(1) - lse_C
            entropy_T[rows] = lse_C - torch.linalg.vecdot(torch.softmax(logits_CV, dim=1), logits_CV)
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, lse_T, entropy_T)
        ctx.temperature = temperature
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_T)
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, target_T, lse_T, entropy_T = ctx.saved_tensors
        zero_T = torch.zeros_like(lse_T)
        grad_T, grad_entropy_T = (zero_T if grad is None else grad for grad in grads)
        grad_hidden_TH = torch.empty_like(hidden_TH)
        # Summed over chunks in fp32: a bf16 sum would lose what later chunks add.
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for rows in _chunks(len(target_T), len(weight_VH)):
            logp_CV = _logits(hidden_TH[rows], weight_VH, bias_V, ctx.temperature).sub_(lse_T[rows, None])
            # dlogp and dentropy together: onehot * grad - p * (grad + grad_entropy * (log p + H))
            factor = grad_T[rows, None]
            if grads[1] is not None:
                factor = torch.addcmul(factor, grad_entropy_T[rows, None], logp_CV + entropy_T[rows, None])
            grad_CV = logp_CV.exp_().mul_(-factor)
            grad_CV.scatter_add_(1, target_T[rows, None], grad_T[rows, None])
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0) / ctx.temperature
            grad_CV = grad_CV.to(weight_VH.dtype)
            grad_hidden_TH[rows] = (grad_CV @ weight_VH) / ctx.temperature
            if grad_weight_VH is not None:
                grad_weight_VH += (grad_CV.T @ hidden_TH[rows]) / ctx.temperature
        return (
            grad_hidden_TH,
            None if grad_weight_VH is None else grad_weight_VH.to(weight_VH.dtype),
            None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
            None,
            None,
        )


def _chunks(n_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, n_tokens, size)]


def _logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    return nn.functional.linear(hidden_CH, weight_VH, bias_V).float().div_(temperature)


def selected_logprobs(
    hidden_TH: Tensor, head: nn.Linear, target_T: Tensor, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """fp32 log-probs of `target_T`, with gradient to hidden and head, and entropies in nats, without unless asked."""
    return _SelectedLogprobs.apply(hidden_TH, head.weight, head.bias, target_T, temperature, entropy_gradient)
