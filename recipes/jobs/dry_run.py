"""`zero run --dry-run`: what a run would be, and what would stop it, without starting or writing anything.

Every part is tried by itself: where one is refused (a model that is not here), the others are still shown, with
problems of the same form where the task's own cannot be read. At the end everything that is refused is said at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import datasets
import transformers
from rich.console import Console

from eval.problems.data import as_written
from grpo.policy.load import load_tokenizer
from grpo.prompts import SYSTEM, render
from grpo.record.trackers import check_trackers
from grpo.types import Prompt
from recipes.episodes import EpisodesTask, loaded
from recipes.errors import InputError, code_of
from recipes.jobs import timing
from recipes.jobs.rehearsal import PROBLEMS, Rehearsed, check_engine, check_model, in_doubt, rehearse, values
from recipes.jobs.run_dir import check_unused
from recipes.jobs.task_prompts import task_in_words, task_prompts
from recipes.jobs.teacher import check_teacher
from recipes.jobs.train import check_servers
from recipes.schema.disk import disk_gib
from recipes.schema.load import model_settings
from recipes.schema.plan import aligned, batch_rows, check_memory, find_machine, model_rows, place_rows
from recipes.schema.recipe import Recipe
from recipes.schema.size import ModelSize, model_size
from recipes.tasks import NO_VERIFIER, Task, TaskRow, verifier_of
from rewards import RewardSum, grader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
PUZZLES = 2000  # of reasoning-gym that a look makes, about 1,000 a second
TRACKERS = {
    "tensorboard": "writes beside the run's metrics, and needs nothing: tensorboard --logdir RUN_DIR",
    "trackio": "writes to this machine's cache, and needs nothing; TRACKIO_SPACE_ID in the environment: to a Space",
}
# Of the data sets that a recipe names by `task.name`: a row of the same form, for where the hub is out of reach.
ALIKE = {
    "gsm8k": TaskRow("example", "A pen costs 3 dollars. What do 6 cost?", "18", {"question": "", "answer": "#### 18"}),
    "math": TaskRow(
        "example",
        "What is $6 \\cdot 7$?",
        "42",
        {"problem": "", "solution": "\\boxed{42}", "level": "Level 1", "type": "Prealgebra"},
    ),
}


class DryRunError(InputError):
    """What will be refused, a paragraph each."""


def dry_run(recipe: Recipe, source: str, output: Path | None, console: Console, said: str = "") -> None:
    """Show the run. Raises DryRunError if it cannot start.

    Args:
        source: what the user called the recipe.
        output: the run's directory, where one is named.
        said: of the hub, where it does not answer.
    """
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with ExitStack() as stack:
        _DryRun(recipe, console, stack).run(source, output, said)


class _DryRun:
    def __init__(self, recipe: Recipe, console: Console, stack: ExitStack) -> None:
        self._recipe, self._console, self._stack = recipe, console, stack
        self._refused: list[str] = []

    def run(self, source: str, output: Path | None, said: str) -> None:
        self._say(f"dry run of {source}: nothing is started, and nothing is written")
        if said:
            self._say(said)
        recipe = self._recipe
        if output is not None:
            self._try(check_unused, output)
        size = self._try(model_size, model_settings(recipe))
        self._show_plan(size, output)
        tokenizer = self._try(load_tokenizer, model_settings(recipe)) if size else None
        if tokenizer:
            self._try(check_model, recipe)
            self._try(check_teacher, recipe, tokenizer)
        prompts: list[Prompt] = []
        for name in recipe.named_tasks:
            prompts += self._show_all(name, tokenizer)
        if recipe.tasks:
            self._try(lambda: RewardSum(recipe.rewards).close())  # all of them, as the run has them
        self._try(check_engine, recipe)
        self._try(check_servers, recipe, model_settings(recipe))
        self._show_trackers()
        if size and tokenizer and prompts and not self._refused:
            self._show_time(size, tokenizer, prompts)
        self._end()

    def _end(self) -> None:
        refused = list(dict.fromkeys(self._refused))
        if refused:
            raise DryRunError("\n".join(refused))
        self._say("\nnothing will be refused: start it without --dry-run")

    def _try(self, call: Callable[..., T], *args: Any) -> T | None:
        """What it returns; None, with the reason kept, if the run would be refused for it."""
        try:
            return call(*args)
        except Exception as error:
            if code_of(error) is None:
                raise
            self._refused.append(str(error))
            return None

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    # -- The parts ------------------------------------------------------------------------------------------------

    def _show_plan(self, size: ModelSize | None, output: Path | None) -> None:
        recipe, machine = self._recipe, find_machine()
        rows = batch_rows(recipe)
        if size:
            self._try(check_memory, recipe, size, machine)
            rows = [*model_rows(recipe, size), *rows, *place_rows(recipe, size, machine)]
        self._say(aligned(rows))
        if size:
            folder = next(one for one in [*(output or Path("runs")).resolve().parents] if one.exists())
            free, needed = shutil.disk_usage(folder).free / 2**30, disk_gib(recipe, size)[0]
            if needed > free:
                self._say(
                    f"  the disk of {folder} has {free:.1f} GiB left, which its checkpoints alone will not fit into; "
                    "lower train.keep_checkpoints, or name another --output"
                )

    def _show_all(self, name: str, tokenizer: PreTrainedTokenizerBase | None) -> list[Prompt]:
        """A task and what it pays; the first training prompts, [] where they cannot be made."""
        recipe = self._recipe.of_task(name)
        if name:
            self._say(f"\ntask {name}:")
        recipe = self._with_fewer_puzzles(recipe)
        episodes = self._try(lambda: self._stack.enter_context(loaded(recipe)))
        prompts = self._show_task(recipe, episodes, tokenizer)
        self._show_rewards(recipe, episodes, prompts, tokenizer)
        return prompts

    def _with_fewer_puzzles(self, recipe: Recipe) -> Recipe:
        """They are mixed alike in every first part of them, and a run would take half a minute to make them all."""
        task = recipe.only_task
        if task.name != "reasoning_gym" or not task.problems or task.problems <= PUZZLES:
            return recipe
        self._say(f"\nof task.problems, {task.problems:,}, the first {PUZZLES:,} are made here; a run makes them all")
        return recipe.model_copy(update={"task": task.model_copy(update={"problems": PUZZLES})})

    def _show_task(
        self, recipe: Recipe, episodes: EpisodesTask | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[Prompt]:
        if episodes is None:
            return []
        task = episodes.task
        prompts: list[Prompt] = []
        if tokenizer is not None and (made := self._try(task_prompts, recipe, task, tokenizer, episodes)):
            prompts, held_out, dropped = made
            self._say("\n" + task_in_words(task, len(prompts), len(held_out), dropped))
        else:
            self._say("\n" + task_in_words(task, len(task.train), len(task.held_out), 0))
        if recipe.only_task.template == "chat":
            system = SYSTEM if recipe.only_task.system is None else recipe.only_task.system
            why = " (task.system is not set; '' is none)" if recipe.only_task.system is None else ""
            self._say(f"\nsystem prompt that template: chat adds{why}: {system or 'none'}")
        self._show_prompts(prompts[:PROBLEMS])
        self._show_gold(recipe, task)
        return prompts

    def _show_prompts(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            self._say(f"\n{prompt.id}, {len(prompt.token_ids)} tokens, as the model sees it:")
            self._say(_indented(prompt.text))
            if prompt.prefill:
                self._say(f"  of which the answer's own beginning is {prompt.prefill!r}")

    def _show_gold(self, recipe: Recipe, task: Task) -> None:
        verifier = verifier_of(recipe.only_task)
        if verifier == NO_VERIFIER:
            return
        grade = grader(verifier)
        for row in task.train[: PROBLEMS + 1]:
            if not row.answer:  # of an environment's own problems
                continue
            answer = as_written(row.answer, row.columns, verifier)
            score = grade(f"<answer>{answer}</answer>", {**row.columns, "answer": row.answer})
            self._say(f"gold answer of {row.id}: {row.answer!r}, read as {score.extracted!r} ({score.reason})")

    def _show_rewards(
        self,
        recipe: Recipe,
        episodes: EpisodesTask | None,
        prompts: list[Prompt],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        rewards = self._try(lambda: RewardSum(recipe.rewards, isolate=True))
        if rewards is None:
            return
        with closing(rewards):
            prompts = prompts or self._alike(recipe, episodes.task if episodes else None)
            if not prompts:
                self._say("\nthe rewards are there; what columns they lack shows when the data can be read")
                return
            rehearsed = self._try(rehearse, recipe, prompts, tokenizer, rewards, episodes)
        if rehearsed:
            self._say(f"\nwhat the rewards pay{' (for a made-up problem)' if prompts[0].id == 'example' else ''}:")
            self._say(_table(rehearsed))
            for sentence in in_doubt(rehearsed):
                self._say(sentence)

    def _alike(self, recipe: Recipe, task: Task | None) -> list[Prompt]:
        """Prompts without token ids, of the task's own rows or of such as they are; [] where nothing is known."""
        settings = recipe.only_task
        alike = ALIKE.get(settings.name or "")
        rows = task.train[:PROBLEMS] if task else [alike] if alike and not settings.columns else []
        return render(rows, None, settings.template, settings.system, settings.instruction, settings.prefill)[0]

    def _show_trackers(self) -> None:
        names = self._recipe.train.trackers
        self._try(check_trackers, names)
        for name in names:
            self._say(f"\ntracker {name}: {_wandb() if name == 'wandb' else TRACKERS[name]}")

    def _show_time(self, size: ModelSize, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> None:
        if reason := timing.why_not(self._recipe, size):
            self._say(f"\ntime: not measured, because {reason}")
            return
        with self._console.status("measuring a few updates and tokens"):
            speed = self._try(timing.measure, self._recipe, tokenizer, prompts)
        if speed:
            self._say(f"\ntime: {timing.in_words(self._recipe, speed, prompts)}")


def _wandb() -> str:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return f"WANDB_MODE is {os.environ['WANDB_MODE']}: it needs no connection"
    netrc = Path("~/.netrc").expanduser()
    known = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace"))
    key = "its key is there" if known else "it needs a key: set WANDB_API_KEY, or run wandb login"
    return f"{key}; WANDB_MODE=offline in the environment: without a connection"


def _table(rehearsed: Sequence[Rehearsed]) -> str:
    names = list(values(rehearsed[0].reward))
    lines = [["", *names]]
    for one in rehearsed:
        row = ["none" if value is None else f"{value:.3g}" for value in values(one.reward).values()]
        lines.append([f"{one.prompt.id}: {one.kind}", *row])
    widths = [max(len(line[i]) for line in lines) for i in range(len(names) + 1)]
    return "\n".join(
        "  "
        + "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.split("\n"))
