"""Log-probabilities of chosen tokens, and entropies, without ever holding tokens x vocabulary.

    logp_t = z_t[y_t] - l_t,    z_t = f(W h_t) / temperature,  l_t = logsumexp(z_t),  p_t = softmax(z_t)
    H_t = l_t - sum_v p_tv z_tv

    dlogp_t / dz_t = onehot(y_t) - p_t          dH_t / dz_t = -p_t * (log p_t + H_t)

f is the head's (head.py): a factor, which is one on the temperature, and a cap, f(x) = c tanh(x / c).
Both directions work on chunks, of tokens forward and of the vocabulary backward; the backward computes the logits again
instead of keeping them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = 2**23  # logits held at once: 32 MiB in fp32
CHUNK_LOGITS_GPU = 2**27  # 512 MiB: with fewer tokens at once, a GPU waits for the weight of the head
MIN_WORDS = 1024  # fewer make thin matrix products
# A chunk's words are a multiple of it: rows of logits that do not start at 16 bytes get a GPU's slow matrix products.
ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Head:
    """f. Example: Head(scale=0.0625), or Head(cap=30.0)"""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, output: Tensor) -> Tensor:
        """Logits of what the output layer returns."""
        scaled = output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def __str__(self) -> str:
        parts = [f"scaled by {self.scale:g}"] if self.scale != 1 else []
        return ", ".join(parts + ([f"capped at {self.cap:g}"] if self.cap else [])) or "plain"


PLAIN = Head()


class _SelectedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        target_T: Tensor,
        temperature: float,
        cap: float | None,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs_T = hidden_TH.new_empty(len(target_T), dtype=torch.float32)
        entropy_T, lse_T = torch.empty_like(logprobs_T), torch.empty_like(logprobs_T)
        for rows in _chunks(len(target_T), len(weight_VH), hidden_TH.device):
            logits_CV = _logits(hidden_TH[rows], weight_VH, bias_V, temperature, cap)
            lse_T[rows] = lse_C = torch.logsumexp(logits_CV, dim=1)
            logprobs_T[rows] = logits_CV.gather(1, target_T[rows, None]).squeeze(1) - lse_C
            entropy_T[rows] = lse_C - torch.linalg.vecdot(torch.softmax(logits_CV, dim=1), logits_CV)
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, target_T, lse_T, entropy_T)
        ctx.temperature, ctx.cap = temperature, cap
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_T)
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, target_T, lse_T, entropy_T = ctx.saved_tensors
        # The logits' factor 1 / temperature is put on the gradients of single tokens, not on those of logits.
        grad_T, grad_entropy_T = (torch.zeros_like(lse_T) if grad is None else grad / ctx.temperature for grad in grads)
        grad_hidden_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
        grad_weight_VH = torch.empty_like(weight_VH) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        # With the normalisers known, chunks of the vocabulary: each gives its rows of the weight's gradient once and
        # for all, where chunks of tokens would each add to the whole of it.
        for words in _chunks(len(weight_VH), len(target_T), hidden_TH.device, at_least=MIN_WORDS):
            bias_C = None if bias_V is None else bias_V[words]
            logits_TC = _logits(hidden_TH, weight_VH[words], bias_C, ctx.temperature, ctx.cap)
            slope_TC = None if ctx.cap is None else 1 - (logits_TC / ctx.cap).square_()
            logp_TC = logits_TC.sub_(lse_T[:, None])
            # dlogp and dentropy together: onehot * grad - p * (grad + grad_entropy * (log p + H))
            factor = grad_T[:, None]
            if grads[1] is not None:
                factor = torch.addcmul(factor, grad_entropy_T[:, None], logp_TC + entropy_T[:, None])
            grad_TC = logp_TC.exp_().mul_(-factor)
            # A target that is not of this chunk adds 0 to some column: choosing those that are would wait for the GPU.
            column_T = target_T - words.start
            here_T = (column_T >= 0) & (column_T < grad_TC.shape[1])
            column_T = column_T.clamp(0, grad_TC.shape[1] - 1)
            grad_TC.scatter_add_(1, column_T[:, None], (grad_T * here_T)[:, None])
            if slope_TC is not None:
                grad_TC.mul_(slope_TC)
            if grad_bias_V is not None:
                grad_bias_V[words] = grad_TC.sum(0)
            grad_TC = grad_TC.to(weight_VH.dtype)
            grad_hidden_TH += grad_TC @ weight_VH[words]
            if grad_weight_VH is not None:
                torch.mm(grad_TC.T, hidden_TH, out=grad_weight_VH[words])
        return (
            grad_hidden_TH.to(hidden_TH.dtype),
            grad_weight_VH,
            grad_bias_V,
            *(None,) * 4,
        )


def _chunks(n: int, width: int, device: torch.device, at_least: int = 1) -> list[slice]:
    """Of `n` rows of `width` logits, as many at once as may be held."""
    size = max(at_least, (CHUNK_LOGITS if device.type == "cpu" else CHUNK_LOGITS_GPU) // max(1, width))
    size -= size % ALIGNED if size > ALIGNED else 0
    return [slice(start, start + size) for start in range(0, n, size)]


def _logits(
    hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float, cap: float | None
) -> Tensor:
    logits_CV = nn.functional.linear(hidden_CH, weight_VH, bias_V).float()
    logits_CV = logits_CV if temperature == 1 else logits_CV.div_(temperature)
    return logits_CV if cap is None else logits_CV.div_(cap).tanh_().mul_(cap)


def selected_logprobs(
    hidden_TH: Tensor,
    head: nn.Linear,
    target_T: Tensor,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
    form: Head = PLAIN,
) -> tuple[Tensor, Tensor]:
    """fp32 log-probs of `target_T`, with gradient to hidden and head, and entropies in nats, without unless asked."""
    hidden_TH = hidden_TH.to(head.weight.dtype)  # some decoders return fp32
    cap = None if form.cap is None else form.cap / temperature
    return _SelectedLogprobs.apply(
        hidden_TH, head.weight, head.bias, target_T, temperature / form.scale, cap, entropy_gradient
    )
