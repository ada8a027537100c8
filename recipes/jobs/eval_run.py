"""Evaluating what a run trained, as the run asks, samples and reads: what `zero eval --run` does.

    RUN/recipe.yaml  ──▶  template, system prompt, instruction, prefill, reading, sampling
                     ──▶  problems: those that the run holds out, or other benchmarks asked in the same way
    RUN/checkpoints  ──▶  one model after the other, each into a folder of its own; 0 is the model before training

Of several checkpoints the output folder also has checkpoints.json, and checkpoints.png beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from eval.ask.run import RESULTS
from eval.problems.benchmarks import benchmark
from eval.problems.generated import TASKS
from eval.problems.protocol import Benchmark, Generated, Protocol, Source
from eval.types import Problem
from grpo.policy.checkpoint import checkpoints
from grpo.policy.load import load_tokenizer
from grpo.prompts import SYSTEM
from grpo.record.atomic import write_atomic
from recipes.hub import give_up_unless_reachable, hub_names
from recipes.jobs.eval_curve import CURVE, curve_in_words, write_curve
from recipes.jobs.eval_model import EvalError, OwnModel
from recipes.jobs.eval_shown import printer
from recipes.jobs.evaluate import Questions, Request, ask, default_folder, overridden, read_questions
from recipes.jobs.task_prompts import task_prompts
from recipes.schema.load import load_recipe, model_settings
from recipes.schema.recipe import GENERATED, Recipe
from recipes.task_data import source_of
from recipes.tasks import NO_VERIFIER, load_task, verifier_of
from rewards.verifier.extract import STRICT

ALL = "all"
POINTS = "checkpoints.json"  # benchmark -> [{"step", "accuracy": {"value", "low", "high"}, "n"}, ...]


def evaluate_run(run_dir: Path, checkpoint: str | None, request: Request, console: Console) -> int:
    """Evaluate one checkpoint, or all. Returns the exit code: 0; 1 where a part of one is missing.

    Args:
        checkpoint: a step's number, 0 for the model before training, "all"; None: the newest.
        request: what of the recipe's protocol the command line says otherwise.

    Raises EvalError if there is no such run or checkpoint; and as recipes.jobs.evaluate.evaluate.
    """
    if not (run_dir / "recipe.yaml").is_file():
        raise EvalError(f"--run {run_dir}: it has no recipe.yaml; expected the directory of a run")
    recipe = load_recipe(str(run_dir / "recipe.yaml"))
    chosen = _chosen(run_dir, checkpoint)
    if said := give_up_unless_reachable(hub_names(recipe)):
        printer(console)(said)
    questions = _questions(recipe, request)
    folder = request.output or default_folder(f"{run_dir.resolve().name}-{checkpoint or chosen[-1][0]}")
    if checkpoint != ALL:
        return _one(recipe, run_dir, chosen[0], request, questions, folder, console)
    code, found = 0, []
    for step, path in chosen:
        place = folder / f"step-{step:06d}"
        printer(console)(f"checkpoint {step} of {', '.join(str(one) for one, _ in chosen)}")
        if not (request.resume and (place / RESULTS).is_file() and _whole(place)):
            own = replace(request, resume=request.resume and place.is_dir())
            code |= _one(recipe, run_dir, (step, path), own, questions, place, console)
        found.append((step, json.loads((place / RESULTS).read_text(encoding="utf-8"))))
    _draw(found, folder, f"{run_dir.resolve().name}: every checkpoint", console)
    return code


def _chosen(run_dir: Path, checkpoint: str | None) -> list[tuple[int, Path | None]]:
    """(step, folder), oldest first; None: the model that the run began with."""
    kept: list[tuple[int, Path | None]] = list(checkpoints(run_dir))
    steps = ", ".join(str(step) for step, _ in kept) or "none"
    if checkpoint == ALL:
        return [(0, None), *kept]
    if checkpoint is None:
        if not kept:
            raise EvalError(f"--run {run_dir}: it has no checkpoint yet; --checkpoint 0 is the model before training")
        return kept[-1:]
    if not checkpoint.isdigit():
        raise EvalError(f"--checkpoint {checkpoint}: expected a step's number, or all; {run_dir} has {steps}")
    found = [one for one in [(0, None), *kept] if one[0] == int(checkpoint)]
    if not found:
        raise EvalError(f"--checkpoint {checkpoint}: {run_dir} keeps no checkpoint of that step; it has {steps}")
    return found


def _questions(recipe: Recipe, request: Request) -> list[Questions]:
    """The run's held-out problems, or the benchmarks of the request, asked as the recipe asks."""
    if not request.benchmarks:
        measured = [name for name, task in recipe.named_tasks.items() if verifier_of(task) != NO_VERIFIER]
        return [_held_out(recipe.of_task(name), name, request) for name in measured]
    if recipe.tasks:
        raise EvalError(
            f"--benchmark: this run has the tasks {', '.join(recipe.tasks)}, each asked in its own way, and does not "
            "say how to ask another; give --model RUN_DIR/checkpoints/STEP with --template, or leave --benchmark out"
        )
    asked = [as_the_recipe(benchmark(name), recipe) for name in request.benchmarks]
    return [read_questions(overridden(one, request), request) for one in asked]


