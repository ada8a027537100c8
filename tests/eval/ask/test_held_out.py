"""Held-out accuracy in training: the numbers, and what is counted apart."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval.ask.held_out import evaluate
from eval.stats.stats import summary
from eval.types import Generation
from grpo.config import ModelSettings
from grpo.policy.load import load_tokenizer
from grpo.rollout.local import TransformersEngine, mixed
from grpo.types import Completion, Group, Prompt, Sampling
from rewards import Score, grader


def completion(text: str) -> Completion:
    n = len(text)
    return Completion(tuple(range(n)), (-0.5,) * n, (0,) * n, text, "stop")


def prompt(name: str) -> Prompt:
    return Prompt(id=name, text="1+1=", token_ids=(1,), answer="2", prefill="<think>", columns={"level": 1})


def measured(groups: list[Group], grade: Any, samples: int) -> dict[str, Any]:
    async def generate(requests: Any) -> Any:
        assert [request.n for request in requests] == [samples] * len(groups)
        for index, group in reversed(list(enumerate(groups))):
            yield index, group

    engine: Any = SimpleNamespace(generate=generate)
    prompts = [group.prompt for group in groups]
    return dataclasses.asdict(asyncio.run(evaluate(engine, prompts, grade, Sampling(8), samples)))


RIGHT, WRONG = completion("</think><answer>2</answer>"), completion("</think><answer>3</answer>")


def test_accuracy_is_the_mean_over_problems_of_the_share_of_graded_answers_that_are_right() -> None:
    groups = [
        Group(prompt("a"), (RIGHT, RIGHT)),
        Group(prompt("b"), (RIGHT, WRONG)),
        Group(prompt("c"), (WRONG,), {"timeout": 1}),
        Group(prompt("d"), (), {"server_error": 2}),
    ]
    found = measured(groups, grader("math"), samples=2)
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["n"] == 3
    assert found["outcomes"] == {"correct": 3, "wrong": 2, "timeout": 1, "server_error": 2}
    assert found["length"] == len(RIGHT.text)
    rows = [("a", 0, 1.0), ("a", 1, 1.0), ("b", 0, 1.0), ("b", 1, 0.0), ("c", 0, 0.0)]
    usual: dict[str, Any] = dict.fromkeys([field.name for field in dataclasses.fields(Generation)])
    same = [Generation(**(usual | {"problem_id": p, "sample": k, "value": v, "outcome": "wrong"})) for p, k, v in rows]
    interval = summary(same, 2)["accuracy"]
    assert (found["low"], found["high"]) == (interval["low"], interval["high"])


def test_every_sample_of_every_problem_has_a_random_stream_of_its_own_whatever_is_measured_beside_it() -> None:
    def seeds(names: list[str]) -> dict[str, int]:
        async def generate(requests: Any) -> Any:
            for index, request in enumerate(requests):
                found[request.prompt.id] = request.seed
                yield index, Group(request.prompt, (RIGHT,) * request.n)

        found: dict[str, int] = {}
        engine: Any = SimpleNamespace(generate=generate)
        asyncio.run(evaluate(engine, [prompt(name) for name in names], grader("math"), Sampling(8), 2))
        return found

    names = [f"p{i}" for i in range(500)]
    found = seeds(names)
    streams = {mixed(seed, sample) for seed in found.values() for sample in range(64)}
    assert len(streams) == 500 * 64
    assert seeds(names[7:3:-1]) == {name: found[name] for name in names[4:8]}


def test_problems_that_are_asked_alike_are_answered_differently_with_temperature_and_alike_without(
    tiny_model: Path,
) -> None:
    """Two rows with one question: with one stream for all, sample k of the one would be sample k of the other."""
    settings = ModelSettings(path=str(tiny_model), dtype="float32")
    engine = TransformersEngine(settings, load_tokenizer(settings), 16)

    async def texts(temperature: float, samples: int) -> list[list[str]]:
        await engine.start()
        prompts = [Prompt(id=name, text="1+1=", token_ids=(5, 6, 7), answer="2") for name in ("a", "b")]
        graded: list[str] = []

        def grade(text: str, row: Any) -> Score:
            graded.append(text)
            return Score(0.0, None, "wrong", "")

        await evaluate(engine, prompts, grade, Sampling(12, temperature), samples)
        return [graded[:samples], graded[samples:]]

    one, other = asyncio.run(texts(1.0, 4))
    assert not set(one) & set(other)
    assert asyncio.run(texts(1.0, 4)) == [one, other]
    one, other = asyncio.run(texts(0.0, 1))
    assert one == other


def test_the_grader_sees_what_the_template_opened_and_the_rows_columns() -> None:
    seen = []

    def grade(text: str, row: Any) -> Score:
        seen.append((text, row))
        return Score(None, None, "error", "cannot be graded")

    found = measured([Group(prompt("a"), (RIGHT,))], grade, samples=1)
    assert seen == [("<think></think><answer>2</answer>", {"level": 1, "answer": "2"})]
    assert (found["n"], found["outcomes"]) == (0, {"error": 1})
    assert (found["accuracy"], found["low"], found["high"]) == (0.0, 0.0, 1.0)
