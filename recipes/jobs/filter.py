"""Pass rates of a task's training problems, ahead of time: what `zero filter` does.

A problem that the model always solves, or never does, gives a group without contrast, and teaches nothing (Kimi k1.5,
arXiv 2501.12599, section 2.1, takes the pass rate of ten samples as the measure of difficulty; DAPO, arXiv 2503.14476,
drops such groups as they come). Each training problem of the recipe is answered `samples` times by the recipe's model,
as in training, and graded by the task's own verifier:

    pass_rate     correct / graded completions; what failed is in neither
    low, high     its 95% interval, Wilson's
    kept          whether the pass rate is within the bounds that were asked for

FILE.jsonl has one line a problem: the columns of its row, `id`, `question`, `answer` (the gold alone), `n` (graded
completions) and the above. A line is on the disk as soon as its problem is graded. FILE.filter.json says what was
asked, and is written first. The file is a dataset: recipes/tasks.py leaves out rows that are not kept.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict
from rich.console import Console

from eval.ask.progress import Progress, open_progress
from eval.ask.run import to_the_end
from eval.stats.intervals import wilson
from eval.types import Generation
from grpo.policy.load import load_tokenizer
from grpo.record.atomic import append_line, readable, write_atomic
from grpo.rollout.engine import RolloutEngine
from grpo.rollout.fleet.lease import Tenant, leased
from grpo.types import Group, Prompt
from recipes.episodes import loaded
from recipes.errors import InputError, run_async
from recipes.jobs.draw import graded_group, groups
from recipes.jobs.run_dir import locked
from recipes.jobs.task_prompts import task_in_words, task_prompts
from recipes.jobs.train import check_servers, rollout_engine
from recipes.schema.cluster import ClusterSettings
from recipes.schema.load import differences, model_settings
from recipes.schema.recipe import Recipe
from recipes.tasks import OWN_VERIFIERS, Task, TaskRow

HOW_ASKED = {"verifier", "read", "template", "system", "instruction", "prefill"}  # of a task, whatever its data

Line = dict[str, Any]


class _Verdict(BaseModel):
    """What a line says beside its row's columns."""

    model_config = ConfigDict(strict=True)

    id: str
    pass_rate: float | None
    low: float
    high: float
    n: int
    kept: bool


class FilterError(InputError):
    """Problems cannot be filtered as asked. One message: what is wrong, what was expected, what to do."""


@dataclass(frozen=True, slots=True)
class FilterRequest:
    """What the command line asks for, beside the recipe."""

    output: Path
    samples: int = 8
    low: float = 0.1
    high: float = 0.9
    held_out: Path | None = None  # where the held-out problems are written
    limit: int | None = None  # problems
    resume: bool = False


def filter_task(recipe: Recipe, request: FilterRequest, console: Console) -> int:
    """Write the pass rates. Returns the exit code: 0; 1 where a problem could not be graded.

    Raises InputError, or what loading the task and the model raises, on bad input; RolloutError if sampling cannot go
    on; OSError that names the file.
    """
    _refuse(request)
    if recipe.tasks:
        raise FilterError(
            f"tasks: pass rates are of one task; give a recipe with one of {', '.join(recipe.tasks)} as its task"
        )
    if recipe.cluster.address:
        _say(console, "cluster.address: a filter samples on this machine; on others by rollout.server.urls")
    recipe = _for_sampling(recipe)
    check_servers(recipe, model_settings(recipe), sends_weights=False)
    lock = request.output.with_name(f".{request.output.name}.lock")
    with locked(lock, f"--output {request.output}"), ExitStack() as stack:
        return _filter(recipe, request, console, stack)


