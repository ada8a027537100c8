"""Rejection sampling: completions of a task's problems, verified, kept by rules, as a dataset to train on.

OUT/recipe.yaml            what was asked for
    generations.parquet    every completion with its grade; generations.jsonl while it runs
    data/train.parquet     what was kept, as an SFT stage or TRL's SFTTrainer takes it
    data/README.md         the dataset's card: where it comes from, and how many fell to each rule
    summary.json
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import transformers
import yaml
from pyarrow import parquet
from rich.console import Console

from eval.ask.progress import Progress, open_progress
from eval.ask.run import to_the_end
from eval.stats.intervals import wilson
from eval.store import Store
from eval.types import Generation
from grpo.policy.load import load_tokenizer
from grpo.record.atomic import write_atomic
from grpo.record.duration import duration
from grpo.rollout.engine import RolloutEngine
from grpo.rollout.fleet.lease import Tenant, leased
from grpo.types import Prompt
from recipes.errors import InputError, run_async
from recipes.jobs.draw import graded_group, groups
from recipes.jobs.run_dir import check_unused, locked
from recipes.jobs.sample_rules import Apart, kept
from recipes.jobs.task_prompts import task_in_words, task_prompts
from recipes.jobs.train import check_servers, rollout_engine
from recipes.schema.load import model_settings, save_recipe
from recipes.schema.sample import SampleRecipe
from recipes.stages.identity import content_hash
from recipes.tasks import Task, load_task

DATA = Path("data") / "train.parquet"


def run(recipe: SampleRecipe, source: str, output: Path, resume: bool, overrides: Sequence[str] = ()) -> int:
    """Sample as `recipe` says, into `output`. Returns the exit code 0. As `recipes.jobs.train.run`.

    Raises InputError if no sample is kept.
    """
    transformers.utils.logging.disable_progress_bar()
    started, console = time.monotonic(), Console()
    shared = recipe.for_sampling()
    model = model_settings(shared)
    check_servers(shared, model, sends_weights=False)
    tokenizer = load_tokenizer(model)
    task, prompts, dropped, overlapping = prepare(recipe, tokenizer)
    _say(console, f"{source} -> {output}\n{in_words(recipe, task, len(prompts), dropped, overlapping)}")
    with locked(output / ".lock", f"--output {output}"):
        if not resume:
            check_unused(output)
        save_recipe(recipe, output / "recipe.yaml")
        with Store(output) as store:
            for sentence in store.passed_over:
                _say(console, sentence)
            _ask(recipe, store, prompts, task, output, console)
            generations = store.read()
            _write(recipe, output, prompts, generations, overlapping, time.monotonic() - started, console)
            if (output / "generations.jsonl").exists():
                store.finish()
    return 0


def prepare(recipe: SampleRecipe, tokenizer: Any) -> tuple[Task, list[Prompt], int, int]:
    """(task, problems to sample, those too long, those that overlap with a benchmark). Raises InputError, DataError."""
    settings, shared = recipe.sample, recipe.for_sampling()
    task = load_task(recipe.task, shared.eval.problems, settings.seed)
    prompts, _, dropped = task_prompts(shared, task, tokenizer)
    apart = Apart(settings.apart_from, Path(settings.data_dir) if settings.data_dir else None, settings.ngram)
    questions = {row.id: row.question for row in task.train}
    clean = [prompt for prompt in prompts if not apart.overlaps(questions[prompt.id])]
    if not clean:
        raise InputError(f"sample.apart_from: every problem of {task.name} overlaps with {settings.apart_from}")
    return task, clean[: settings.problems], dropped, len(prompts) - len(clean)


def in_words(recipe: SampleRecipe, task: Task, n: int, dropped: int, overlapping: int) -> str:
    """What will be sampled."""
    samples = recipe.sample.samples
    lines = [task_in_words(task, n, len(task.held_out), dropped), f"{n} problems x {samples} = {n * samples} samples"]
    if recipe.sample.apart_from:
        names = ", ".join(recipe.sample.apart_from)
        lines.append(f"{overlapping} problems left out: {recipe.sample.ngram} words in common with {names}")
    return "\n".join(lines)


def _ask(
    recipe: SampleRecipe, store: Store, prompts: Sequence[Prompt], task: Task, output: Path, console: Console
) -> None:
    """Everything that is not stored yet."""
    n, shared = recipe.sample.samples, recipe.for_sampling()
    todo = [prompt for prompt in prompts if not all(store.came((task.name, prompt.id, k)) for k in range(n))]
    if not todo:
        return
    model, tenant = model_settings(shared), Tenant.once(f"sampling, {output}")
    in_process = recipe.rollout.engine != "vllm" and torch.cuda.is_available()
    engine = rollout_engine(
        shared, model, load_tokenizer(model), output, torch.device("cuda" if in_process else "cpu"), tenant
    )
    if recipe.rollout.engine == "vllm":
        _say(console, f"starting vLLM; log: {output / 'logs' / 'server.log'}")
    progress = open_progress(console)
    try:
        progress.start(task.name, (len(prompts) - len(todo)) * n, len(prompts) * n)
        with leased(recipe.rollout.server.urls, tenant, optional=True):
            run_async(_ask_all(recipe, engine, store, todo, task, progress))
    except KeyboardInterrupt:
        _say(console, "stopping; go on with the same arguments and --resume")
        raise
    finally:
        progress.close()


async def _ask_all(
    recipe: SampleRecipe, engine: RolloutEngine, store: Store, prompts: Sequence[Prompt], task: Task, progress: Progress
) -> None:
    n, seed = recipe.sample.samples, f"{recipe.sample.seed}/sample"

    async def keep(generations: Sequence[Generation]) -> None:
        for one in generations:
            if not store.came((one.benchmark, one.problem_id, one.sample)):
                await asyncio.to_thread(store.append, one)
                progress.step(one)

    try:
        await engine.start()
        async for group in groups(engine, prompts, recipe.rollout, n, seed):
            await to_the_end(keep(await asyncio.to_thread(graded_group, task, group)))
    finally:
        await engine.close()


# -- What is kept -------------------------------------------------------------------------------------------------


def _write(
    recipe: SampleRecipe,
    output: Path,
    prompts: Sequence[Prompt],
    generations: Sequence[Generation],
    overlapping: int,
    seconds: float,
    console: Console,
) -> None:
    asked = {prompt.id: prompt for prompt in prompts}
    chosen, fallen = kept([one for one in generations if one.problem_id in asked], recipe.sample)
    right = [one.value == 1.0 for one in generations if one.value is not None]
    low, high = wilson(sum(right), len(right))
    summary = {
        "samples": len(generations),
        "kept": len(chosen),
        "problems": len(asked),
        "problems_kept": len({one.problem_id for one in chosen}),
        "dropped": dict(fallen.most_common()),
        "overlapping_problems": overlapping,
        "right": {"value": sum(right) / len(right) if right else None, "low": low, "high": high, "n": len(right)},
        "length": sum(one.tokens or 0 for one in chosen) / len(chosen) if chosen else None,
        "wall_seconds": seconds,
        "engine": recipe.rollout.engine,
        "seed": recipe.sample.seed,
    }
    text = _in_words(summary)
    if not chosen:
        raise InputError(f"no sample was kept.\n{text}\nWiden the rules under sample, or take a better model")
    folder = Path(model_settings(recipe.for_sampling()).path)
    origin = {
        "model": recipe.model.path,
        "revision": recipe.model.revision,
        "weights": content_hash(folder) if folder.is_dir() else None,  # a hub's are named by the revision
        "task": recipe.task.name or recipe.task.dataset,
        "seed": recipe.sample.seed,
    }
    rows = [{**_example(recipe, asked[one.problem_id], one), **_columns(one), **origin} for one in chosen]
    write_atomic(
        output / DATA,
        lambda partial: parquet.write_table(pa.Table.from_pylist(rows), partial, compression="zstd"),
    )
    write_atomic(output / DATA.with_name("README.md"), _card(recipe, origin, summary))
    write_atomic(output / "summary.json", json.dumps(summary, indent=2))
    _say(console, f"{text}\ndata: {output / DATA}")


def _example(recipe: SampleRecipe, prompt: Prompt, generation: Generation) -> dict[str, Any]:
    """What a model learns from: the conversation, or the prompt as it was shown with what came after it."""
    as_chat = recipe.sample.format == "messages" or (recipe.sample.format == "auto" and prompt.messages)
    if not as_chat:
        return {"prompt": prompt.text, "completion": generation.completion.removeprefix(prompt.prefill)}
    turns = [dict(message) for message in prompt.messages] or [{"role": "user", "content": generation.question}]
    return {"messages": [*turns, {"role": "assistant", "content": generation.completion}]}


def _columns(generation: Generation) -> dict[str, Any]:
    names = ("problem_id", "sample", "answer", "extracted", "value", "outcome", "tokens")
    return {name: getattr(generation, name) for name in names}


def _in_words(summary: Mapping[str, Any]) -> str:
    right = summary["right"]
    share = (
        ""
        if right["value"] is None
        else (f", {right['value']:.1%} [{100 * right['low']:.1f}, {100 * right['high']:.1f}] right")
    )
    lines = [f"{summary['samples']} samples{share}; {summary['kept']} kept, of {summary['problems_kept']} problems"]
    return "\n".join(lines + [f"  {n} {rule}" for rule, n in summary["dropped"].items()])


def _weights(origin: Mapping[str, Any]) -> str:
    return (
        f"weights {origin['weights']}" if origin["weights"] else f"revision {origin['revision'] or 'main'} of the hub"
    )


def _card(recipe: SampleRecipe, origin: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    rules = "\n".join(f"| {rule} | {n} |" for rule, n in {"kept": summary["kept"], **summary["dropped"]}.items())
    settings = yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    return (
        "# Verified samples\n\n"
        f"{summary['kept']} samples of {origin['model']} ({_weights(origin)}) on {origin['task']}, made by "
        f"Zero in {duration(summary['wall_seconds'])}. Each was verified by the task's own verifier.\n\n"
        f"| rule | samples |\n| --- | --- |\n{rules}\n\n"
        f"{summary['overlapping_problems']} problems were left out because they overlap with "
        f"{', '.join(recipe.sample.apart_from) or 'nothing: no benchmark was named'}.\n\n"
        f"```yaml\n{settings}```\n"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
