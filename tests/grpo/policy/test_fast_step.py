"""The fast training step computes what the plain one computes: packed, shared, chunked and skipped, for every loss."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

import grpo.policy.logprobs
from grpo.config import GRPOConfig, ModelSettings
from grpo.losses.normaliser import token_weights
from grpo.losses.objective import Objective
from grpo.names import NORMALISERS
from grpo.policy.load import completion_logprobs, load_model
from grpo.policy.optim import MasterAdamW
from grpo.policy.packing.attention import NAME
from grpo.policy.packing.pack import pack
from grpo.policy.packing.pad import pad
from grpo.policy.policy import Policy
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample

pytestmark = pytest.mark.slow

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
LAYERS = ["sliding_attention", "full_attention"]
ARCHITECTURES = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=True),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=6, layer_types=LAYERS),
}
MAX_TOKENS = 20


def model_of(name: str, lora: bool) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(ARCHITECTURES[name])).float()
    return (
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)) if lora else model
    )


def ragged(model: nn.Module, seed: int) -> list[Sample]:
    """Groups of 1 to 4 completions; every third group has no advantage. The sampler is near the policy."""
    rng = random.Random(seed)
    samples = []
    for group in range(6):
        prompt = tuple(rng.randrange(100) for _ in range(rng.randint(1, 10)))
        for _ in range(rng.randint(1, 4)):
            ids = tuple(rng.randrange(100) for _ in range(rng.randint(1, MAX_TOKENS)))
            samples.append(Sample(prompt, ids, (0.0,) * len(ids), 0.0 if group % 3 == 2 else rng.gauss(0, 1)))
    with torch.no_grad():
        logprobs = completion_logprobs(model, pad(samples, [1.0] * len(samples)), 0.9)[0].tolist()
    near = iter(value + rng.gauss(0, 0.3) for value in logprobs)
    return [
        Sample(s.prompt_ids, s.completion_ids, tuple(next(near) for _ in s.completion_ids), s.advantage)
        for s in samples
    ]


def trained(model: nn.Module, samples: list[Sample], config: GRPOConfig, skip: bool) -> tuple[dict, list[torch.Tensor]]:
    """Metrics and the gradient of the last of two updates on the batch.

    Adam's eps is 1, so that a step is smooth in the gradient: the second update starts from the same weights on both
    sides, far enough from the first for every clip to be at work.
    """
    weights = token_weights(config.normaliser_kind, [len(s.completion_ids) for s in samples], MAX_TOKENS)
    kept = [i for i, s in enumerate(samples) if s.advantage or not skip]
    update = PolicyUpdate(config, 0.9, Policy(model), MasterAdamW(model.parameters(), eps=1.0), reference=None)
    metrics = update.run(1, TrainBatch([samples[i] for i in kept], [weights[i] for i in kept]))
    assert (update.padded is None) == config.packing
    return metrics, [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("loss", NORMALISERS)
def test_the_fast_step_equals_the_plain_one(monkeypatch, loss, name, lora):
    updates = 1 if loss == "reinforce" else 2
    # gspo's own clip of 3e-4 is so narrow that rounding decides on which side a ratio is.
    clip = {"clip_low": 0.5, "clip_high": 0.5} if loss.startswith("gspo") else {}
    settings = {"loss": loss, "learning_rate": 0.1, "updates_per_batch": updates, "max_grad_norm": 1e9, **clip}
    samples = ragged(model_of(name, lora), seed=len(loss))
    plain_config = GRPOConfig(**settings, packing=False, tokens_per_micro_batch=10**6)
    plain, plain_grads = trained(model_of(name, lora), samples, plain_config, skip=False)
    assert Objective(plain_config).skips_zero_advantage
    monkeypatch.setattr(grpo.policy.logprobs, "CHUNK_LOGITS", 7 * 100)  # 7 tokens at a time
    monkeypatch.setattr(grpo.policy.logprobs, "MIN_WORDS", 13)  # backward: of the vocabulary, at most 100 words
    fast, grads = trained(model_of(name, lora), samples, GRPOConfig(**settings, tokens_per_micro_batch=60), skip=True)
    assert fast["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert fast["grad_norm"] == pytest.approx(plain["grad_norm"], abs=1e-4)
    assert max((a - b).abs().max().item() for a, b in zip(grads, plain_grads, strict=True)) < 1e-5
    assert max(grad.abs().max().item() for grad in plain_grads) > 1e-3  # the comparison is not of zeros


def test_the_packed_steps_gradient_repeats_bit_for_bit_though_completions_share_a_position(tiny_model):
    """A group's first tokens are all predicted from one position: the sum of their gradients has one order."""
    rng = random.Random(0)
    model = load_model(ModelSettings(path=str(tiny_model), dtype="float32"))
    model.set_attn_implementation(NAME)
    prompt = tuple(rng.randrange(2, 90) for _ in range(5))
    samples = [Sample(prompt, (rng.randrange(2, 90),) * 2, (-1.0,) * 2, rng.gauss(0, 1)) for _ in range(400)]
    batch = pack(samples, [1.0] * len(samples))
    gradients = []
    for _ in range(20):
        model.zero_grad()
        logprobs_T, _ = completion_logprobs(model, batch, 1.0)
        (logprobs_T * batch.advantage_T).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for other in gradients[1:] for a, b in zip(gradients[0], other, strict=True))