def _filter(recipe: Recipe, request: FilterRequest, console: Console, stack: ExitStack) -> int:
    tokenizer = load_tokenizer(model_settings(recipe))
    episodes = stack.enter_context(loaded(recipe))
    task = episodes.task
    prompts, held_out, dropped = task_prompts(recipe, task, tokenizer, episodes)
    _say(console, task_in_words(task, len(prompts), len(held_out), dropped))
    prompts = prompts[: request.limit]
    done = _open(request, _asked(recipe, request), console)
    if request.held_out:
        rows = [_columns(row) for row in task.held_out]
        write_atomic(request.held_out, "".join(_json(row) + "\n" for row in rows))
    todo = [prompt for prompt in prompts if prompt.id not in done]
    if todo:
        tenant, folder = Tenant.once(f"zero filter, {request.output}"), request.output.parent
        engine = rollout_engine(recipe, model_settings(recipe), tokenizer, folder, _device(recipe), tenant)
        engine = episodes.playing(engine, recipe, tokenizer)
        if recipe.rollout.engine == "vllm":
            _say(console, f"starting vLLM; log: {folder / 'logs' / 'server.log'}")
        progress = open_progress(console)
        try:
            stored = len(prompts) - len(todo)
            progress.start(task.name, stored * request.samples, len(prompts) * request.samples)
            with leased(recipe.rollout.server.urls, tenant, optional=True):  # a plain vLLM has no lease to give
                run_async(_grade_all(engine, todo, task, recipe, request, progress))
        except KeyboardInterrupt:
            _say(console, "stopping; go on with the same arguments and --resume")
            raise
        finally:
            progress.close()
    return _finish(request, recipe, prompts, console)


def _refuse(request: FilterRequest) -> None:
    if not 0 <= request.low <= request.high <= 1:
        raise FilterError(f"--low {request.low} --high {request.high}: expected 0 <= low <= high <= 1")
    if request.output.suffix != ".jsonl":
        raise FilterError(f"--output {request.output}: expected a name that ends in .jsonl, as a dataset's must")
    if request.output == request.held_out:
        raise FilterError(f"--held-out {request.held_out} is the --output itself; name another file")


def _for_sampling(recipe: Recipe) -> Recipe:
    """Nothing trains: no adapter, and the engine has the machine for itself."""
    model = recipe.model.model_copy(update={"lora": None, "adapter": None})
    rollout = recipe.rollout.model_copy(update={"max_staleness": 0})
    return recipe.model_copy(update={"model": model, "rollout": rollout, "cluster": ClusterSettings()})


def _device(recipe: Recipe) -> torch.device:
    """Of the in-process engine; a server may have every GPU."""
    return torch.device("cuda" if recipe.rollout.engine != "vllm" and torch.cuda.is_available() else "cpu")


# -- Sampling and grading -----------------------------------------------------------------------------------------


async def _grade_all(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    task: Task,
    recipe: Recipe,
    request: FilterRequest,
    progress: Progress,
) -> None:
    rows = {row.id: row for row in task.train}

    async def keep(group: Group) -> None:
        generations = await asyncio.to_thread(graded_group, task, group)
        for generation in generations:
            progress.step(generation)
        append_line(request.output, _json(_line(rows[group.prompt.id], generations, request)))

    try:
        await engine.start()
        seed = f"{recipe.train.seed}/filter"
        async for group in groups(engine, prompts, recipe.rollout, request.samples, seed):
            await to_the_end(keep(group))
    finally:
        await engine.close()


def _line(row: TaskRow, generations: Sequence[Generation], request: FilterRequest) -> Line:
    values = [generation.value for generation in generations if generation.value is not None]
    n, passed = len(values), sum(value == 1.0 for value in values)
    rate = passed / n if n else None
    low, high = wilson(passed, n)
    kept = rate is not None and request.low <= rate <= request.high
    return {**_columns(row), "pass_rate": rate, "low": low, "high": high, "n": n, "kept": kept}


def _columns(row: TaskRow) -> Line:
    return {**row.columns, "id": row.id, "question": row.question, "answer": row.answer}


def _json(line: Line) -> str:
    return json.dumps(readable(line), ensure_ascii=False, default=lambda value: readable(str(value)))


# -- The file -----------------------------------------------------------------------------------------------------


def _asked(recipe: Recipe, request: FilterRequest) -> dict[str, Any]:
    """Everything that a resumed filter must agree on with its start."""
    rollout = recipe.rollout
    sampled = ("max_tokens", "max_prompt_tokens", "temperature", "top_p", "top_k")
    return {
        "model": recipe.model.model_dump(mode="json"),
        "task": recipe.only_task.model_dump(mode="json"),
        "rollout": {name: getattr(rollout, name) for name in sampled},
        "eval": {"problems": recipe.eval.problems},  # chooses the held-out problems, which are not trained on
        "train": {"seed": recipe.train.seed},
        "samples": request.samples,
        "low": request.low,
        "high": request.high,
    }


