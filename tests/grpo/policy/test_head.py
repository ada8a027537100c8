"""Heads that scale or cap their logits: measured on the model, computed in chunks like the model's own logits."""

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from grpo.policy import logprobs
from grpo.policy.head import OtherHeadError, measure_head
from grpo.policy.load import completion_logprobs
from grpo.policy.logprobs import PLAIN, Head
from grpo.policy.packing.pad import pad
from grpo.types import Sample

SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
HEADS = {
    "llama": (transformers.LlamaConfig(**SIZES), PLAIN),
    "cohere": (transformers.CohereConfig(**SIZES), Head(0.0625)),
    "cohere2": (transformers.Cohere2Config(**SIZES, logit_scale=0.2), Head(0.2)),
    "granite": (transformers.GraniteConfig(**SIZES, logits_scaling=8.0), Head(1 / 8)),
    "gemma2": (transformers.Gemma2Config(**SIZES, head_dim=16), Head(cap=30.0)),
    "gemma3": (transformers.Gemma3TextConfig(**SIZES, head_dim=16, final_logit_softcapping=5.0), Head(cap=5.0)),
}
IDS = torch.arange(2, 14)[None]
BATCH = pad([Sample((5, 6, 7), tuple(range(8, 8 + n)), (0.0,) * n, 0.0) for n in (5, 2, 9)], [1.0] * 3)


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(HEADS[kind][0], dtype=dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_what_the_configuration_says_though_nobody_reads_it(kind, dtype):
    assert measure_head(model_of(kind, dtype), IDS) == HEADS[kind][1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kind", HEADS)
def test_chunks_give_the_log_probs_entropies_and_gradients_of_the_models_own_logits(kind, temperature, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 5 * 97)
    monkeypatch.setattr(logprobs, "MIN_WORDS", 13)
    model, head = model_of(kind), HEADS[kind][1]
    found = []
    for how in (head, None):
        model.zero_grad()
        logprobs_T, entropy_T = completion_logprobs(model, BATCH, temperature, True, how)
        (logprobs_T.sum() - 0.3 * entropy_T.sum()).backward()
        grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        found.append((logprobs_T.detach(), entropy_T.detach(), grads))
    (ours, our_entropy, our_grads), (own, own_entropy, own_grads) = found
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(our_entropy, own_entropy, atol=1e-5, rtol=1e-5)
    largest = max(grad.abs().max() for grad in own_grads.values())
    assert max((our_grads[name] - own_grads[name]).abs().max() for name in own_grads) < 1e-5 * max(1.0, largest)
    if head is not PLAIN:  # and it matters
        assert (completion_logprobs(model, BATCH, temperature)[0] - own).abs().mean() > 1e-3


def changed(model: nn.Module, change) -> nn.Module:
    """Its forward ends in a function of the logits that no configuration mentions."""
    forward = model.forward

    def changed_forward(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = change(out.logits)
        return out

    model.forward = changed_forward
    return model


@pytest.mark.parametrize("change", [lambda z: z.clamp(-3, 40), lambda z: z - z.mean(-1, keepdim=True), torch.sin])
def test_another_function_of_the_output_layer_is_found(change):
    with pytest.raises(OtherHeadError, match="another function"):
        measure_head(changed(model_of("llama"), change), IDS)


def test_a_scale_and_a_cap_that_no_configuration_mentions_are_measured():
    found = measure_head(changed(model_of("llama"), lambda z: 1.01 * 17.3 * torch.tanh(z / 17.3)), IDS)
    assert found.scale == pytest.approx(1.01, rel=1e-4)
    assert found.cap == pytest.approx(1.01 * 17.3, rel=1e-6)


def test_a_hidden_state_that_is_changed_before_the_head_is_found():
    model = model_of("llama")
    model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * 1.5,))
    with pytest.raises(OtherHeadError, match="not given what its decoder returns"):
        measure_head(model, IDS)
