"""Tokens that the model did not write are input alone: they have no target, no loss and no gradient."""

from __future__ import annotations

import math
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo.config import GRPOConfig
from grpo.losses import token_weights
from grpo.policy.optim import MasterAdamW
from grpo.policy.packing.pack import pack
from grpo.policy.packing.pad import pad
from grpo.policy.packing.probe import use_packed_attention
from grpo.policy.policy import Policy
from grpo.policy.update import PolicyUpdate, TrainBatch
from grpo.types import Sample


def episodes(n: int = 5) -> list[Sample]:
    """Replies of the model and of an environment in turn; the last is the model's."""
    rng = random.Random(0)
    samples = []
    for i in range(n):
        trained = [flag for k in range(2 * (i % 3) + 1) for flag in [k % 2 == 0] * rng.randint(1, 5)]
        ids = tuple(rng.randrange(2, 97) for _ in trained)
        logprobs = tuple(-rng.random() - 1 if flag else math.nan for flag in trained)
        staleness = tuple(rng.randint(0, 1) for _ in trained)
        samples.append(Sample((7, 8, 9 + i // 2), ids, logprobs, rng.gauss(0, 1), staleness, tuple(trained)))
    return samples


@pytest.fixture
def policy(tiny_model):
    policy = Policy(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))
    assert use_packed_attention(policy) is None
    return policy


@pytest.mark.parametrize("build", [pack, pad])
def test_each_token_of_the_model_is_a_target_once_and_no_other_is(build):
    samples = episodes()
    micro = build(samples, [1.0] * len(samples))
    written = [token for s in samples for token, flag in zip(s.completion_ids, s.trained, strict=True) if flag]
    assert sum(map(len, (s.completion_ids for s in samples))) > len(written)
    assert sorted(micro.target_T.tolist()) == sorted(written)
    assert len(micro.col_T) == len(micro.staleness_T) == len(micro.sampler_logprobs_T) == len(written)
    assert micro.sampler_logprobs_T.isfinite().all()


@pytest.mark.parametrize("build", [pack, pad])
def test_their_logprobs_are_those_of_the_whole_sequence_computed_alone(policy, build):
    samples = episodes()
    micro = build(samples, [float(i) for i in range(len(samples))])
    with torch.no_grad():
        logprobs_T, _ = policy(micro, 1.0)
    for i, sample in enumerate(samples):
        ids = torch.tensor([sample.prompt_ids + sample.completion_ids])
        with torch.no_grad():
            logp = torch.log_softmax(policy.model(ids).logits[0], dim=1)
        start = len(sample.prompt_ids) - 1
        expected = [logp[start + k, token].item() for k, token in enumerate(sample.completion_ids) if sample.trained[k]]
        assert logprobs_T[micro.weight_T == i].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normaliser", ["sequence", "constant", "token"])
@pytest.mark.parametrize("packing", [True, False])
def test_the_gradient_is_that_of_the_naive_sum_over_the_tokens_of_the_model(tiny_model, normaliser, packing):
    # On policy the loss of a token is -A ratio, whose gradient is -A dlogp: naive here, one sequence at a time.
    samples = [Sample(s.prompt_ids, s.completion_ids, (0.0,) * len(s.completion_ids), s.advantage, None, s.trained)
               for s in episodes()]  # fmt: skip
    lengths = [sum(s.trained) for s in samples]
    weights = token_weights(normaliser, lengths, 40)
    naive = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    loss = torch.zeros(())
    for sample, weight in zip(samples, weights, strict=True):
        logits = naive(torch.tensor([sample.prompt_ids + sample.completion_ids])).logits[
            0, len(sample.prompt_ids) - 1 : -1
        ]
        logp_T = torch.log_softmax(logits, dim=1).gather(1, torch.tensor(sample.completion_ids)[:, None]).squeeze(1)
        loss = loss - sample.advantage * weight * logp_T[torch.tensor(sample.trained)].sum()
    loss.backward()

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trained = Policy(model)
    config = GRPOConfig(normaliser=normaliser, correction="none", packing=packing, max_grad_norm=1e9)
    optimizer = MasterAdamW(trained.parameters())
    gradients: dict[str, torch.Tensor] = {}
    optimizer.step = lambda *_: (
        gradients.update(  # type: ignore[method-assign]
            {name: p.grad.clone() for name, p in model.named_parameters()}
        )
        or 0.0
    )
    update = PolicyUpdate(config, 1.0, trained, optimizer)
    metrics = update.run(1, TrainBatch(samples, weights))
    assert metrics["trained_tokens"] == sum(lengths)
    for name, parameter in naive.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=2e-5), name


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"one length.*'trained': 1"):
        Sample((1,), (2, 3), (0.0, 0.0), 1.0, None, (True,))
