"""The engine of masked models: the order it writes in, the log-probs it reports, and that it repeats."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import torch

from grpo.config import GRPOConfig, ModelSettings, RolloutSettings
from grpo.diffusion import DiffusionSettings
from grpo.parts import make_learner
from grpo.policy.load import load_model, load_tokenizer
from grpo.policy.proof import prove
from grpo.rollout.diffusion import DiffusionEngine
from grpo.types import Completion, Group, Prompt, RolloutRequest, Sample, Sampling
from tests.masked_models import MASK, save_eurobert

EOS = 1


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return ModelSettings(path=str(save_eurobert(tmp_path_factory.mktemp("eurobert"))), dtype="float32")


def engine_of(settings, **diffusion) -> DiffusionEngine:
    engine = DiffusionEngine(settings, load_tokenizer(settings), 64, DiffusionSettings(**diffusion))
    asyncio.run(engine.start())
    return engine


def request(text: str, n: int = 1, seed: int = 0, max_tokens: int = 6, **sampling) -> RolloutRequest:
    ids = tuple(2 + ord(c) - ord("!") for c in text)
    return RolloutRequest(Prompt(text, text, ids, "0"), n, Sampling(max_tokens, **sampling), seed)


def generate(engine, requests) -> list[Group]:
    async def collect() -> list[Group]:
        return [group async for _, group in engine.generate(requests)]

    return asyncio.run(collect())


def completions(engine, *requests) -> list[Completion]:
    return [one for group in generate(engine, requests) for one in group.completions]


def test_sampler_and_trainer_agree_to_1e_6_whatever_is_asked_together(settings):
    learner = make_learner(GRPOConfig(), settings, RolloutSettings(engine="diffusion", temperature=0.8))
    for diffusion in (
        {},
        {"block_length": 3},
        {"tokens_per_pass": 2},
        {"order": "confidence", "likelihood": "one_pass"},
    ):
        engine = engine_of(settings, **diffusion)
        groups = generate(engine, [request(t, 5, i, temperature=0.8) for i, t in enumerate(("1+2=", "37+85=", "1+1="))])
        samples = [Sample.of(group.prompt, one) for group in groups for one in group.completions]
        found = torch.cat(learner.measured(samples))
        said = torch.tensor([x for sample in samples for x in sample.sampler_logprobs])
        assert (found - said).abs().max() <= 2e-6  # of log-probs about 5: three roundings of fp32
        assert (found - said).abs().mean() <= 3e-7


def test_every_order_comes_as_often_and_says_nothing_of_the_policy(settings):
    engine = engine_of(settings)
    seen = Counter(one.unmasking.passes for one in completions(engine, request("1+2=", 600, max_tokens=3)))
    assert len(seen) == 6
    assert all(60 < count < 140 for count in seen.values())  # 100 each, 9 the standard deviation
    greedy = Counter(
        one.unmasking.passes
        for seed in range(30)
        for one in completions(engine, request("1+2=", 1, seed, max_tokens=3, temperature=0.0))
    )
    assert len(greedy) == 6


def test_blocks_are_written_from_left_to_right_and_passes_hold_their_tokens(settings):
    engine = engine_of(settings, block_length=3, tokens_per_pass=2)
    for one in completions(engine, request("1+2=", 20)):
        assert sorted(one.unmasking.passes[:3]) == [0, 0, 1]
        assert len(one.token_ids) in (3, 6)
        assert one.unmasking.canvas == 6
        if len(one.token_ids) == 6:
            assert sorted(one.unmasking.passes[3:]) == [2, 2, 3]


def test_confidence_writes_first_what_is_likeliest(settings):
    model = load_model(settings)
    engine = engine_of(settings, order="confidence", likelihood="one_pass")
    ask = request("1+2=", 1, max_tokens=4, temperature=0.0)
    (one,) = completions(engine, ask)
    logits = model(torch.tensor([[*ask.prompt.token_ids, *[MASK] * 4]])).logits[0, -4:]
    logits[:, MASK] = -torch.inf
    assert one.unmasking.passes[int(logits.softmax(1).max(1).values.argmax())] == 0


def test_an_end_token_ends_its_block_and_the_text_stops_before_it(settings):
    engine = engine_of(settings, block_length=2)
    with torch.no_grad():  # the end token is likely
        layer = engine._model.lm_head
        layer.bias = torch.nn.Parameter(torch.zeros(len(layer.weight)))
        layer.bias[EOS] = 3.0
    found = completions(engine, request("1+2=", 200))
    tokenizer = load_tokenizer(settings)
    lengths = Counter(len(one.token_ids) for one in found)
    assert set(lengths) == {2, 4, 6}
    for one in found:
        ended = EOS in one.token_ids
        assert one.finish_reason == ("stop" if ended else "length")
        if ended:
            assert EOS in one.token_ids[-2:]
            assert EOS not in one.token_ids[:-2]
            assert one.text == tokenizer.decode(one.token_ids[: one.token_ids.index(EOS)], skip_special_tokens=True)
    assert any(one.token_ids[-2] == EOS != one.token_ids[-1] for one in found)  # filling, which is no text


def test_the_mask_token_is_never_written(settings):
    engine = engine_of(settings)
    with torch.no_grad():
        layer = engine._model.lm_head
        layer.bias = torch.nn.Parameter(torch.zeros(len(layer.weight)))
        layer.bias[MASK] = 20.0
    for temperature in (0.0, 1.0):
        found = completions(
            engine, request("1+2=", 1, temperature=temperature), request("1+3=", 1, temperature=temperature)
        )
        assert all(MASK not in one.token_ids for one in found)


def test_samples_repeat_with_the_seed_whatever_is_asked_beside(settings):
    engine = engine_of(settings)
    first = generate(engine, [request("1+2=", 3, 7), request("44+2=", 3, 8)])
    assert generate(engine, [request("1+2=", 3, 7), request("44+2=", 3, 8)]) == first
    (alone,) = generate(engine, [request("1+2=", 3, 7)])
    assert [one.token_ids for one in alone.completions] == [one.token_ids for one in first[0].completions]
    (other,) = generate(engine, [request("1+2=", 3, 9)])
    assert other.completions != first[0].completions


def test_sampled_frequencies_follow_the_distribution_also_where_it_is_truncated(settings):
    engine, model = engine_of(settings), load_model(settings)
    prompt = request("5").prompt.token_ids
    logits = model(torch.tensor([[*prompt, MASK]])).logits[0, -1].detach()
    logits[MASK] = -torch.inf
    for temperature, top_p, top_k in ((1.0, 1.0, 0), (0.7, 1.0, 3), (1.0, 0.5, 0)):
        p = torch.softmax(logits / temperature, 0)
        order = p.argsort(descending=True)
        kept = order[: top_k or None][: int((p[order].cumsum(0) < top_p).sum()) + 1]
        ask = request("5", 2000, max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
        seen = Counter(one.token_ids[0] for one in completions(engine, ask))
        assert set(seen) <= set(kept.tolist())
        share = (p[kept[0]] / p[kept].sum()).item()
        assert abs(seen[int(kept[0])] / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_proof_of_the_start_passes_and_finds_a_tensor_that_is_not_sent(settings, dtype):
    from concurrent.futures import ThreadPoolExecutor

    from grpo.config import ModelError

    settings = settings.model_copy(update={"dtype": dtype})
    rollout = RolloutSettings(engine="diffusion", max_tokens=8, diffusion=DiffusionSettings(block_length=4))
    learner = make_learner(GRPOConfig(), settings, rollout)
    engine = DiffusionEngine(settings, load_tokenizer(settings), 64, rollout.diffusion)

    async def proven(send) -> object:
        await engine.start()
        with ThreadPoolExecutor(1) as compute:
            return await prove(learner, engine, send, compute, rollout, settings, 0)

    async def whole(version):
        return await engine.update_weights(learner.weights, version)

    proof = asyncio.run(proven(whole))
    assert "a row each pass" in proof.note
    assert proof.summary["served"]["difference"] <= proof.summary["served"]["bound"]

    async def without_one(version):
        with torch.no_grad():
            kept = engine._model.model.layers[1].mlp.up_proj.weight.clone()
            await engine.update_weights(learner.weights, version)
            engine._model.model.layers[1].mlp.up_proj.weight.copy_(kept)

    if dtype == "float32":
        with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight did not reach"):
            asyncio.run(proven(without_one))
