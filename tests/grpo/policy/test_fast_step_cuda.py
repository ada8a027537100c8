"""On a GPU too, the fast training step computes what the plain one computes: FlexAttention compiled, large chunks."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

import grpo.policy.logprobs
from grpo.config import GRPOConfig
from grpo.losses.normaliser import token_weights
from grpo.policy.optim import MasterAdamW
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

SMALL = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
}
LAYERS = ["sliding_attention", "full_attention"]
ARCHITECTURES = {
    "llama-64": LlamaConfig(**SMALL, head_dim=64),
    "llama-24": LlamaConfig(**SMALL, head_dim=24),  # no power of two
    "qwen3-128": Qwen3Config(**SMALL, head_dim=128, tie_word_embeddings=True),
    "gemma3-32": Gemma3TextConfig(**SMALL, head_dim=32, sliding_window=40, layer_types=LAYERS),
}
MAX_TOKENS = 300
# Largest difference of a gradient over the largest gradient. bf16 has 8 bits; each way rounds at places of its own.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def model_of(name: str, dtype: str) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(ARCHITECTURES[name])).to("cuda", getattr(torch, dtype))


def ragged(seed: int, groups: int = 5) -> list[Sample]:
    rng = random.Random(seed)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(500) for _ in range(rng.randint(1, most)))

    samples = []
    for _ in range(groups):
        prompt = tokens(150)
        for ids in (tokens(MAX_TOKENS) for _ in range(rng.randint(1, 5))):
            samples.append(Sample(prompt, ids, (0.0,) * len(ids), rng.gauss(0, 1)))
    return samples


def trained(model: nn.Module, samples: list[Sample], config: GRPOConfig) -> tuple[dict, list[torch.Tensor]]:
    """Metrics and fp32 gradients of one update."""
    weights = token_weights(config.normaliser_kind, [len(s.completion_ids) for s in samples], MAX_TOKENS)
    optimizer = MasterAdamW(model.parameters(), eps=1.0)
    update = PolicyUpdate(config, 0.9, model, optimizer)
    assert (update.padded is None) == config.packing, update.padded
    metrics = update.run(1, TrainBatch(samples, weights))
    return metrics, [master.grad for master in optimizer.masters]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_fast_step_equals_the_plain_one_on_a_gpu(monkeypatch, dtype, name):
    assert torch.get_float32_matmul_precision() == "highest"  # no TF32
    samples = ragged(seed=1)
    settings = {"correction": "none", "learning_rate": 1e-3, "max_grad_norm": 1e9}
    plain_config = GRPOConfig(**settings, packing=False, tokens_per_micro_batch=10**6)
    plain, plain_grads = trained(model_of(name, dtype), samples, plain_config)
    monkeypatch.setattr(grpo.policy.logprobs, "CHUNK_LOGITS_GPU", 70 * 500)
    monkeypatch.setattr(grpo.policy.logprobs, "MIN_WORDS", 130)
    fast, grads = trained(model_of(name, dtype), samples, GRPOConfig(**settings, tokens_per_micro_batch=1500))
    scale = max(grad.abs().max().item() for grad in plain_grads)
    worst = max((a - b).abs().max().item() for a, b in zip(grads, plain_grads, strict=True)) / scale
    print(f"{dtype} {name}: loss {plain['loss']:.6f} {fast['loss']:.6f}, gradient off by {worst:.2g} of {scale:.2g}")
    assert scale > 1e-4  # the comparison is not of zeros
    assert worst < TOLERANCE[dtype]
    assert fast["grad_norm"] == pytest.approx(plain["grad_norm"], rel=TOLERANCE[dtype])


def test_micro_batches_of_other_shapes_do_not_compile_attention_anew():
    """Twenty layouts, prompts and lengths all different: what was compiled for the first ones serves the rest."""
    model = model_of("gemma3-32", "bfloat16")
    config = GRPOConfig(correction="none", learning_rate=1e-3, tokens_per_micro_batch=10**6)
    update = PolicyUpdate(config, 0.9, model, MasterAdamW(model.parameters()))
    assert update.padded is None

    def step(seed: int) -> int:
        samples = ragged(seed, groups=1 + seed % 7)
        update.run(seed, TrainBatch(samples, [1 / len(samples)] * len(samples)))
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    warm = [step(seed) for seed in range(5)]
    later = [step(seed) for seed in range(5, 25)]
    print("graphs compiled:", warm, later)
    assert later[-1] == warm[-1]
