"""Running benchmarks.

    work = prepare(benchmark("gsm8k"), problems, tokenizer)
    with Store(folder) as store:
        await run_benchmarks([work], client, store, in_flight=80)     # asks for what is not stored yet
        numbers = results([work], store.read(), model="...")          # the content of results.json

Every completion is a request of its own. Whoever is free takes the next, so that the server is full until nothing is
left to ask; grading happens in threads beside it. Each generation is on disk, with its grade, as soon as it came.

`evaluate` measures a policy in training by the same grading and statistics; `grade_generations` takes completions of
somebody else's program.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.client import EvalClient, Failed
from eval.grade import failed, grade_generations, graded
from eval.held_out import Evaluation, evaluate
from eval.progress import Progress, Silent
from eval.protocol import Benchmark, Grade, grader
from eval.stats import summary
from eval.store import Store
from eval.types import Generation, Problem
from grpo.atomic import write_atomic
from grpo.prompts import render
from grpo.types import Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Evaluation", "Work", "evaluate", "grade_generations", "prepare", "results", "run_benchmarks"]

RESULTS = "results.json"
TEMPLATE_TOKENS = 256  # more than a server's chat template adds


@dataclass(frozen=True, slots=True)
class Work:
    """A benchmark ready to be asked: its problems and, in the same order, their prompts."""

    benchmark: Benchmark
    problems: Sequence[Problem]
    prompts: Sequence[Prompt]

    @property
    def name(self) -> str:
        return self.benchmark.name

    def completions(self) -> Iterator[tuple[str, str, int]]:
        """Every completion to ask for, as eval/store.py knows them."""
        samples = range(self.benchmark.protocol.samples)
        return ((self.name, problem.id, sample) for problem in self.problems for sample in samples)

    def cut_short(self, context: int) -> int:
        """How many prompts leave less of the context than the protocol's max_tokens."""
        return sum(_left(prompt, context) < self.benchmark.protocol.max_tokens for prompt in self.prompts)


def prepare(benchmark: Benchmark, problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase | None) -> Work:
    """Render the problems by the benchmark's protocol; without a tokenizer, a chat is left to the server's template.

    Raises grpo.prompts.PromptError if the tokenizer's chat template refuses the conversation.
    """
    protocol = benchmark.protocol
    template = protocol.template if tokenizer is None else protocol.template_for(bool(tokenizer.chat_template))
    prompts, _ = render(problems, tokenizer, template, protocol.system, protocol.instruction)
    return Work(benchmark, problems, prompts)


async def run_benchmarks(
    works: Sequence[Work],
    client: EvalClient,
    store: Store,
    in_flight: int,
    context: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Ask for every completion that `store` does not hold, grade each as it comes, and store it.

    Args:
        in_flight: requests at once.
        context: tokens that the model takes. A completion gets what its prompt leaves of it, and a prompt that
            leaves nothing is a failure `too_long`. None: the server's to say.

    Raises RolloutError when the servers are lost, OSError when the disk is full. What is stored stays.
    """
    progress = progress or Silent()
    for work in works:
        came = [store.came(key) for key in work.completions()]
        progress.start(work.name, done=sum(came), total=len(came))
    todo = (item for work in works for item in _items(work, store))
    room = asyncio.Semaphore(in_flight)

    async def work_off() -> None:
        for item in todo:
            generation = await _answer(item, client, room, context)
            store.append(generation)
            progress.step(generation)

    # Twice as many as may ask, so that as many may be waiting for a grade without the server noticing.
    workers = [asyncio.create_task(work_off()) for _ in range(2 * in_flight)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Item:
    """One completion to ask for."""

    benchmark: Benchmark
    problem: Problem
    prompt: Prompt
    sample: int
    grade: Grade


def _items(work: Work, store: Store) -> Iterator[_Item]:
    """What is not stored, a problem's samples one after the other: the server keeps what it has read of a prompt."""
    grade = grader(work.benchmark.protocol)
    for problem, prompt in zip(work.problems, work.prompts, strict=True):
        for sample in range(work.benchmark.protocol.samples):
            if not store.came((work.name, problem.id, sample)):
                yield _Item(work.benchmark, problem, prompt, sample, grade)


async def _answer(item: _Item, client: EvalClient, room: asyncio.Semaphore, context: int | None) -> Generation:
    protocol, place = item.benchmark.protocol, (item.benchmark.name, item.problem, item.sample)
    max_tokens = protocol.max_tokens if context is None else min(protocol.max_tokens, _left(item.prompt, context))
    if max_tokens < 1:
        length = len(item.prompt.token_ids)
        return failed(*place, "too_long", f"a prompt of {length} tokens; the model takes {context}, answer included")
    async with room:
        answer = await client.complete(item.prompt, Sampling(max_tokens, protocol.temperature, protocol.top_p))
    if isinstance(answer, Failed):
        return failed(*place, answer.cause, answer.reason)
    completion = item.prompt.prefill + answer.text
    return await asyncio.to_thread(graded, *place, completion, item.grade, answer.tokens, answer.finish_reason)


def _left(prompt: Prompt, context: int) -> int:
    """Tokens that a prompt leaves for its answer. Where only the server can count, no prompt is said to be too long."""
    if prompt.token_ids:
        return context - len(prompt.token_ids)
    text = prompt.text + "".join(message["content"] for message in prompt.messages)
    return max(1, context - len(text.encode()) - TEMPLATE_TOKENS)  # no tokenizer makes more tokens than bytes


def results(works: Sequence[Work], generations: Sequence[Generation], model: str) -> dict[str, dict[str, Any]]:
    """The content of results.json. What was never asked for, because the servers were lost, is a failure `server`."""
    found = {}
    for work in works:
        own = [generation for generation in generations if generation.benchmark == work.name]
        protocol = work.benchmark.protocol
        numbers = summary(own + _never_asked(work, own), protocol.samples)
        found[work.name] = numbers | {
            "model": model,
            "protocol": protocol.canonical(),
            "protocol_hash": protocol.hash(),
        }
    return found


def _never_asked(work: Work, generations: Sequence[Generation]) -> list[Generation]:
    there = {(generation.problem_id, generation.sample) for generation in generations}
    problems = {problem.id: problem for problem in work.problems}
    return [
        failed(work.name, problems[problem_id], sample, "server", "never asked for: the evaluation ended before")
        for _, problem_id, sample in work.completions()
        if (problem_id, sample) not in there
    ]


def write_results(folder: Path, found: Mapping[str, Any]) -> None:
    """Raises OSError that names the file."""
    write_atomic(folder / RESULTS, json.dumps(found, indent=2) + "\n")
