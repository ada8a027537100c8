"""The training step packed and padded, alternately in one run, for each kind of attention.

    python -m benchmarks.packing [--only KIND,KIND] [--rounds N] [--prompt N] [--dtype float32] [--json FILE]

Random models of four layers; groups of 8 completions of 16 to 128 tokens, half of each rewarded. A step is all of
`PolicyUpdate.run`: forward, backward, AdamW. Printed is the padded step's time over the packed one's, median and range
of the rounds, after a warm-up of both; and what both computed in the first step, which must be equal.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmarks.turns import ratios
from benchmarks.workload import Work

GROUPS, GROUP, SHORTEST, LONGEST = 4, 8, 16, 128
VOCABULARY = 512
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.1,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 128}
LATENT = {"q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64}
STATES = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
# What is measured -> (model_type of transformers, what it takes beside SIZES).
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen3", {}),
    "sliding window": ("mistral", {"sliding_window": 64}),
    "sinks": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}),
    "capped scores": ("gemma2", {"sliding_window": 64, "query_pre_attn_scalar": 64}),
    "latent": (
        "deepseek_v3",
        # head_dim: what transformers gives positions to, which is a part of a head here
        {**LATENT, **EXPERTS, "head_dim": 32, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
        | {"num_key_value_heads": 4},
    ),
    "linear and full": (
        "qwen3_next",
        {**EXPERTS, **STATES, "num_experts": 8, "layer_types": ["linear_attention", "full_attention"] * 2},
    ),
    "mixture of experts": ("qwen3_moe", {**EXPERTS, "num_experts": 8}),
}


def measure(kind: str, work: Work, rounds: int, dtype: str) -> dict[str, Any]:
    """{"speedup": {"median", "low", "high"}, ...}, or {"padded": why it is not packed}."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from benchmarks.train_step import train_batch
    from grpo.config import GRPOConfig
    from grpo.policy.learner import Learner

    name, more = KINDS[kind]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**(SIZES | more))
    how = "eager" if getattr(config, "attn_logit_softcapping", None) else None  # as grpo/policy/load.py
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=how)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"learning_rate": 1e-6, "correction": "none", "tokens_per_micro_batch": 8192}
    packed, padded = (
        Learner(GRPOConfig(packing=packing, **settings), 1.0, deepcopy(model).to(device)) for packing in (True, False)
    )
    if packed.padded:
        return {"padded": packed.padded}
    batch = train_batch(work)
    first = {side: learner.update(1, batch) for side, learner in (("packed", packed), ("padded", padded))}
    seconds: dict[str, list[float]] = {"packed": [], "padded": []}
    for step in range(2, 2 + rounds):
        for side, learner in (("packed", packed), ("padded", padded)):
            started = time.perf_counter()
            learner.update(step, batch)
            seconds[side].append(time.perf_counter() - started)
    norms = [one["grad_norm"] for one in first.values()]
    return {
        "speedup": ratios(seconds["padded"], seconds["packed"]),
        "seconds": seconds,
        "loss_difference": abs(first["packed"]["loss"] - first["padded"]["loss"]),
        "gradient_difference": abs(norms[0] - norms[1]) / norms[1],  # of the norms, relative
    }


def in_words(kind: str, found: dict[str, Any]) -> str:
    if "padded" in found:
        return f"{kind}: padded ({found['padded']})"
    ratio = found["speedup"]
    return (
        f"{kind}: {ratio['median']:.2f} times as fast packed ({ratio['low']:.2f} to {ratio['high']:.2f}); loss apart "
        f"by {found['loss_difference']:.1g}, the gradient's norm by {found['gradient_difference']:.1g} of itself"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lengths = tuple(
        tuple(SHORTEST + (LONGEST - SHORTEST) * ((5 * i + 3 * group) % GROUP) // (GROUP - 1) for i in range(GROUP))
        for group in range(GROUPS)
    )
    work = Work(VOCABULARY, options.prompt, lengths)
    found = {}
    for kind in options.only.split(","):
        found[kind] = measure(kind, work, options.rounds, options.dtype)
        print(in_words(kind, found[kind]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
