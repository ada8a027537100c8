"""A task with an environment: what there is to talk about, how each episode begins, and the engine that plays them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grpo.environments.environment import EnvironmentRefusedError, EpisodeFailedError
from grpo.environments.host import EnvironmentHost, start_again
from grpo.types import Episode, Message, Prompt
from recipes.errors import run_async
from recipes.schema.recipe import Recipe, TaskSettings
from recipes.tasks import SHOWN, Task, TaskError, TaskRow, grade_of, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from grpo.rollout.engine import RolloutEngine

OWN_PROBLEMS = 1024  # training problems of an environment whose recipe does not say
AT_ONCE = 16  # episodes that are begun at a time, to see how; if all of the first so many fail, no more are
Begun = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class EpisodesTask:
    """A task as the environment begins it; without an environment, the task alone."""

    task: Task
    host: EnvironmentHost | None = None
    begun: Mapping[str, Begun] | None = None  # of each row's id

    def conversations(self, rows: Sequence[TaskRow], settings: TaskSettings) -> list[tuple[dict[str, str], ...]] | None:
        """What a chat begins with, in the order of the rows; None: what question and system prompt make."""
        return None if self.begun is None else [_conversation(self.begun[row.id], settings) for row in rows]

    def rehearse(self, prompt: Prompt, replies: Sequence[str], max_turns: int) -> list[Episode | None]:
        """An episode of each reply, given again and again until the end; None without an environment.

        Raises EnvironmentRefusedError if the environment does not bear it.
        """
        if self.host is None or self.begun is None:
            return [None] * len(replies)
        return list(run_async(_rehearse(self.host, prompt, self.begun[prompt.id], replies, max_turns)))

    def playing(self, engine: RolloutEngine, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> RolloutEngine:
        """The engine, whose completions are episodes from now on.

        Raises PromptError if the template cannot be gone on with after a reply.
        """
        environment = recipe.only_task.environment
        if environment is None or self.host is None or self.begun is None:
            return engine
        from grpo.rollout.episodes.engine import EpisodeEngine
        from grpo.rollout.episodes.frame import Frame

        task, rollout = recipe.only_task, recipe.rollout
        frame = Frame(tokenizer, task.template, environment.turn_template, task.prefill)
        if environment.max_turns > 1:
            frame.check(_conversation(next(iter(self.begun.values())), task))
        servers = max(rollout.server.replicas, len(rollout.server.urls))
        at_once = 2 * rollout.max_sequences * servers
        return EpisodeEngine(engine, self.host, frame, environment, self.begun, at_once)


@contextmanager
def loaded(recipe: Recipe) -> Iterator[EpisodesTask]:
    """The recipe's task; its environment is there until the end.

    Raises what load_task raises, EnvironmentRefusedError if there is no such environment.
    """
    settings = recipe.only_task
    if settings.environment is None:
        yield EpisodesTask(load_task(settings, recipe.eval.problems, recipe.train.seed))
        return
    with closing(EnvironmentHost(settings.environment)) as host:
        if settings.name or settings.dataset:
            task = load_task(settings, recipe.eval.problems, recipe.train.seed)
        else:
            task = _own_task(host, settings, recipe.eval.problems, recipe.train.seed)
        yield run_async(_begin(task, host))


def _own_task(host: EnvironmentHost, settings: TaskSettings, eval_problems: int, seed: int) -> Task:
    """Problems that the environment makes, or else a seed each."""
    assert settings.environment
    name = settings.environment.name.rpartition(":")[2]
    seed = seed if settings.seed is None else settings.seed
    held_out = _own_rows(host, name, "held_out", eval_problems, seed)
    known = {_content(row) for row in held_out}
    rejected = []
    train = []
    for row in _own_rows(host, name, "train", settings.problems or OWN_PROBLEMS, seed):
        if _content(row) in known:
            rejected.append((row.id, "is held out"))
        else:
            train.append(row)
    return Task(name, train, held_out, rejected, grade_of(settings))


def _own_rows(host: EnvironmentHost, name: str, split: str, n: int, seed: int) -> list[TaskRow]:
    made = host.rows(split, n)
    if made is None:
        seeds = [random.Random(f"{seed}/{split}/{k}").getrandbits(53) for k in range(n)]
        made = [{"seed": one} for one in seeds]
    rows = []
    for k, columns in enumerate(made[:n]):
        row_id = f"{name}/{split}/{columns.get('id', k)}"
        rows.append(TaskRow(row_id, str(columns.get("question", "")), str(columns.get("answer", "")), columns))
    return rows


def _content(row: TaskRow) -> str:
    return repr(sorted((key, repr(value)) for key, value in row.columns.items() if key != "id"))


async def _begin(task: Task, host: EnvironmentHost) -> EpisodesTask:
    """How each problem's episode begins. Problems that cannot be begun are rejected.

    Raises TaskError if none is left.
    """
    places = asyncio.Semaphore(AT_ONCE)
    begun: dict[str, Begun] = {}
    rejected = list(task.rejected)

    async def begin(row: TaskRow) -> TaskRow | None:
        seed = int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:6])
        given: dict[str, Any] = {"seed": seed, "question": row.question, **row.columns}
        async with places, host.session() as session:
            try:
                begun[row.id] = await session.start({**given, "id": row.id, "answer": row.answer}, "")
            except EpisodeFailedError as error:
                rejected.append((row.id, f"{error.cause}: {error.reason}"))
                return None
        question = "\n\n".join(message["content"] for message in begun[row.id])
        return replace(row, question=question, columns=given)

    async def begin_all(rows: list[TaskRow]) -> list[TaskRow]:
        first, rest = rows[:AT_ONCE], rows[AT_ONCE:]
        fine = [row for row in await asyncio.gather(*map(begin, first)) if row is not None]
        return fine + [row for row in await asyncio.gather(*map(begin, rest)) if row is not None] if fine else []

    train, held_out = await begin_all(task.train), await begin_all(task.held_out)
    if not train or not held_out:
        shown = "; ".join(f"{row}: {reason}" for row, reason in rejected[:SHOWN])
        left_out = "held-out" if train else "training"
        raise TaskError(f"task.environment: no {left_out} episode can be begun: {shown}")
    return EpisodesTask(replace(task, train=train, held_out=held_out, rejected=rejected), host, begun)


async def _rehearse(
    host: EnvironmentHost, prompt: Prompt, begun: Begun, replies: Sequence[str], max_turns: int
) -> list[Episode]:
    async def played(reply: str) -> Episode:
        said: list[Message] = []
        async with host.session() as session:
            await start_again(session, prompt, begun, "")
            for turn in range(1, max_turns + 1):
                said.append({"role": "assistant", "content": reply})
                if not (new := await session.step(reply)):
                    break
                said += new if turn < max_turns else ()
            episode = Episode(tuple(said), "turns" if new else "done")
            return replace(episode, score=await session.score(replace(episode, messages=(*begun, *said))))

    try:
        return await asyncio.gather(*map(played, replies))
    except EpisodeFailedError as error:
        raise EnvironmentRefusedError(f"task.environment: {prompt.id}: {error.reason}") from error


def _conversation(begun: Begun, settings: TaskSettings) -> tuple[dict[str, str], ...]:
    """With the recipe's system prompt in front, and its instruction at the end."""
    messages = [dict(message) for message in begun]
    if settings.instruction:
        messages[-1]["content"] += f"\n{settings.instruction}"
    if settings.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": settings.system})
    return tuple(messages)
