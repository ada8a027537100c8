"""Packed, prefix-shared attention computes what padded sequences compute, in value and in gradient."""

from __future__ import annotations

import random
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV32Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from grpo.policy.load import completion_logprobs
from grpo.policy.packing.attention import _flex, packed_attention
from grpo.policy.packing.layout import PackedGroup, lay_out
from grpo.policy.packing.pack import pack, packed_micro_batches
from grpo.policy.packing.pad import pad, padded_micro_batches
from grpo.policy.packing.probe import use_packed_attention
from grpo.policy.policy import Policy
from grpo.types import Sample

SMALL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # the default gives attention that is nearly uniform
}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
ARCHITECTURES = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, tie_word_embeddings=True),
    "qwen3_moe": Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "gemma3": Gemma3TextConfig(**SMALL, sliding_window=8, layer_types=LAYERS),
    "mistral": MistralConfig(**SMALL, sliding_window=8),
    # Capped scores, and a window in every other layer.
    "gemma2": Gemma2Config(
        **SMALL,
        **{"sliding_window": 8, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
        final_logit_softcapping=None,
    ),
    # Sinks, and a window in every other layer.
    "gpt_oss": GptOssConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
    # Latent attention: values are smaller than queries.
    "deepseek_v3": DeepseekV3Config(
        **{name: size for name, size in SMALL.items() if name not in ("head_dim", "num_key_value_heads")},
        **{
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
        },
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        first_k_dense_replace=1,
    ),
}
GROUPS = (PackedGroup(0, 3, (5, 9)), PackedGroup(9, 10, (17,)), PackedGroup(17, 21, ()))


def model_of(name: str, lora: bool = False) -> nn.Module:
    torch.manual_seed(0)
    how = "eager" if name == "gemma2" else None  # PyTorch's attention leaves the cap out
    model = AutoModelForCausalLM.from_config(deepcopy(ARCHITECTURES[name]), attn_implementation=how).float()
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.train()


def ragged(seed: int) -> list[Sample]:
    """Groups of 1 to 5 completions of 1 to 30 tokens, prompts of 1 to 20; in no order."""
    rng = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(100) for _ in range(n))

    samples = [
        Sample(prompt, tokens(n), (0.0,) * n, rng.gauss(0, 1))
        for prompt in [tokens(rng.randint(1, 20)) for _ in range(5)]
        for n in [rng.choice([1, 2, rng.randint(3, 30)]) for _ in range(rng.randint(1, 5))]
    ]
    rng.shuffle(samples)
    return samples


def loss_and_gradients(model: nn.Module, samples: list[Sample], split, build, max_tokens: int):
    """sum_t A_t logp_t / tokens, and its gradients."""
    model.zero_grad()
    total, weight = 0.0, 1 / sum(len(s.completion_ids) for s in samples)
    for chosen in split(samples, max_tokens):
        micro = build([samples[i] for i in chosen], [weight] * len(chosen))
        logprobs_T, _ = completion_logprobs(model, micro, 1.0)
        loss = (logprobs_T * micro.advantage_T * micro.weight_T).sum()
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_loss_and_gradient_equal_the_padded_ones(name, lora):
    for seed in range(3):
        model, samples = model_of(name, lora), ragged(seed)
        plain, plain_grads = loss_and_gradients(model, samples, padded_micro_batches, pad, 10**6)
        assert use_packed_attention(Policy(model)) is None
        for max_tokens in (10**6, 60):  # one row; several, with groups cut in parts
            packed, grads = loss_and_gradients(model, samples, packed_micro_batches, pack, max_tokens)
            assert packed == pytest.approx(plain, abs=1e-5)
            assert grads.keys() == plain_grads.keys()
            largest = max(grad.abs().max() for grad in plain_grads.values())
            assert max((grads[key] - plain_grads[key]).abs().max() for key in grads) < 1e-5 * max(1, largest)
        assert max(grad.abs().max() for grad in plain_grads.values()) > 1e-2  # the comparison is not of zeros


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_gradient_of_a_sink_is_the_plain_ones():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 21, 8) for _ in range(3))
    sinks = torch.randn(2, requires_grad=True)
    upstream = torch.randn(1, 21, 2, 8)
    ours, _ = packed_attention(nn.Module(), q, k, v, None, packing=lay_out(GROUPS), scaling=0.5, s_aux=sinks)
    # The definition: one more key, whose score is the sink's and whose value is 0.
    scores = (q[0] @ k[0].transpose(1, 2) * 0.5).masked_fill(~seen(GROUPS), float("-inf"))
    with_sink = torch.cat([scores, sinks[:, None, None].expand(2, 21, 1)], 2)
    plain = (torch.softmax(with_sink, 2)[..., :-1] @ v[0]).transpose(0, 1)[None]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    flex = _flex(q, k, v, sinks, lay_out(GROUPS), 0.5, None).transpose(1, 2)
    torch.testing.assert_close(flex, plain, atol=1e-5, rtol=0)
    grads = [torch.autograd.grad((out * upstream).sum(), sinks)[0] for out in (ours, plain)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=0)


