"""The in-process engine: what it samples, and that it repeats."""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.config import ModelSettings
from grpo.policy.adapters import ServedWeights
from grpo.policy.load import load_model
from grpo.policy.policy import Policy
from grpo.rollout.engine import WeightSyncError
from grpo.rollout.local import TransformersEngine
from grpo.rollout.sync.stream import TensorStream
from grpo.types import Group, Prompt, RolloutRequest, Sampling


@pytest.fixture(scope="module")
def settings(tiny_model):
    return ModelSettings(path=str(tiny_model), dtype="float32")


@pytest.fixture
def engine(settings):
    engine = TransformersEngine(settings, AutoTokenizer.from_pretrained(settings.path), max_sequences=6)
    asyncio.run(engine.start())
    return engine


def request(text: str, n: int = 1, temperature: float = 0.0, seed: int = 0, max_tokens: int = 12) -> RolloutRequest:
    ids = tuple(2 + (ord(c) - ord("0")) % 95 for c in text)
    return RolloutRequest(Prompt(text, text, ids, "0"), n, Sampling(max_tokens, temperature), seed)


def generate(engine: TransformersEngine, requests: list[RolloutRequest]) -> list[Group]:
    async def collect() -> list[Group]:
        return [group async for _, group in engine.generate(requests)]

    return asyncio.run(collect())


def test_greedy_completions_of_a_ragged_batch_equal_transformers_generate_one_by_one(engine, settings):
    model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32)
    groups = generate(engine, [request("1+1"), request("12345+6789"), request("7")])
    for group in groups:
        ids = torch.tensor([group.prompt.token_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert list(group.completions[0].token_ids) == expected[0, ids.shape[1] :].tolist()


def test_logprobs_are_those_of_the_tempered_distribution(engine, settings):
    model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32)
    for completion in generate(engine, [request("12+3", n=5, temperature=0.7)])[0].completions:
        prompt = request("12+3").prompt.token_ids
        ids = torch.tensor([prompt + completion.token_ids])
        logp = torch.log_softmax(model(ids).logits[0].float() / 0.7, dim=1)
        expected = [logp[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion.token_ids)]
        assert list(completion.logprobs) == pytest.approx(expected, abs=1e-4)


def test_samples_repeat_with_the_seed_and_differ_without(engine):
    ask = [request("1+2", n=3, temperature=1.0, seed=7), request("44+2", n=3, temperature=1.0, seed=8)]
    first, again = generate(engine, ask), generate(engine, ask)
    assert first == again
    other = generate(engine, [request("1+2", n=3, temperature=1.0, seed=9)])
    assert other[0].completions != first[0].completions
    assert len({c.token_ids for c in first[0].completions}) == 3  # each completion has a stream of its own


def test_sampled_frequencies_follow_the_distribution(engine, settings):
    model = AutoModelForCausalLM.from_pretrained(settings.path, dtype=torch.float32)
    n = 600
    group = generate(engine, [request("5", n=n, temperature=1.0, max_tokens=1)])[0]
    p = torch.softmax(model(torch.tensor([group.prompt.token_ids])).logits[0, -1].float(), dim=0)
    token = int(p.argmax())
    seen = sum(c.token_ids[0] == token for c in group.completions) / n
    assert abs(seen - p[token].item()) < 4 * (p[token].item() * (1 - p[token].item()) / n) ** 0.5


def test_new_weights_are_served_and_versioned(engine, settings):
    model = load_model(settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    before = generate(engine, [request("1+1")])[0].completions[0]
    report = asyncio.run(engine.update_weights(ServedWeights(Policy(model)), version=4))
    after = generate(engine, [request("1+1")])[0].completions[0]
    assert (report.version, engine.version) == (4, 4)
    assert after.versions == (4,) * len(after.token_ids)
    assert before.versions == (0,) * len(before.token_ids)
    assert after.logprobs != before.logprobs


def test_missing_tensors_are_refused(engine, settings):
    tensors = dict(load_model(settings).named_parameters())
    tensors.popitem()
    with pytest.raises(WeightSyncError, match="the weights are not this model's"):
        asyncio.run(engine.update_weights(TensorStream(tensors), version=1))
