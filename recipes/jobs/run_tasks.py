"""The tasks of a run: one, or several in a mixture. Their problems as prompts, and what measures them.

Of several, a prompt's id begins with its task's name, `sums/arithmetic/train/17`, and `Prompt.task` is that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.ask.held_out import evaluate, evaluate_tasks
from grpo.rollout.engine import RolloutEngine
from grpo.signal.tasks import most_in_a_step, order_of
from grpo.types import Prompt, Sampling
from recipes.episodes import EpisodesTask, loaded
from recipes.jobs.rehearsal import Rehearsed, rehearse
from recipes.jobs.task_prompts import task_in_words, task_prompts
from recipes.schema.recipe import Recipe
from recipes.tasks import NO_VERIFIER, TaskError, verifier_of
from rewards import RewardSum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Part:
    """One task of a run, and the run as if it had no other."""

    recipe: Recipe
    episodes: EpisodesTask
    train: list[Prompt]
    held_out: list[Prompt]
    words: str

    @property
    def measured(self) -> bool:
        return verifier_of(self.recipe.only_task) != NO_VERIFIER


@dataclass(frozen=True, slots=True)
class RunTasks:
    """By name; the name of an only one is ""."""

    recipe: Recipe
    parts: Mapping[str, Part]

    @property
    def only(self) -> Part:
        """Of a run with one task."""
        (part,) = self.parts.values()
        return part

    @property
    def train(self) -> list[Prompt]:
        return [prompt for part in self.parts.values() for prompt in part.train]

    @property
    def measured(self) -> dict[str, Part]:
        """Those that have a verifier."""
        return {name: part for name, part in self.parts.items() if part.measured}

    @property
    def held_out(self) -> list[Prompt]:
        return [prompt for part in self.measured.values() for prompt in part.held_out]

    @property
    def shares(self) -> dict[str, float] | None:
        tasks = self.recipe.tasks
        return {name: task.share for name, task in tasks.items()} if tasks else None

    @property
    def words(self) -> str:
        return "\n".join(part.words for part in self.parts.values())

    @property
    def _language(self) -> str:
        """That the rewards ask for."""
        asked = [one.args.get("language", "en") for one in self.recipe.rewards if one.name == "language_consistency"]
        return next((one for one in asked if isinstance(one, str)), "en")

    def check_order(self) -> None:
        """Raises TaskError if train.curriculum needs what the problems lack."""
        train, per_step = self.recipe.train, self.recipe.rollout.prompts_per_step
        try:
            order_of(train.curriculum, self.train, per_step, train.seed, self.shares)
        except ValueError as error:
            raise TaskError(f"train.curriculum: {error}") from error
        for name in self.shares or ():
            found, most = len(self.parts[name].train), most_in_a_step(self.shares or {}, name, per_step)
            if found < most:
                raise TaskError(
                    f"tasks.{name}: {found} problems are left to train on, a step may ask for {most} of "
                    "rollout.prompts_per_step; lower its share, or give it more"
                )

    def rehearse(self, tokenizer: PreTrainedTokenizerBase | None, rewards: RewardSum) -> list[Rehearsed]:
        """As `rehearse`, of each task."""
        parts = self.parts.values()
        return [one for p in parts for one in rehearse(p.recipe, p.train, tokenizer, rewards, p.episodes)]

    def playing(self, engine: RolloutEngine, tokenizer: PreTrainedTokenizerBase) -> RolloutEngine:
        """The engine, whose completions are episodes where the run's one task has an environment."""
        return engine if self.recipe.tasks else self.only.episodes.playing(engine, self.recipe, tokenizer)

    async def measure(self, engine: RolloutEngine) -> Mapping[str, Any]:
        """Held-out accuracy of what the engine serves, over all problems; of several tasks, under `tasks`, of each."""
        settings = self.recipe.eval
        sampling = Sampling(settings.max_tokens or self.recipe.rollout.max_tokens, settings.temperature)
        if not self.recipe.tasks:
            grade = self.only.episodes.task.grade
            found = await evaluate(engine, self.held_out, grade, sampling, settings.samples, self._language)
            return dataclasses.asdict(found)
        grades = {name: part.episodes.task.grade for name, part in self.measured.items()}
        return await evaluate_tasks(engine, self.held_out, grades, sampling, settings.samples, self._language)


def run_tasks(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, stack: ExitStack) -> RunTasks:
    """The recipe's tasks, whose environments are there until `stack` ends.

    Raises TaskError, one line a task of which nothing is left to train on or to measure.
    """
    parts: dict[str, Part] = {}
    problems = []
    for name in recipe.named_tasks:
        try:
            parts[name] = _part(recipe.of_task(name), name, tokenizer, stack)
        except TaskError as error:
            problems.append(f"tasks.{name}: {error}" if name else str(error))
    if problems:
        raise TaskError("\n".join(problems))
    return RunTasks(recipe, parts)


def _part(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerBase, stack: ExitStack) -> Part:
    episodes = stack.enter_context(loaded(recipe))
    train, held_out, dropped = task_prompts(recipe, episodes.task, tokenizer, episodes)
    words = task_in_words(episodes.task, len(train), len(held_out), dropped)
    if name:
        words = f"{name}: {words}"
        if verifier_of(recipe.only_task) == NO_VERIFIER:
            words += "\n  nothing is measured of it: verifier: none"
        train, held_out = _of(train, name), _of(held_out, name)
    return Part(recipe, episodes, train, held_out, words)


def _of(prompts: Sequence[Prompt], task: str) -> list[Prompt]:
    return [dataclasses.replace(prompt, id=f"{task}/{prompt.id}", task=task) for prompt in prompts]
