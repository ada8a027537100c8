"""Causal attention over a flat row of groups, each prompt computed once for all of its completions.

The row holds, group after group, the prompt and then its completions one after another. A token sees the
tokens of its own segment up to itself, and a completion's token sees its prompt besides. Two parts, each
without any mask, make up the attention of a completion's token:

    own segment    o_1 = softmax(q k_own) v_own         l_1 = logsumexp(q k_own)          causal
    its prompt     o_2 = softmax(q k_prompt) v_prompt   l_2 = logsumexp(q k_prompt)       all of it
    together       l = log(e^l_1 + e^l_2),  o = e^(l_1 - l) o_1 + e^(l_2 - l) o_2

FlashAttention's backward (arXiv 2205.14135, algorithm 4) reads the softmax from o and l alone. Given the o and l
of the whole, it returns each part's gradients exactly, and a prompt's are their sums over its completions.

A sink (gpt-oss) is a score s of each head that everybody sees and whose value is 0: l' = log(e^l + e^s),
o' = e^(l - l') o. The same backward holds for o' and l', and ds = -e^(s - l') do . o', summed over tokens.

Capped scores (Gemma 2) have no kernel on a CPU: capped.py. On a GPU the same rule is a mask of FlexAttention, which
skips the blocks that nobody sees.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo.policy.packing.capped import capped_attention
from grpo.policy.packing.layout import (
    Batch,
    Layout,
    completions_and_prompt,
    own_mask,
    prompt_mask,
    taken,
)

NAME = "zero_packed"  # what transformers calls it: model.set_attn_implementation(NAME)
# PyTorch's bf16 CPU kernel converts at every block: below this many tokens fp32 is up to three times faster.
FP32_BELOW = 512


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: query (1, heads, T, D), key and value (1, kv heads, T, D) -> (1, T, heads, D).

    Values may have another size than queries. Without `packing`, the model's padded input: PyTorch's attention. Raises
    NotImplementedError for what is not computed here: dropout; caps and sinks of padded input, and both together.
    """
    if (dropout and packing is not None) or ((softcap or s_aux is not None) and packing is None):
        raise NotImplementedError("packed attention computes no dropout, and no caps and no sinks of padded rows")
    if softcap and s_aux is not None:
        raise NotImplementedError("packed attention computes no cap of scores beside a sink")
    if packing is None:
        plain = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, **others}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **plain)
    if attention_mask is not None and attention_mask.numel() > 1:  # not the one that we gave, see load.py
        raise NotImplementedError("its layers choose by themselves what a token sees (a mask of their own)")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window and sliding_window < packing.longest else None
    if softcap and query.device.type == "cpu":
        out = capped_attention(query, key, value, packing, scale, window, softcap)
    elif query.device.type == "cpu":
        size = max(query.shape[-1], value.shape[-1])  # the kernel has one
        qkv = (_filled(x, size) for x in (query, key, value))
        out = _PackedAttention.apply(*qkv, s_aux, packing, scale, window)[..., : value.shape[-1]]
    else:
        out = _flex(query, key, value, s_aux, packing, scale, window, softcap)
    return out.transpose(1, 2), None


def _filled(x: Tensor, size: int) -> Tensor:
    """With zeros, which change neither a score nor a value."""
    return x if x.shape[-1] == size else nn.functional.pad(x, (0, size - x.shape[-1]))


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        layout: Layout,
        scale: float,
        window: int | None,
    ) -> Tensor:
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32)
        for batch in layout.batches:
            part, part_lse = _forward([taken(x, batch) for x in (q, k, v)], scale, own_mask(batch, window))
            _put(out, part, batch)
            _put(lse[..., None], part_lse[..., None], batch)
        for group in layout.shared:
            queries, prompt = completions_and_prompt(group)
            mask = prompt_mask(layout, group, window)
            part, part_lse = _forward([q[:, :, queries], k[:, :, prompt], v[:, :, prompt]], scale, mask, causal=False)
            own, own_lse = out[:, :, queries], lse[:, :, queries]
            share = torch.sigmoid(part_lse - own_lse)[..., None]  # of the prompt in the softmax
            own.copy_(own.float().lerp_(part.float(), share))
            own_lse.copy_(torch.logaddexp(own_lse, part_lse))
        if sinks is not None:
            score = sinks.float()[:, None].expand_as(lse)
            out.copy_(out.float() * torch.sigmoid(lse - score)[..., None])
            lse = torch.logaddexp(lse, score)
        ctx.save_for_backward(q, k, v, out, lse, sinks)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        q, k, v, out, lse, sinks = ctx.saved_tensors
        layout, scale, window = ctx.layout, ctx.scale, ctx.window
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        for batch in layout.batches:
            grad_batch = taken(grad, batch) * batch.real_SN[:, None, :, None]
            inputs = [grad_batch, *(taken(x, batch) for x in (q, k, v, out))]
            lse_batch = taken(lse[..., None], batch).squeeze(-1)
            parts = _backward(inputs, lse_batch, scale, own_mask(batch, window))
            for whole, part in zip((grad_q, grad_k, grad_v), parts, strict=True):
                _put(whole, part, batch)
        for group in layout.shared:
            at, prompt = completions_and_prompt(group)
            mask = prompt_mask(layout, group, window)
            inputs = [grad[:, :, at], q[:, :, at], k[:, :, prompt], v[:, :, prompt], out[:, :, at]]
            part_q, part_k, part_v = _backward(inputs, lse[:, :, at], scale, mask, causal=False)
            grad_q[:, :, at] += part_q
            grad_k[:, :, prompt] += part_k
            grad_v[:, :, prompt] += part_v
        grad_sinks = None
        if sinks is not None:
            share = torch.exp(sinks.float()[:, None] - lse)
            grad_sinks = -(share * torch.linalg.vecdot(grad.float(), out.float())).sum((0, 2)).to(sinks.dtype)
        return grad_q, grad_k, grad_v, grad_sinks, None, None, None


