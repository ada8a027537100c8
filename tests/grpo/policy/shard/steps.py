"""Training steps on a tiny model, by one process or by several: what both must compute alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses.normaliser import token_weights
from grpo.policy.optim import MasterAdamW
from grpo.policy.policy import Policy
from grpo.policy.shard.ranks import ALONE, Ranks, joined
from grpo.policy.shard.shard import gathered, shard
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample

STEPS = 3
MAX_TOKENS = 30
CPU = torch.device("cpu")
KL = {"kl_coef": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo": {"loss": "dapo"},
    "gspo": {"loss": "gspo", "clip_low": 0.5, "clip_high": 0.5},
    "cispo": {"loss": "cispo"},
    "kl": KL,
    "synced reference": KL | {"kl_sync_every": 2},
    "entropy mask": {"entropy_top_share": 0.3},
    "entropy target": {"entropy_target": 4.0, "entropy_coef": 0.01},
    "two updates": {"updates_per_batch": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "padded": {"packing": False},
    "lora": {"lora": True},
    "lora, kl": KL | {"lora": True},
    "one group": {"groups": 1},  # of more ranks all but one are without work
    "no group": {"groups": 0},
}


def model_of(lora: bool, seed: int = 0) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=101,  # no multiple of the number of processes
        hidden_size=32,
        intermediate_size=65,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    model = Qwen3ForCausalLM(config)
    return (
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)) if lora else model
    )


def batch(config: GRPOConfig, step: int, groups: int) -> TrainBatch:
    """Groups of 1 to 6 completions of 1 to 30 tokens; their costs differ by far."""
    rng = random.Random(step)
    samples = []
    for _ in range(groups):
        prompt = tuple(rng.randrange(1, 101) for _ in range(rng.randint(1, 12)))
        for _ in range(rng.randint(1, 6)):
            ids = tuple(rng.randrange(1, 101) for _ in range(rng.randint(1, MAX_TOKENS)))
            logprobs = tuple(-4.6 + rng.gauss(0, 0.3) for _ in ids)
            samples.append(Sample(prompt, ids, logprobs, rng.gauss(0, 1)))
    lengths = [len(sample.completion_ids) for sample in samples]
    return TrainBatch(samples, token_weights(config.normaliser_kind, lengths, MAX_TOKENS) if samples else [])


def trained(case: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Metrics of each step, the first step's gradient and the last weights, all whole."""
    from grpo.policy.load import enable_gradient_checkpointing

    settings = dict(CASES[case])
    lora, groups = settings.pop("lora", False), settings.pop("groups", 5)
    config = GRPOConfig(**{"learning_rate": 1e-2, "max_grad_norm": 0.5, "tokens_per_micro_batch": 120, **settings})
    policy = Policy(model_of(lora))
    reference = Policy(model_of(False, seed=1).requires_grad_(False)) if config.kl_coef and not lora else None
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(policy.model)
    for one in (policy, reference) if ranks.size > 1 else ():
        if one is not None:
            shard(one, ranks, CPU)
    # Adam's eps is 1: a step is smooth in the gradient, which rounding may turn round where it is nearly 0.
    optimizer = MasterAdamW(policy.parameters(), eps=1.0)
    update = PolicyUpdate(config, 0.9, policy, optimizer, reference, ranks)
    assert (update.padded is None) == config.packing
    metrics, gradients = [], {}
    for step in range(1, STEPS + 1):
        metrics.append(update.run(step, batch(config, step, groups)))
        if step == 1:
            gradients = whole(policy, "grad")
    penalties = update.kl_penalties(batch(config, 9, groups).samples) if config.kl_coef else []
    return {"metrics": metrics, "gradients": gradients, "weights": whole(policy, "data"), "penalties": penalties}


def whole(policy: Policy, what: str) -> dict[str, Tensor]:
    found = {name: getattr(parameter, what) for name, parameter in policy.named_parameters() if parameter.requires_grad}
    return {name: gathered(tensor, torch.float32).clone() for name, tensor in found.items()}


def run(file: Path, replicas: int) -> None:
    """All cases, by one rank of several; rank 0 writes what came out."""
    torch.set_num_threads(1)
    with joined(CPU, replicas) as ranks:
        results = {case: trained(case, ranks) for case in CASES}
        if ranks.rank == 0:
            torch.save(results, file)
