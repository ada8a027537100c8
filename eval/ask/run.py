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
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.ask.client import Answer, Asked, Failed
from eval.ask.held_out import Evaluation, evaluate
from eval.ask.progress import Progress, Silent
from eval.grade import failed, grade_generations, graded
from eval.problems.protocol import Benchmark, Grade, ProtocolError, grader
from eval.stats.stats import summary
from eval.store import Store
from eval.types import Generation, Problem
from grpo.prompts import PromptError, render
from grpo.record.atomic import write_atomic
from grpo.types import Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Evaluation", "Work", "evaluate", "grade_generations", "prepare", "results", "run_benchmarks"]

RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Work:
    """A benchmark ready to be asked: its problems and, in the same order, their prompts.

    `counted`: prompt id -> tokens, of prompts without token ids, as the server counts them; see `count_tokens`.
    """

    benchmark: Benchmark
    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.benchmark.name

    def completions(self) -> Iterator[tuple[str, str, int]]:
        """Every completion to ask for, as eval/store.py knows them."""
        samples = range(self.benchmark.protocol.samples)
        return ((self.name, problem.id, sample) for problem in self.problems for sample in samples)

    def budget(self, prompt: Prompt, context: int | None) -> int:
        """Tokens that a completion is asked for: the protocol's max_tokens, or what the prompt leaves of the context.

        Where the context or the prompt's length is not known, whether they fit is the server's to say.
        """
        most, length = self.benchmark.protocol.max_tokens, len(prompt.token_ids) or self.counted.get(prompt.id)
        return most if context is None or length is None else min(most, context - length)

    def cut_short(self, context: int | None) -> int:
        """How many prompts leave less of the context than the protocol's max_tokens."""
        return sum(self.budget(prompt, context) < self.benchmark.protocol.max_tokens for prompt in self.prompts)


def prepare(
    benchmark: Benchmark,
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase | None,
    shots: Sequence[tuple[str, str]] = (),
) -> Work:
    """Render the problems by the benchmark's protocol; without a tokenizer, a chat is left to the server's template.

    Raises grpo.prompts.PromptError if the tokenizer's chat template refuses the conversation; or there is none, and
    the protocol has a system prompt. ProtocolError for a prefill that the server's own template has no place for.
    """
    protocol = benchmark.protocol
    template = protocol.template if tokenizer is None else protocol.template_for(bool(tokenizer.chat_template))
    if protocol.system and template != "chat":
        raise PromptError(
            f"{benchmark.name}: the protocol has a system prompt, but this model's tokenizer has no chat template: "
            "leave --system out, or put its text into --template 'TEXT {question}'"
        )
    if protocol.prefill and tokenizer is None and template == "chat":
        raise ProtocolError(
            f"{benchmark.name}: prefill: the server's own chat template has no place for it; give --model FOLDER, "
            "whose tokenizer then renders the prompts"
        )
    rest = (protocol.system, protocol.instruction, protocol.prefill)
    prompts, _ = render(problems, tokenizer, template, *rest, shots=shots)
    return Work(benchmark, problems, prompts)


async def count_tokens(work: Work, client: Asked, in_flight: int) -> Work:
    """The work with the lengths of prompts that have no token ids, where the server counts. Raises RolloutError."""
    room = asyncio.Semaphore(in_flight)

    async def count(prompt: Prompt) -> int | None:
        async with room:
            return await client.count(prompt)

    unknown = [prompt for prompt in work.prompts if not prompt.token_ids]
    counts = await asyncio.gather(*map(count, unknown))
    pairs = zip(unknown, counts, strict=True)
    return replace(work, counted={prompt.id: length for prompt, length in pairs if length is not None})


async def run_benchmarks(
    works: Sequence[Work],
    client: Asked,
    store: Store,
    in_flight: int,
    context: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Ask for every completion that `store` does not hold, grade each as it comes, and store it.

    Args:
        in_flight: requests at once.
        context: tokens that the model takes; None: not known. A completion gets what its prompt leaves of it (see
            `Work.budget`), and a prompt that leaves nothing is a failure `too_long`.

    Raises RolloutError when the servers are lost, OSError when the disk is full. What is stored stays; what has come
    when this is cancelled is graded and stored, too.
    """
    progress = progress or Silent()
    for work in works:
        came = [store.came(key) for key in work.completions()]
        progress.start(work.name, done=sum(came), total=len(came))
    todo = (item for work in works for item in _items(work, store, context))
    room = asyncio.Semaphore(in_flight)

    async def work_off() -> None:
        for item in todo:
            answer = await _answer(item, client, room, context)
            await to_the_end(keep(item, answer))

    async def keep(item: _Item, answer: Generation | Answer) -> None:
        generation = await _graded(item, answer) if isinstance(answer, Answer) else answer
        store.append(generation)
        progress.step(generation)

    # Twice as many as may ask, so that as many may be waiting for a grade without the server noticing.
    workers = [asyncio.create_task(work_off()) for _ in range(2 * in_flight)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            if not worker.cancelling():  # a second time would break off what deals with a completion
                worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await what deals with a completion that came; cancelled meanwhile, it ends all the same."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    finally:
        await task


@dataclass(frozen=True, slots=True)
class _Item:
    """One completion to ask for."""

    benchmark: Benchmark
    problem: Problem
    prompt: Prompt
    sample: int
    max_tokens: int  # below 1: the prompt leaves no room
    grade: Grade


def _items(work: Work, store: Store, context: int | None) -> Iterator[_Item]:
    """What is not stored, a problem's samples one after the other: the server keeps what it has read of a prompt."""
    grade = grader(work.benchmark.protocol)
    for problem, prompt in zip(work.problems, work.prompts, strict=True):
        for sample in range(work.benchmark.protocol.samples):
            if not store.came((work.name, problem.id, sample)):
                yield _Item(work.benchmark, problem, prompt, sample, work.budget(prompt, context), grade)


async def _answer(item: _Item, client: Asked, room: asyncio.Semaphore, context: int | None) -> Generation | Answer:
    """What the server wrote, or a failure."""
    protocol, place = item.benchmark.protocol, (item.benchmark.name, item.problem, item.sample)
    if item.max_tokens < 1:
        length = (context or 0) - item.max_tokens
        return failed(*place, "too_long", f"a prompt of {length} tokens; the model takes {context}, answer included")
    async with room:
        answer = await client.complete(item.prompt, Sampling(item.max_tokens, protocol.temperature, protocol.top_p))
    return failed(*place, answer.cause, answer.reason) if isinstance(answer, Failed) else answer


async def _graded(item: _Item, answer: Answer) -> Generation:
    place = (item.benchmark.name, item.problem, item.sample)
    completion, max_tokens = item.prompt.prefill + answer.text, item.max_tokens
    if answer.finish_reason == "length" and answer.tokens is not None:
        max_tokens = min(max_tokens, answer.tokens)  # a server may shorten what does not fit without a word
    written = answer.tokens, answer.finish_reason, max_tokens
    return await asyncio.to_thread(graded, *place, completion, item.grade, *written)


def results(works: Sequence[Work], generations: Sequence[Generation], model: str) -> dict[str, dict[str, Any]]:
    """The content of results.json. What was never asked for, because the servers were lost, is a failure `server`."""
    found = {}
    for work in works:
        own = [generation for generation in generations if generation.benchmark == work.name]
        protocol = work.benchmark.protocol
        numbers = summary(own + _never_asked(work, own), protocol.samples)
        found[work.name] = numbers | {
            "shortened": sum((one.max_tokens or protocol.max_tokens) < protocol.max_tokens for one in own),
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
