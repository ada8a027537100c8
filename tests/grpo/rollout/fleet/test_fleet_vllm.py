"""Two real vLLM servers of one run on CPU, one of them killed. Three server starts, two of them at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo.config import ModelSettings, RolloutSettings, ServerSettings
from grpo.policy.adapters import ServedWeights
from grpo.policy.policy import Policy
from grpo.rollout.fleet.member import State
from grpo.rollout.vllm.engine import VLLMEngine
from grpo.types import Group, Prompt, RolloutRequest, Sampling

pytestmark = pytest.mark.server

LONG = 700  # tokens: seconds of decoding


def moved(folder: Path, seed: int) -> torch.nn.Module:
    model, noise = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        torch.Generator().manual_seed(seed),
    )
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=noise)
    return model


@torch.no_grad()
def true_logprobs(model: torch.nn.Module, group: Group) -> torch.Tensor:
    (completion, *_), prompt = group.completions, group.prompt
    logits = model(torch.tensor([prompt.token_ids + completion.token_ids])).logits[0, len(prompt.token_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]


@pytest.mark.timeout(1200)
def test_a_run_goes_on_with_one_of_two_servers_and_the_killed_one_returns_with_the_newest_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))  # other tests' servants
    settings = ServerSettings(replicas=2, request_timeout=300, health_timeout=60)
    rollout = RolloutSettings(max_tokens=LONG, max_prompt_tokens=50, max_sequences=16, server=settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = ModelSettings(path=str(tiny_model), dtype="float32")
    engine = VLLMEngine(str(tiny_model), model, rollout, tokenizer, tmp_path)
    lost, other = engine._fleet.members

    def request(text: str) -> RolloutRequest:
        ids = tuple(tokenizer(text)["input_ids"])
        return RolloutRequest(Prompt(id=text, text=text, token_ids=ids, answer=""), 4, Sampling(LONG))

    async def step(version: int) -> None:
        """New weights, and groups of them: complete, of no older ones, with the log-probs of these."""
        weights = moved(tiny_model, version)
        await engine.update_weights(ServedWeights(Policy(weights)), version)
        asking = asyncio.create_task(sampled())
        if version == 2:
            while not lost.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert not asking.done()
            assert lost.server is not None
            assert lost.server._process is not None
            tree = psutil.Process(lost.server._process.pid).children(recursive=True)
            max(tree, key=lambda process: process.memory_info().rss).kill()
        groups = await asking
        assert [(len(group.completions), group.failures) for group in groups] == [(4, {})] * 12
        assert {v for group in groups for c in group.completions for v in c.versions} == {version}
        for group in groups:
            served = torch.tensor(group.completions[0].logprobs)
            torch.testing.assert_close(served, true_logprobs(weights, group), atol=1e-3, rtol=0)

    async def sampled() -> list[Group]:
        return [group async for _, group in engine.generate([request(f"{i}+{i}=") for i in range(12)])]

    async def run() -> int:
        await engine.start()
        assert {member.state for member in (lost, other)} == {State.SERVING}
        version = alone = 0
        while version < 3 or lost.state is not State.SERVING:
            version += 1
            await step(version)
            alone += lost.state is not State.SERVING
        asked = lost._client
        await step(version + 1)
        assert lost._client is asked
        assert engine.restarts == 1
        return alone

    with asyncio.Runner() as runner:
        try:
            assert runner.run(run()) > 0, "no step was made with one server"
        finally:
            runner.run(engine.close())
    assert set(psutil.Process().children(recursive=True)) <= before
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"server-1.log", "server-2.log"}
