"""What can be known of a chain before its first stage: that every stage can work, and what it will do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from grpo.losses.registry import policy_loss_of
from grpo.policy.load import load_tokenizer
from grpo.record.trackers import check_trackers
from grpo.signal.advantage import load_advantage
from recipes.errors import InputError
from recipes.jobs.run_tasks import run_tasks
from recipes.jobs.sample import in_words as describe_sampling
from recipes.jobs.sample import prepare as prepare_sampling
from recipes.jobs.sft import prepare
from recipes.jobs.teacher import check_teacher
from recipes.schema.chain import Chain, Stage, stage_recipe
from recipes.schema.load import model_settings
from recipes.schema.plan import plan, sft_plan
from recipes.schema.recipe import Recipe
from recipes.schema.sample import SampleRecipe
from recipes.schema.sft import SFTRecipe
from recipes.stages.artifact import Artifact, StageError
from rewards import RewardSum

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(chain: Chain) -> dict[str, str]:
    """Each stage's plan, by name. Raises StageError, a paragraph for each stage that cannot work.

    A stage whose model another makes is planned with the model that this one starts from.
    """
    plans: dict[str, str] = {}
    bases: dict[str, str] = {}
    problems = []
    for stage in chain.stages:
        bases[stage.name] = bases[stage.model] if stage.model else str(stage.settings["model"]["path"])
        try:
            plans[stage.name] = _plan(stage, bases)
        except (InputError, ValueError) as error:
            text = str(error)
            problems.append(text if text.startswith("stage ") else f"stage {stage.name}: {text}")
    if problems:
        raise StageError("\n".join(problems))
    return plans


def _plan(stage: Stage, bases: Mapping[str, str]) -> str:
    there = {name: Path(bases[name]) for name in stage.inputs}
    recipe = stage_recipe(stage, stage.resolved(there, there))
    if isinstance(recipe, SampleRecipe):
        shared = recipe.for_sampling()
        task, prompts, dropped, overlapping = prepare_sampling(recipe, load_tokenizer(model_settings(shared)))
        return describe_sampling(recipe, task, len(prompts), dropped, overlapping)
    check_trackers(recipe.train.trackers)
    if isinstance(recipe, SFTRecipe):
        return _plan_sft(recipe, stage)
    with closing(RewardSum(recipe.rewards)):
        load_advantage(recipe.train.advantage_kind)
        policy_loss_of(recipe.train)
    tokenizer = load_tokenizer(model_settings(recipe))
    check_teacher(recipe, tokenizer)
    return f"{plan(recipe)}\n{_task(recipe, tokenizer)}"


def _plan_sft(recipe: SFTRecipe, stage: Stage) -> str:
    shared = recipe.for_update(1)
    tokenizer = load_tokenizer(model_settings(shared))
    there = [source for source, given in zip(recipe.data, stage.settings["data"], strict=True) if "stage" not in given]
    whole = [source.model_copy(update={"share": None}) for source in there]  # a share is of what is not there yet
    data = prepare(recipe.data if len(there) == len(recipe.data) else whole, recipe.train, tokenizer) if there else None
    known = len(data.train) if data and len(there) == len(recipe.data) else 0
    steps = recipe.train.n_steps(known) if known or recipe.train.steps else 1
    text = [sft_plan(recipe, steps, known or steps * recipe.train.batch_size)]
    if not known:
        text.append(f"data of {', '.join(stage.data)}: the steps are counted when it is there")
    text += [data.words] if data else []
    return "\n".join([*text, *([_task(shared, tokenizer)] if recipe.task else [])])


def _task(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> str:
    with ExitStack() as stack:
        tasks = run_tasks(recipe, tokenizer, stack)
        tasks.check_order()
        return tasks.words


def in_words(chain: Chain, plans: Mapping[str, str], done: Mapping[str, Artifact], begun: Collection[str]) -> str:
    """What will happen, stage by stage."""
    lines = [f"{chain.source}: {len(chain.stages)} stages"]
    for stage in chain.stages:
        start = f"from {stage.model}" if stage.model else f"from {stage.settings['model']['path']}"
        data = f", data of {', '.join(stage.data)}" if stage.data else ""
        state = "finished" if stage.name in done else "begun, goes on" if stage.name in begun else "to do"
        lines += ["", f"{stage.name}: {stage.kind} {start}{data} ({state})"]
        if stage.name not in done:
            lines += [f"  {line}" for line in plans[stage.name].split("\n")]
    return "\n".join(lines)
