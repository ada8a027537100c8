"""Whether a model can be packed: asked of the model itself, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from grpo.policy.load import FAILS, causal_lm
from grpo.policy.noise import Noise, measure_noise
from grpo.policy.packing.attention import NAME
from grpo.policy.packing.pack import pack
from grpo.policy.policy import Policy
from grpo.types import Sample

KNOWN = {"full_attention", "sliding_attention"}


def use_packed_attention(policy: Policy, noise: Noise | None = None) -> str | None:
    """Switch the policy to packed attention. None, or why it cannot be packed; it is then left as it was.

    Two small groups are computed packed, and as the model's own forward computes them. Whatever a model does that a
    flat row breaks (attention of its own, a recurrent state, positions counted by itself) shows as different log-probs.
    """
    lm = causal_lm(policy.model)
    samples = probe_samples(policy)
    # The probe is shorter than their chunks and blocks: it would not see what they do.
    if others := set(getattr(lm.config.get_text_config(), "layer_types", None) or ()) - KNOWN:
        return f"its layers are {', '.join(sorted(others))}; packed are {', '.join(sorted(KNOWN))}"
    noise = noise or measure_noise(policy, samples)
    before = lm.config._attn_implementation
    try:
        lm.set_attn_implementation(NAME)
        packed_T = policy.measured(pack(samples, [1.0] * len(samples), device_of(policy)), 1.0)[0]
    except FAILS as error:
        lm.set_attn_implementation(before)
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if difference := noise.exceeded(packed_T):
        lm.set_attn_implementation(before)
        return f"its packed log-probs differ from the padded ones by {difference}"
    return None


def probe_samples(policy: Policy) -> list[Sample]:
    """Two prompts of 9 and 5 tokens with completions of 1 to 12; the same for everybody, group after group."""
    vocabulary = len(cast(Tensor, causal_lm(policy.model).get_input_embeddings().weight))
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (n,), generator=generator).tolist())

    groups: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = [(tokens(9), (12, 1, 7)), (tokens(5), (4, 11))]
    return [Sample(prompt, tokens(n), (0.0,) * n, 0.0) for prompt, lengths in groups for n in lengths]


def device_of(policy: Policy) -> torch.device:
    return next(policy.parameters()).device
