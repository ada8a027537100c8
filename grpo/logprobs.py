"""Log-probabilities of chosen tokens without ever holding tokens x vocabulary.

    logp_t = z_t[y_t] - logsumexp(z_t),    z_t = W h_t / temperature
    dlogp_t / dz_t = onehot(y_t) - softmax(z_t)

Both directions work on chunks of tokens; the backward computes the logits again instead of keeping them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = 2**25  # logits held at once: 128 MiB in fp32


class _SelectedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_T: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T)
        ctx.temperature = temperature
        logprobs_T = hidden_TH.new_empty(len(target_T), dtype=torch.float32)
        entropy_T = torch.empty_like(logprobs_T)
        for rows in _chunks(len(target_T), len(weight_VH)):
            logp_CV = _log_softmax(hidden_TH[rows], weight_VH, bias_V, temperature)
            logprobs_T[rows] = logp_CV.gather(1, target_T[rows, None]).squeeze(1)
            entropy_T[rows] = -(logp_CV.exp() * logp_CV).sum(1)
        ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_T = grads[0]
        hidden_TH, weight_VH, bias_V, target_T = ctx.saved_tensors
        grad_hidden_TH = torch.empty_like(hidden_TH)
        # Summed over chunks in fp32: a bf16 sum would lose what later chunks add.
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for rows in _chunks(len(target_T), len(weight_VH)):
            grad_CV = _log_softmax(hidden_TH[rows], weight_VH, bias_V, ctx.temperature).exp_().neg_()
            grad_CV.scatter_add_(1, target_T[rows, None], torch.ones_like(grad_CV[:, :1]))
            grad_CV.mul_(grad_T[rows, None] / ctx.temperature)
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0)
            grad_CV = grad_CV.to(weight_VH.dtype)
            grad_hidden_TH[rows] = grad_CV @ weight_VH
            if grad_weight_VH is not None:
                grad_weight_VH += grad_CV.T @ hidden_TH[rows]
        return (
            grad_hidden_TH,
            None if grad_weight_VH is None else grad_weight_VH.to(weight_VH.dtype),
            None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
            None,
        )


def _chunks(n_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_LOGITS // vocabulary)
    return [slice(start, start + size) for start in range(0, n_tokens, size)]


def _log_softmax(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    logits_CV = nn.functional.linear(hidden_CH, weight_VH, bias_V).float()
    return torch.log_softmax(logits_CV.div_(temperature), dim=1)


def selected_logprobs(
    hidden_TH: Tensor, head: nn.Linear, target_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """fp32 log-probs of `target_T` (with gradient to hidden and head) and entropies in nats (without)."""
    return _SelectedLogprobs.apply(hidden_TH, head.weight, head.bias, target_T, temperature)
