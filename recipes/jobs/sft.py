"""One supervised run, from a recipe to a summary."""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import transformers

from eval.ask.run import evaluate
from eval.problems.data import open_splits, read_rows
from grpo.losses.cross_entropy import CrossEntropy
from grpo.policy.load import load_tokenizer
from grpo.policy.shard.ranks import Ranks
from grpo.record.trackers import check_trackers
from grpo.sft.config import SFTConfig, SFTData
from grpo.sft.errors import SFTError
from grpo.sft.examples import Example, Examples, Reader, kind_of, marked, read_examples, split_held_out
from grpo.sft.trainer import SFTTrainer
from grpo.types import Prompt, Sampling
from recipes.errors import run_async
from recipes.jobs.learner import device_of, joined_ranks, learner_of
from recipes.jobs.run_dir import check_unused, locked
from recipes.jobs.task_prompts import task_in_words, task_prompts
from recipes.jobs.train import how_to_go_on, recording, rollout_engine
from recipes.schema.load import model_settings, save_recipe
from recipes.schema.plan import sft_plan
from recipes.schema.sft import SFTRecipe
from recipes.tasks import Task, load_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 600  # characters of the example in the plan


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a supervised run learns from."""

    train: list[Example]
    held_out: list[Example]
    words: str  # what was read, what was dropped, one example


def run(recipe: SFTRecipe, source: str, output: Path, resume: bool, overrides: Sequence[str] = ()) -> int:
    """Train as `recipe` says, into `output`. Returns the exit code 0. As `recipes.jobs.train.run`."""
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if recipe.train.backend == "trl":
        warnings.filterwarnings("ignore", "TRL currently supports vLLM")  # which it is not used with here
        from recipes.jobs.trl_sft import refuse_sft

        refuse_sft(recipe, resume)
    with joined_ranks(recipe) as ranks:
        _run(recipe, source, output, resume, overrides, ranks)
    return 0


def _run(recipe: SFTRecipe, source: str, output: Path, resume: bool, overrides: Sequence[str], ranks: Ranks) -> None:
    check_trackers(recipe.train.trackers)
    tokenizer = load_tokenizer(model_settings(recipe.for_update(1)))
    data = prepare(recipe.data, recipe.train, tokenizer)
    steps = recipe.train.n_steps(len(data.train))
    shared = recipe.for_update(steps)
    model = model_settings(shared)
    said = [f"{source} -> {output}", sft_plan(recipe, steps, len(data.train)), data.words]
    task: Task | None = None
    held_out: list[Prompt] = []
    if recipe.task:
        task = load_task(recipe.task, recipe.eval.problems, recipe.train.seed)
        train, held_out, dropped = task_prompts(shared, task, tokenizer)
        said.append(task_in_words(task, len(train), len(held_out), dropped))
    with locked(output / ".lock", f"--output {output}"):
        if not resume:
            check_unused(output)
        save_recipe(recipe, output / "recipe.yaml")
        with recording(recipe, steps, output, resume) as recorder:
            for text in said:
                recorder.note(text)
            if recipe.train.backend == "trl":
                from recipes.jobs.trl_sft import TRLSupervisedRun

                parts = (model, tokenizer, data.train, data.held_out, task, held_out, recorder, output)
                recorder.finish(TRLSupervisedRun(recipe, steps, *parts).train())
                return
            recorder.stage("loading the model")
            ranks.told(steps)  # to those that wait in `follow`
            device = device_of(recipe)
            learner = learner_of(shared, device, ranks, CrossEntropy())
            engine = rollout_engine(shared, model, tokenizer, output, device) if task else None

            async def measure() -> Mapping[str, Any]:
                assert engine is not None
                assert task is not None
                sampling = Sampling(recipe.eval.max_tokens or recipe.rollout.max_tokens, recipe.eval.temperature)
                result = await evaluate(engine, held_out, task.grade, sampling, recipe.eval.samples)
                return dataclasses.asdict(result)

            trainer = SFTTrainer(
                config=recipe.train,
                steps=steps,
                learner=learner,
                tokenizer=tokenizer,
                examples=data.train,
                held_out=data.held_out,
                recorder=recorder,
                run_dir=output,
                engine=engine,
                evaluate=measure if task else None,
            )
            try:
                recorder.finish(run_async(trainer.train()))
            except KeyboardInterrupt:
                ranks.check()
                recorder.note(how_to_go_on(source, output, overrides))
                raise


def prepare(sources: Sequence[SFTData], config: SFTConfig, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Examples of all sources, mixed by share, apart from those held out.

    Raises SFTError or DataError: nothing to learn from, and why.
    """
    read = [_read(source, config, tokenizer) for source in sources]
    lines = []
    for source, found in zip(sources, read, strict=True):
        lines.append(f"data {source.dataset}: {len(found.kept)} examples")
        lines += [f"  {n} dropped, {reason}, such as {found.first[reason]}" for reason, n in found.dropped.items()]
    mixed, notes = _mixed(sources, read, config.seed)
    train, held_out = split_held_out(mixed, config.held_out, config.seed)
    if not train:
        raise SFTError(f"train.held_out: {config.held_out} leaves none of {len(mixed)} examples to train on; lower it")
    tokens, trained = (sum(map(of, train)) for of in (lambda one: len(one.ids), lambda one: one.n_trained))
    lines += [*notes, f"{len(train)} to train on ({tokens:,} tokens, {trained:,} learned), {len(held_out)} held out"]
    shown = marked(train[0], tokenizer)
    cut = " ..." if len(shown) > SHOWN else ""
    return Prepared(train, held_out, "\n".join([*lines, "an example, learned between » and «:", shown[:SHOWN] + cut]))


def _read(source: SFTData, config: SFTConfig, tokenizer: PreTrainedTokenizerBase) -> Examples:
    splits = open_splits(source.dataset, source.subset, None, "give a local file or folder as dataset")
    split = source.split if source.split in splits or len(splits) > 1 else next(iter(splits))
    rows = read_rows(splits, split, source.dataset, ())
    names = kind_of(splits[split].column_names, source.columns, source.dataset)
    found = read_examples(rows, Reader(tokenizer, config, names), config, source.limit)
    if not found.kept:
        why = "; ".join(f"{reason}: {n} rows, such as {found.first[reason]}" for reason, n in found.dropped.items())
        raise SFTError(f"data {source.dataset}: no row can be learned from. {why}")
    return found


def _mixed(sources: Sequence[SFTData], read: Sequence[Examples], seed: int) -> tuple[list[Example], list[str]]:
    """All examples of the sources without a share, and of the others as many as their shares ask for."""
    whole = [one for source, found in zip(sources, read, strict=True) if source.share is None for one in found.kept]
    total = len(whole) / (1 - sum(source.share or 0 for source in sources))
    mixed, notes = list(whole), []
    for i, (source, found) in enumerate(zip(sources, read, strict=True)):
        if source.share is None:
            continue
        wanted = round(source.share * total)
        taken = random.Random(f"{seed}/share/{i}").sample(found.kept, min(wanted, len(found.kept)))
        mixed += taken
        short = f", of {wanted} that its share asks for" if len(taken) < wanted else ""
        notes.append(f"data {source.dataset}: {len(taken)} taken{short}")
    return mixed, notes
