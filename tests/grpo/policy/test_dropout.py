"""Training computes what the server computes: the dropout of a model's config is off, an adapter's is on."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, FalconConfig, GPT2Config, LlamaConfig, OPTConfig

from grpo.config import GRPOConfig, LoraSettings, ModelSettings
from grpo.policy.adapters import add_adapter
from grpo.policy.load import completion_logprobs, enable_gradient_checkpointing, load_model, training_mode
from grpo.policy.optim import MasterAdamW
from grpo.policy.packing.pad import pad
from grpo.policy.policy import Policy
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample

SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    # Dropout of the attention's kernel; of modules; in a layer's own forward, and whole layers; read from the config.
    "llama": LlamaConfig(**SIZES, intermediate_size=64, attention_dropout=0.5),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
    "opt": OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5, layerdrop=0.5),
    "falcon": FalconConfig(**SIZES, hidden_dropout=0.5, attention_dropout=0.5),
}
SAMPLES = [Sample((5, 6, 7), tuple(range(8, 8 + n)), (-4.0,) * n, (-1.0) ** n, None) for n in (5, 2, 9)]


def model_of(kind: str, checkpointing: bool = False, lora_dropout: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    if checkpointing:
        enable_gradient_checkpointing(model)
    if lora_dropout is not None:
        lora = LoraSettings(r=4, dropout=lora_dropout)
        model = add_adapter(model, ModelSettings(path=kind, dtype="float32", lora=lora))
    return model


def updated(model: nn.Module, step: int, **settings) -> torch.Tensor:
    config = GRPOConfig(learning_rate=1e-2, **settings)
    update = PolicyUpdate(config, 1.0, Policy(model), MasterAdamW(model.parameters()))
    update.run(step, TrainBatch(SAMPLES, [1 / 16] * 3))
    return nn.utils.parameters_to_vector(p for p in model.parameters() if p.requires_grad).detach().clone()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_updates_of_different_steps_from_one_state_are_equal_to_the_bit(kind, checkpointing):
    # The step seeds the random numbers, so that any dropout would differ.
    first, second = (updated(model_of(kind, checkpointing), step) for step in (1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, nn.utils.parameters_to_vector(model_of(kind).parameters()))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_logprobs_in_training_are_those_of_evaluation(kind, checkpointing):
    model, batch = model_of(kind, checkpointing), pad(SAMPLES, [1.0] * 3, torch.device("cpu"))
    evaluated_T = completion_logprobs(model, batch, 1.0)[0]
    training_mode(model)
    assert torch.equal(completion_logprobs(model, batch, 1.0)[0], evaluated_T)


@pytest.mark.parametrize("lora_dropout", [None, 0.5])
def test_gradient_checkpointing_computes_every_layer_twice_and_changes_nothing(lora_dropout):
    calls, ends = [], []
    for checkpointing in (False, True):
        model = model_of("opt", checkpointing, lora_dropout)
        seen: list[int] = []
        for module in model.modules():
            if type(module).__name__ == "OPTAttention":
                module.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        ends.append(updated(model, 1, packing=False))
        calls.append(len(seen))
    # Two layers; the old log-probs are those of the update's own forward only where that has no dropout.
    assert calls == ([2, 4] if lora_dropout is None else [4, 6])
    assert torch.allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_an_adapters_dropout_is_on_where_it_is_asked_for(kl_coef):
    # With a KL, the reference is computed in between, without the adapter and its dropout.
    without = [updated(model_of("llama", lora_dropout=0.0), step, kl_coef=kl_coef) for step in (1, 2)]
    with_dropout = [updated(model_of("llama", lora_dropout=0.5), step, kl_coef=kl_coef) for step in (1, 2, 1)]
    assert torch.equal(*without)
    assert not torch.equal(*with_dropout[:2])
    assert torch.equal(with_dropout[0], with_dropout[2])


def test_the_config_that_is_saved_keeps_its_dropout(tmp_path):
    model_of("llama").save_pretrained(tmp_path / "start")
    model = load_model(ModelSettings(path=str(tmp_path / "start"), dtype="float32"))
    updated(model, 1)
    model.save_pretrained(tmp_path / "trained")
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["attention_dropout"] == 0.5