def seen(groups) -> torch.Tensor:
    """(T, T): whether the row's token sees the column's."""
    segments = [(start, end, group) for group in groups for start, end in group.segments]
    seen = torch.zeros(groups[-1].end, groups[-1].end, dtype=torch.bool)
    for start, end, group in segments:
        seen[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
        if start >= group.middle:
            seen[start:end, group.start : group.middle] = True
    return seen


def test_gradient_checkpointing_leaves_packed_gradients_as_they_are():
    model, samples = model_of("qwen3"), ragged(0)
    use_packed_attention(Policy(model))
    _, plain = loss_and_gradients(model, samples, packed_micro_batches, pack, 60)
    model.gradient_checkpointing_enable()
    _, checkpointed = loss_and_gradients(model, samples, packed_micro_batches, pack, 60)
    assert max((plain[key] - checkpointed[key]).abs().max() for key in plain) < 1e-6


def naive(query, key, value, groups, scale, window):
    """Each token's attention by itself, over the list of tokens that it sees."""
    sees = {}
    for group in groups:
        (start, middle), *completions = group.segments
        for i in range(start, middle):
            sees[i] = list(range(start, i + 1))
        for first, end in completions:
            for i in range(first, end):
                sees[i] = [*range(start, middle), *range(first, i + 1)]
    out = torch.empty_like(query)
    repeat = query.shape[1] // key.shape[1]
    for i, seen in sees.items():
        seen = seen[-window:] if window else seen
        for head in range(query.shape[1]):
            scores = key[0, head // repeat, seen] @ query[0, head, i] * scale
            out[0, head, i] = torch.softmax(scores, 0) @ value[0, head // repeat, seen]
    return out.transpose(1, 2)


@pytest.mark.parametrize("window", [None, 1, 2, 4])
def test_attention_and_its_gradients_equal_the_definition_token_by_token(window):
    torch.manual_seed(0)
    shapes = [(1, 4, 21, 8), (1, 2, 21, 8), (1, 2, 21, 8)]
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    upstream = torch.randn(1, 21, 4, 8)
    ours, _ = packed_attention(nn.Module(), q, k, v, None, packing=lay_out(GROUPS), scaling=0.5, sliding_window=window)
    plain = naive(q, k, v, GROUPS, 0.5, window)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    for mine, theirs in zip(
        torch.autograd.grad((ours * upstream).sum(), (q, k, v)),
        torch.autograd.grad((plain * upstream).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_way_of_gpus_uncompiled_equals_the_definition(window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 21, 16) for heads in (4, 2, 2))
    ours = _flex(q, k, v, None, lay_out(GROUPS), 0.5, window).transpose(1, 2)
    torch.testing.assert_close(ours, naive(q, k, v, GROUPS, 0.5, window), atol=1e-5, rtol=0)


def test_a_model_that_cannot_be_packed_is_left_as_it_was_and_the_reason_is_given():
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2))
    before = mamba.config._attn_implementation
    assert use_packed_attention(Policy(mamba)) is not None  # a recurrent state would run on from segment to segment
    assert mamba.config._attn_implementation == before


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 2])
def test_a_cap_is_the_plain_ones_and_that_of_gpus(window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 21, 16, requires_grad=True) for heads in (4, 2, 2))
    upstream = torch.randn(1, 21, 4, 16)
    ours, _ = packed_attention(
        nn.Module(), q, k, v, None, packing=lay_out(GROUPS), scaling=0.5, softcap=1.5, sliding_window=window
    )
    key, value = (x[0].repeat_interleave(2, 0) for x in (k, v))
    distance = lay_out(GROUPS).position_T[:, None] - lay_out(GROUPS).position_T
    sees = seen(GROUPS) & (distance < (window or 99))
    scores = (1.5 * torch.tanh(q[0] @ key.transpose(1, 2) * 0.5 / 1.5)).masked_fill(~sees, float("-inf"))
    plain = (torch.softmax(scores, 2) @ value).transpose(0, 1)[None]
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    for mine, theirs in zip(
        *(torch.autograd.grad((x * upstream).sum(), (q, k, v)) for x in (ours, plain)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    flex = _flex(q.detach(), k.detach(), v.detach(), None, lay_out(GROUPS), 0.5, window, 1.5).transpose(1, 2)
    torch.testing.assert_close(flex, plain, atol=1e-5, rtol=0)


def test_the_probe_catches_a_model_that_packs_without_an_error_and_wrongly():
    class LooksBack(nn.Module):
        """Mixes each position with the one before it in the row, whichever sequence that belongs to."""

        def forward(self, hidden):
            return hidden + hidden.roll(1, dims=1)

    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).float()
    mlp = model.model.layers[0].mlp
    model.model.layers[0].mlp = nn.Sequential(mlp, LooksBack())
    reason = use_packed_attention(Policy(model))
    assert "differ from the padded ones" in reason


@pytest.mark.parametrize("dropout", [0.0, 0.1])  # which training has not
def test_a_model_with_learned_positions_can_be_packed(dropout):
    sizes = {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": None, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(GPT2Config(**sizes, attn_pdrop=dropout)).eval()
    assert use_packed_attention(Policy(model)) is None
    assert not model.training


def test_layers_that_choose_what_a_token_sees_are_not_packed():
    # Its indexer takes the best 2048 tokens: no probe is long enough to see what a packed row would do to that.
    shape = {name: size for name, size in SMALL.items() if name not in ("head_dim", "num_key_value_heads")}
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
    experts = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
    config = DeepseekV32Config(**shape, **latent, **experts, num_key_value_heads=4, moe_intermediate_size=32)
    policy = Policy(AutoModelForCausalLM.from_config(config).eval())
    assert "its layers are indexed_attention" in use_packed_attention(policy)


def test_a_mask_that_a_layer_makes_is_not_left_out():
    q, mask = torch.randn(1, 2, 21, 8), torch.zeros(1, 1, 21, 21)
    with pytest.raises(NotImplementedError, match="a mask of their own"):
        packed_attention(nn.Module(), q, q, q, mask, packing=lay_out(GROUPS))


def test_layers_of_a_kind_that_is_not_known_are_not_packed():
    model = model_of("llama")
    model.config.layer_types = ["chunked_attention"] * 3
    assert "its layers are chunked_attention" in use_packed_attention(Policy(model))