def _open(request: FilterRequest, asked: dict[str, Any], console: Console) -> dict[str, Line]:
    """The lines that are there, by id, of problems that could be graded; the others are asked again."""
    sidecar = request.output.with_suffix(".filter.json")
    if not request.resume:
        if request.output.exists():
            raise FilterError(f"--output {request.output} exists; add --resume to go on with it, or name another file")
        write_atomic(sidecar, json.dumps(asked, indent=2) + "\n")
        return {}
    if not sidecar.is_file():
        raise FilterError(f"--resume: there is no {sidecar}; expected the --output of a filter that was begun")
    try:
        begun_with = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FilterError(f"--resume: {sidecar} is damaged ({error}); restore it, or begin anew") from error
    _check_same(begun_with, asked, request.output)
    whole, n_damaged = _read(request.output)
    if n_damaged:
        _say(console, f"{request.output}: {n_damaged} lines cannot be read; their problems are asked again")
    lines = {line["id"]: line for line in whole if line["n"]}
    _write(request.output, lines.values())
    return lines


def _check_same(there: Any, here: Any, output: Path) -> None:
    if changed := differences(there, here):
        lines = "; ".join(f"{key} is {old!r} there, {new!r} here" for key, (old, new) in changed.items())
        raise FilterError(
            f"--resume: {output} is of another filter: {lines}. Give what it was begun with, or another --output"
        )


def _read(path: Path) -> tuple[list[Line], int]:
    """The lines that are whole, and how many are not: a process that was killed may have left the beginning of one."""
    if not path.is_file():
        return [], 0
    *lines, torn = path.read_bytes().split(b"\n")
    whole = [line for line in map(_parsed, lines) if line is not None]
    return whole, len(lines) - len(whole) + bool(torn)


def _parsed(line: bytes) -> Line | None:
    """None if it is not what `_line` makes."""
    try:
        value = json.loads(line)
        _Verdict.model_validate(value)
    except ValueError:
        return None
    return value


def _write(path: Path, lines: Any) -> None:
    write_atomic(path, "".join(_json(line) + "\n" for line in lines))


# -- What is said -------------------------------------------------------------------------------------------------


def _finish(request: FilterRequest, recipe: Recipe, prompts: Sequence[Prompt], console: Console) -> int:
    """Put the lines into the problems' order, and say what they amount to."""
    by_id = {line["id"]: line for line in _read(request.output)[0]}
    lines = [by_id.pop(prompt.id) for prompt in prompts if prompt.id in by_id]
    _write(request.output, [*lines, *by_id.values()])  # beyond --limit, of a filter that went further before
    counts = Counter(_verdict(line, request) for line in lines)
    _say(console, _summary(counts, len(prompts), request))
    if counts["kept"]:
        _say(console, f"train on what is kept with\n  task: {_as_task(recipe, request)}")
    else:
        _say(console, "no problem is kept: widen --low and --high, or take an easier or a harder task")
    return 1 if counts["failed"] else 0


def _verdict(line: Mapping[str, Any], request: FilterRequest) -> str:
    if line["pass_rate"] is None:
        return "failed"
    if line["kept"]:
        return "kept"
    return "too hard" if line["pass_rate"] < request.low else "too easy"


def _summary(counts: Counter[str], n: int, request: FilterRequest) -> str:
    meaning = {
        "kept": f"{request.low:g} to {request.high:g} of {request.samples} completions right",
        "too easy": f"more than {request.high:g}",
        "too hard": f"less than {request.low:g}",
        "failed": "no completion could be graded; --resume asks again",
    }
    rows = [f"{name:<9}{counts[name]:>7} {counts[name] / n:>6.1%}  {text}" for name, text in meaning.items()]
    return "\n".join([f"{request.output}: {n} problems", *rows])


def _as_task(recipe: Recipe, request: FilterRequest) -> str:
    """A recipe's `task` that trains on the file; how the model is asked and graded stays as it was."""
    output, held_out = request.output, request.held_out
    whole = held_out is not None and (output.name, held_out) == ("train.jsonl", output.with_name("test.jsonl"))
    settings: dict[str, Any] = {"dataset": str(output.parent if whole else output)}
    settings["columns"] = {"question": "question", "answer": "answer"}
    if recipe.only_task.name in OWN_VERIFIERS:
        settings["verifier"] = OWN_VERIFIERS[recipe.only_task.name]
    settings |= recipe.only_task.model_dump(mode="json", exclude_defaults=True, include=HOW_ASKED)
    return yaml.safe_dump(
        settings, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    ).strip()


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
