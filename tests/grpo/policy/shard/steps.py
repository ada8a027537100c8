"""Training steps on a tiny model, by one process or by several: what both must compute alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo.config import GRPOConfig
from grpo.losses.normaliser import token_weights
from grpo.policy.learner import routing_of
from grpo.policy.moe_balance import Balance
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
LOSS = {"router_aux_loss_coef": 0.7}
BIAS = {"router_bias_update_rate": 0.01}
EXPERTS = 4
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
    "experts, replayed": {"kind": "qwen3_moe", "replay": True},
    "experts' loss": LOSS | {"kind": "qwen3_moe", "updates_per_batch": 2},
    "experts' loss, checkpointing, one group": LOSS
    | {"kind": "qwen3_moe", "gradient_checkpointing": True, "groups": 1},
    "experts' bias": BIAS | {"kind": "deepseek_v3"},
    "experts' loss and a bias that is a parameter": LOSS | BIAS | {"kind": "ernie4_5_moe"},
    "experts' loss, no group": LOSS | {"kind": "qwen3_moe", "groups": 0},
}
SIZES: dict[str, Any] = {
    "vocab_size": 101,  # no multiple of the number of processes
    "hidden_size": 32,
    "intermediate_size": 65,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,
}
MIXED = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3_moe": MIXED | {"num_experts": EXPERTS},
    "deepseek_v3": MIXED
    | LATENT
    | {
        "n_routed_experts": EXPERTS,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "ernie4_5_moe": MIXED | {"moe_num_experts": EXPERTS, "moe_k": 2, "moe_layer_start_index": 1},
}


def model_of(lora: bool, seed: int = 0, kind: str = "qwen3") -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**(SIZES | KINDS[kind])))
    return (
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)) if lora else model
    )


def batch(config: GRPOConfig, step: int, groups: int, replay: bool = False) -> TrainBatch:
    """Groups of 1 to 6 completions of 1 to 30 tokens; their costs differ by far."""
    rng = random.Random(step)

    def experts(length: int) -> np.ndarray:
        chosen = [rng.sample(range(EXPERTS), 2) for _ in range(length * SIZES["num_hidden_layers"])]
        return np.array(chosen, np.int16).reshape(length, SIZES["num_hidden_layers"], 2)

    samples = []
    for _ in range(groups):
        prompt = tuple(rng.randrange(1, 101) for _ in range(rng.randint(1, 12)))
        of_prompt = experts(len(prompt)) if replay else None
        for _ in range(rng.randint(1, 6)):
            ids = tuple(rng.randrange(1, 101) for _ in range(rng.randint(1, MAX_TOKENS)))
            logprobs = tuple(-4.6 + rng.gauss(0, 0.3) for _ in ids)
            known = None if of_prompt is None else np.concatenate([of_prompt, experts(len(ids) - 1)])
            samples.append(Sample(prompt, ids, logprobs, rng.gauss(0, 1), experts=known))
    lengths = [len(sample.completion_ids) for sample in samples]
    return TrainBatch(samples, token_weights(config.normaliser_kind, lengths, MAX_TOKENS) if samples else [])


def trained(case: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Metrics of each step, the first step's gradient and the last weights, all whole."""
    from grpo.policy.load import enable_gradient_checkpointing

    settings = dict(CASES[case])
    lora, groups = settings.pop("lora", False), settings.pop("groups", 5)
    kind, replay = settings.pop("kind", "qwen3"), settings.pop("replay", False)
    config = GRPOConfig(**{"learning_rate": 1e-2, "max_grad_norm": 0.5, "tokens_per_micro_batch": 120, **settings})
    policy = Policy(model_of(lora, kind=kind))
    reference = Policy(model_of(False, seed=1).requires_grad_(False)) if config.kl_coef and not lora else None
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(policy.model)
    for one in (policy, reference) if ranks.size > 1 else ():
        if one is not None:
            shard(one, ranks, CPU)
    # Adam's eps is 1: a step is smooth in the gradient, which rounding may turn round where it is nearly 0.
    if kind != "qwen3":
        policy.routing = routing_of(policy)
    balance = Balance(policy, config, ranks) if config.router_aux_loss_coef or config.router_bias_update_rate else None
    optimizer = MasterAdamW(policy.parameters(), eps=1.0)
    update = PolicyUpdate(config, 0.9, policy, optimizer, reference, ranks, balance=balance)
    assert (update.padded is None) == config.packing
    metrics, gradients = [], {}
    for step in range(1, STEPS + 1):
        metrics.append(update.run(step, batch(config, step, groups, replay)))
        if step == 1:
            gradients = whole(policy, "grad")
    penalties = update.kl_penalties(batch(config, 9, groups).samples) if config.kl_coef else []
    weights = whole(policy, "data")
    biases = {name: gathered(bias, torch.float32).clone() for name, bias in (balance.biases if balance else {}).items()}
    return {"metrics": metrics, "gradients": gradients, "weights": weights | biases, "penalties": penalties}


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
