"""Whether a model can be packed: asked of the model itself, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from grpo.policy.load import causal_lm
from grpo.policy.packing.attention import NAME
from grpo.policy.packing.pack import pack
from grpo.policy.packing.pad import pad
from grpo.policy.policy import Policy
from grpo.types import PackedBatch, Sample

# Mean |packed - padded| log-prob of the probe's tokens. A model that mixes up segments is off by much more.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def use_packed_attention(policy: Policy) -> str | None:
    """Switch the policy to packed attention. None, or why it cannot be packed; it is then left as it was.

    Two small groups are computed packed and padded. Whatever a model does that a flat row breaks (attention of
    its own, a recurrent state, positions counted by itself) shows as different log-probs.
    """
    lm = causal_lm(policy.model)
    before = lm.config._attn_implementation
    try:
        padded_T = _logprobs(policy, pad)
        lm.set_attn_implementation(NAME)
        packed_T = _logprobs(policy, pack)
    except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        lm.set_attn_implementation(before)
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    difference = (packed_T - padded_T).abs().mean().item()
    allowed = TOLERANCE.get(policy.dtype, TOLERANCE[torch.bfloat16])
    if not difference <= allowed:  # NaN is no agreement
        lm.set_attn_implementation(before)
        return f"its packed log-probs differ from the padded ones by {difference:.2g} on average, expected {allowed:g}"
    return None


def _logprobs(policy: Policy, build: Callable[..., PackedBatch]) -> Tensor:
    """Log-probs of the probe's tokens, in one and the same order for both ways."""
    embeddings = cast(Tensor, causal_lm(policy.model).get_input_embeddings().weight)
    samples = _samples(len(embeddings))
    return policy.measured(build(samples, [1.0] * len(samples), embeddings.device), 1.0)[0]


def _samples(vocabulary: int) -> list[Sample]:
    """Two prompts of 9 and 5 tokens with completions of 1 to 12; the same for everybody."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (n,), generator=generator).tolist())

    groups = [(tokens(9), (12, 1, 7)), (tokens(5), (4, 11))]
    return [Sample(prompt, tokens(n), (0.0,) * n, 0.0) for prompt, lengths in groups for n in lengths]
