"""A task's problems as prompts, and what became of its rows in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo.policy.load import max_positions
from grpo.prompts import render
from grpo.types import Prompt
from recipes.episodes import EpisodesTask
from recipes.gold import advice
from recipes.schema.load import model_settings
from recipes.schema.recipe import Recipe
from recipes.tasks import Task, TaskError, TaskRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def task_prompts(
    recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase, episodes: EpisodesTask | None = None
) -> tuple[list[Prompt], list[Prompt], int]:
    """Training and held-out prompts, and how many were dropped because they are too long.

    `episodes`: of an environment, which says how a chat begins.
    """
    room = max_positions(model_settings(recipe)) - recipe.rollout.max_tokens
    longest = min(recipe.rollout.max_prompt_tokens, room)
    if longest < 1:
        raise TaskError(
            f"rollout.max_tokens: {recipe.rollout.max_tokens} leaves no room for a prompt, the model takes "
            f"{room + recipe.rollout.max_tokens} tokens in all; reduce it"
        )

    def prompts(rows: list[TaskRow]) -> tuple[list[Prompt], int]:
        settings = recipe.only_task
        return render(
            rows,
            tokenizer,
            settings.template,
            settings.system,
            settings.instruction,
            settings.prefill,
            longest,
            conversations=episodes.conversations(rows, settings) if episodes else None,
        )

    train, dropped = prompts(task.train)
    held_out, held_out_dropped = prompts(task.held_out)
    if not train or not held_out:
        raise TaskError(
            f"task {task.name}: every {'held-out' if train else 'training'} prompt is longer than "
            f"{longest} tokens, the smaller of rollout.max_prompt_tokens and what max_tokens leaves of the model"
        )
    return train, held_out, dropped + held_out_dropped


def task_in_words(task: Task, train: int, held_out: int, dropped: int) -> str:
    lines = [f"task {task.name}: {train} problems to train on, {held_out} held out"]
    if dropped:
        lines.append(f"  {dropped} dropped: longer than rollout.max_prompt_tokens, or than the model takes")
    lines += [f"  {line}" for line in task.notes]
    if found := advice([row.answer for row in task.train]):
        lines.append(f"  {found}")
    if task.rejected:
        lines.append(f"  {len(task.rejected)} rejected, for example:")
        lines += [f"    {row}: {reason}" for row, reason in task.rejected[:3]]
    return "\n".join(lines)