def _put(x: Tensor, part: Tensor, batch: Batch) -> None:
    x[0, :, batch.at_SN[batch.real_SN]] = part.transpose(1, 2)[batch.real_SN].transpose(0, 1).to(x.dtype)


def _forward(qkv: Sequence[Tensor], scale: float, mask: Tensor | None, causal: bool = True) -> tuple[Tensor, Tensor]:
    """(output, logsumexp) of one part. Without the mask, `causal` says whether key j > query i is hidden."""
    q, k, v = _compute_dtype(qkv)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal and mask is None, attn_mask=_additive(mask, q), scale=scale
    )
    if mask is not None:  # a token far from its prompt sees nothing of it
        sees_some = mask.any(1)
        out, lse = out.nan_to_num() * sees_some[:, None], lse.masked_fill(~sees_some, float("-inf"))
    return out, lse


def _backward(
    inputs: Sequence[Tensor], lse: Tensor, scale: float, mask: Tensor | None, causal: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to q, k and v of one part. `inputs`: the output's gradient, q, k, v; and output, `lse` of the whole."""
    grad, q, k, v, out = _compute_dtype(inputs)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, lse, 0.0, causal and mask is None, attn_mask=_additive(mask, q), scale=scale
    )


def _compute_dtype(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    small = tensors[0].shape[2] < FP32_BELOW
    return [x.float() if small else x for x in tensors]


def _additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """What the kernel adds to the scores: 0 where the mask is True, -inf where it is False."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill_(~mask, float("-inf"))[None, None]


def _flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    layout: Layout,
    scale: float,
    window: int | None,
    cap: float | None = None,
) -> Tensor:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    # Without compilation both hold T x T: that is for tests on a CPU.
    make, attend = _compiled() if q.device.type == "cuda" else (create_block_mask, flex_attention)
    if window not in layout.block_masks:
        n = q.shape[2]
        layout.block_masks[window] = make(visible(layout, window, q.device), None, None, n, n, q.device)
    how = {"block_mask": layout.block_masks[window], "scale": scale, "enable_gqa": True}
    if cap:
        how["score_mod"] = functools.partial(_capped, cap=cap)
    if sinks is None:
        return attend(q, k, v, **how)
    out, aux = attend(q, k, v, **how, return_aux=AuxRequest(lse=True))
    return (out.float() * torch.sigmoid(aux.lse - sinks.float()[:, None])[..., None]).to(q.dtype)


def _capped(score: Tensor, *where: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(score / cap)


@functools.cache
def _compiled() -> tuple[Any, Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    return torch.compile(create_block_mask, dynamic=True), torch.compile(flex_attention, dynamic=True)


def visible(layout: Layout, window: int | None, device: torch.device | str) -> Any:
    """FlexAttention's mask_mod: whether token `query` of the row sees token `key`."""
    segment: list[int] = []
    prompt_of: list[int] = []
    for group in layout.groups:
        prompt = segment[-1] + 1 if segment else 0
        for i, (start, end) in enumerate(group.segments):
            segment += [prompt + i] * (end - start)
            prompt_of += [prompt] * (end - start)
    segment_T, prompt_T = torch.tensor(segment, device=device), torch.tensor(prompt_of, device=device)
    position_T = layout.position_T.to(device)
    # A tensor: FlexAttention is compiled anew for each value of a number.
    limit = torch.tensor(layout.longest if window is None else window, device=device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = position_T[query] - position_T[key]
        same = (segment_T[query] == segment_T[key]) | (prompt_T[query] == segment_T[key])
        return same & (distance >= 0) & (distance < limit)

    return sees


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)  # of padded input