def as_the_recipe(chosen: Benchmark, recipe: Recipe) -> Benchmark:
    """The benchmark under the recipe's own prompt, reading and sampling; its verifier stays its own."""
    task = recipe.only_task
    system = (SYSTEM if task.system is None else task.system) if task.template == "chat" else ""
    return chosen.override(
        template=task.template,
        system=system,
        instruction=task.instruction or "",
        prefill=task.prefill or "",
        read=tuple(task.read) if task.read else STRICT,
        max_tokens=recipe.eval.max_tokens or recipe.rollout.max_tokens,
        temperature=recipe.eval.temperature,
        samples=recipe.eval.samples,
        top_p=1.0,
    )


def _held_out(recipe: Recipe, name: str, request: Request) -> Questions:
    """The problems that the run measures itself on, those that it drops as too long left out.

    `name`: of one of several tasks, which is the benchmark's name then.
    """
    if request.shots:
        raise EvalError("--shots: a run is not asked with examples; give a --benchmark to ask it with some")
    if recipe.only_task.environment:
        raise EvalError("task.environment: the run's own problems are played, which zero eval does not; the run's "
                        "summary.json has them measured. Give a --benchmark to ask it instead")  # fmt: skip
    task = load_task(recipe.only_task, recipe.eval.problems, recipe.train.seed)
    _, prompts, _ = task_prompts(recipe, task, load_tokenizer(model_settings(recipe)))
    fits = {prompt.id for prompt in prompts}
    problems = [Problem(row.id, row.question, row.answer, columns=row.columns) for row in task.held_out]
    verifier = verifier_of(recipe.only_task)
    own = Benchmark(name or Path(task.name).stem, Protocol(_data(recipe), "", max_tokens=1, verifier=verifier))
    return Questions(
        overridden(as_the_recipe(own, recipe), request),
        [problem for problem in problems if problem.id in fits][: request.limit],
        [(problem.id, "its prompt is longer than the run takes") for problem in problems if problem.id not in fits],
    )


def _data(recipe: Recipe) -> Source | Generated:
    task = recipe.only_task
    seed = recipe.train.seed if task.seed is None else task.seed
    if task.name in GENERATED:
        levels = task.config.get("levels") or list(TASKS[task.name])
        return Generated(task.name, recipe.eval.problems, tuple(levels), seed)
    source = source_of(task)
    split = f"{task.held_out_split or 'held out'}, {recipe.eval.problems} of seed {seed}"
    return Source(
        source.dataset, source.question, source.answer or "", source.subset, split, answer_pattern=source.answer_pattern
    )


def _one(
    recipe: Recipe,
    run_dir: Path,
    checkpoint: tuple[int, Path | None],
    request: Request,
    questions: Sequence[Questions],
    folder: Path,
    console: Console,
) -> int:
    step, path = checkpoint
    with _servable(recipe, path) as place:
        settings = recipe.model.model_copy(update={"path": place, "lora": None, "adapter": None})
        if request.dtype:
            settings = settings.model_copy(update={"dtype": request.dtype})
        name = f"{run_dir.resolve().name}/step-{step:06d}"
        model = OwnModel(name, settings, load_tokenizer(settings), recipe.rollout.masked)
        return ask(request, model, questions, folder, console)


@contextmanager
def _servable(recipe: Recipe, checkpoint: Path | None) -> Iterator[str]:
    """The folder or hub id of whole weights: an adapter's are added to those of its model, and thrown away after."""
    model = model_settings(recipe)
    if checkpoint is None or not (checkpoint / "adapter_config.json").is_file():
        yield str(checkpoint or model.path)
        return
    from peft import PeftModel

    from grpo.policy.load import load_model

    with TemporaryDirectory(prefix="zero-merged-") as folder:
        merged: Any = PeftModel.from_pretrained(load_model(model), str(checkpoint))
        merged.merge_and_unload().save_pretrained(folder)
        load_tokenizer(model).save_pretrained(folder)
        del merged
        yield folder


def _whole(place: Path) -> bool:
    """Whether nothing is left to ask for there."""
    found = json.loads((place / RESULTS).read_text(encoding="utf-8"))
    return not any(set(entry["failed"]) - {"too_long"} for entry in found.values())


def _draw(found: Sequence[tuple[int, Any]], folder: Path, title: str, console: Console) -> None:
    points = {
        name: [
            {"step": step, "accuracy": results[name]["accuracy"], "n": results[name]["n_graded"]}
            for step, results in found
            if results.get(name, {}).get("accuracy")
        ]
        for name in found[0][1]
    }
    write_atomic(folder / POINTS, json.dumps(points, indent=2) + "\n")
    write_curve(folder / CURVE, points, title)
    say = printer(console)
    say(curve_in_words(points))
    say(f"every checkpoint: {folder / POINTS}   drawn: {folder / CURVE}")
