"""Attention with capped scores (Gemma 2), packed: c tanh(q k / c). No kernel on CPUs has a cap; autograd does the rest.

The two parts of attention.py, with scores of a segment's own tokens and of a completion's tokens over its prompt, no
others: what padded rows would compute twice, and of padding, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.policy.packing.layout import Layout, completions_and_prompt, own_mask, prompt_mask, taken


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None, cap: float
) -> Tensor:
    """query (1, heads, T, D), key and value (1, kv heads, T, D) -> (1, heads, T, D)."""
    query = query * scale
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    own, places = [], []
    for batch in layout.batches:
        n = batch.at_SN.shape[1]
        mask = own_mask(batch, window)
        mask = torch.ones(n, n, dtype=torch.bool).tril() if mask is None else mask
        out, lse = _part(taken(query, batch), taken(key, batch), taken(value, batch), mask, cap)
        own.append([x.transpose(0, 1)[:, batch.real_SN] for x in (out, lse)])  # (heads, tokens, D), (heads, tokens)
        places.append(batch.at_SN[batch.real_SN])
    order = torch.cat(places).argsort()
    out, lse = (torch.cat(parts, 1)[None, :, order] for parts in zip(*own, strict=True))
    if not layout.shared:
        return out
    prompt_out, prompt_lse = torch.zeros_like(out), torch.full_like(lse, torch.finfo(lse.dtype).min)
    for group in layout.shared:
        at, prompt = completions_and_prompt(group)
        mask = prompt_mask(layout, group, window)
        part, part_lse = _part(query[:, :, at], key[:, :, prompt], value[:, :, prompt], mask, cap)
        prompt_out[:, :, at], prompt_lse[:, :, at] = part, part_lse
    return out.lerp(prompt_out, torch.sigmoid(prompt_lse - lse)[..., None].to(out.dtype))


def _part(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float) -> tuple[Tensor, Tensor]:
    """(output, logsumexp in fp32) of the keys that `mask` shows, all if it is None."""
    scores = cap * torch.tanh((q @ k.transpose(-1, -2)).float() / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # finite: a row may see nothing
    return torch.softmax(scores, -1).to(v.dtype) @ v, torch.logsumexp(scores, -1)
