"""One evaluation, from a model and benchmarks to results: what `zero eval` does. Here the packages meet.

In the output folder: evaluation.json says what was asked, and is written first; then every generation as it comes
(eval/store.py); at the end results.json and report.html.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.ask.progress import open_progress
from eval.ask.run import Work, count_tokens, prepare, results, run_benchmarks, write_results
from eval.problems.benchmarks import BENCHMARKS, benchmark, load_problems
from eval.problems.protocol import Benchmark, Generated, Puzzles
from eval.problems.shots import Shot, load_shots
from eval.store import Store
from eval.types import Problem
from grpo.record.atomic import write_atomic, writing
from grpo.rollout.engine import RolloutError
from recipes.errors import run_async
from recipes.jobs.eval_model import (
    AttachedModel,
    EvalError,
    OwnModel,
    attached_model,
    connect,
    own_model,
    refuse_uncounted,
)
from recipes.jobs.eval_shown import printer, say_cut_short, say_dropped, say_passed_over, show
from recipes.schema.load import differences

ASKED = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for. None, and () of `base_urls`, leave it to the benchmark or to us."""

    model: str | None
    benchmarks: Sequence[str]
    base_urls: Sequence[str] = ()
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    template: str | None = None
    instruction: str | None = None
    limit: int | None = None
    data_dir: Path | None = None
    seed: int | None = None  # of the generated problems
    dtype: str | None = None
    concurrency: int | None = None
    timeout: float | None = None
    output: Path | None = None
    resume: bool = False
    system: str | None = None
    read: Sequence[str] = ()
    shots: int | None = None


@dataclass(frozen=True, slots=True)
class Questions:
    """A benchmark with its problems, `dropped` as (problem's id, reason), and the solved ones that come first."""

    benchmark: Benchmark
    problems: Sequence[Problem]
    dropped: Sequence[tuple[str, str]] = ()
    shots: Sequence[Shot] = ()


# -- The evaluation -----------------------------------------------------------------------------------------------


def evaluate(request: Request, console: Console) -> int:
    """Run the benchmarks and write the results. Returns the exit code: 0; 1 where a part is missing.

    Raises EvalError, DataError, ProtocolError or PromptError on what was asked; RolloutError if no server comes up;
    OSError that names the file.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported, if it is
    benchmarks = [overridden(benchmark(name), request) for name in request.benchmarks]
    _refuse_conflicts(request, benchmarks)
    questions = [read_questions(one, request) for one in benchmarks]
    if request.base_urls:
        model: OwnModel | AttachedModel = attached_model(request.model, request.base_urls)
    else:
        model = own_model(str(request.model), request.dtype)
    return ask(request, model, questions, request.output or default_folder(model.name), console)


def read_questions(benchmark: Benchmark, request: Request) -> Questions:
    found = load_problems(benchmark, request.data_dir, request.limit)
    return Questions(benchmark, found.problems, found.dropped, load_shots(benchmark, request.data_dir))


def ask(
    request: Request,
    model: OwnModel | AttachedModel,
    questions: Sequence[Questions],
    folder: Path,
    console: Console,
) -> int:
    """Ask the model, and write the results into `folder`. Returns and raises as `evaluate`."""
    works = [prepare(one.benchmark, one.problems, model.tokenizer, one.shots) for one in questions]
    if isinstance(model, AttachedModel):
        refuse_uncounted(model, works)
    open_folder(folder, _asked(model, works, questions), request.resume)
    say = printer(console)
    for one in questions:
        say_dropped(one.benchmark.name, one.dropped, say)
    with Store(folder) as store:
        say_passed_over(store, say)
        return _run(request, model, works, store, folder, console)


def _run(
    request: Request,
    model: OwnModel | AttachedModel,
    works: Sequence[Work],
    store: Store,
    folder: Path,
    console: Console,
) -> int:
    lost: RolloutError | None = None
    try:
        if not all(store.came(key) for work in works for key in work.completions()):
            run_async(_sample(request, model, works, store, folder, console))
    except RolloutError as error:
        lost = error
    except KeyboardInterrupt:
        printer(console)(f"stopping; {_go_on(folder)}")
        raise
    generations = store.read()
    if lost is not None and not generations:
        raise lost
    found = results(works, generations, model.name)
    write_results(folder, found)
    if lost is None:
        store.finish()
    code = show(found, generations, folder, printer(console), lost)
    if any(set(entry["failed"]) - {"too_long"} for entry in found.values()):
        printer(console)(_go_on(folder))
    return code


async def _sample(
    request: Request,
    model: OwnModel | AttachedModel,
    works: Sequence[Work],
    store: Store,
    folder: Path,
    console: Console,
) -> None:
    say = printer(console)
    async with connect(model, works, folder, request.concurrency, request.timeout, say) as connection:
        client, in_flight, context = connection
        if context is not None:
            works = [await count_tokens(work, client, in_flight) for work in works]
        for work in works:
            say_cut_short(work, context, say)
        progress = open_progress(console)
        try:
            await run_benchmarks(works, client, store, in_flight, context, progress)
        finally:
            progress.close()


def overridden(chosen: Benchmark, request: Request) -> Benchmark:
    """The benchmark with what the command line says otherwise, which its protocol's hash then says, too."""
    data = chosen.protocol.data
    if request.seed is not None and isinstance(data, Generated | Puzzles):
        chosen = chosen.override(data=replace(data, seed=request.seed))
    return chosen.override(
        samples=request.samples,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        template=request.template,
        instruction=request.instruction,
        system=request.system,
        read=tuple(request.read) or None,
        shots=request.shots,
    )


def _refuse_conflicts(request: Request, benchmarks: Sequence[Benchmark]) -> None:
    names = [one.name for one in benchmarks]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise EvalError(f"--benchmark {repeated[0]}: given twice; give each once, or another name in its file")
    if request.resume and request.output is None:
        raise EvalError("--resume: no --output is given; expected the folder of the evaluation to go on with")
    if not benchmarks:
        raise EvalError(f"--benchmark is missing: give {', '.join(BENCHMARKS)}, or a .yaml file; repeat it for several")
    if request.model is None and not request.base_urls:
        raise EvalError("--model is missing: give a model's folder, its hub id, or tiny; or a server's --base-url")
    if request.dtype and request.base_urls:
        raise EvalError("--dtype: the servers of --base-url run already; leave it out")


def default_folder(name: str) -> Path:
    slug = re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2]) or "model"
    return Path("runs") / f"eval-{slug}-{datetime.now():%Y%m%d-%H%M%S}"


def _go_on(folder: Path) -> str:
    return f"what came is stored; the same command with --output {folder} --resume asks for the rest"


# -- What was asked, on disk --------------------------------------------------------------------------------------


def _asked(model: OwnModel | AttachedModel, works: Sequence[Work], questions: Sequence[Questions]) -> dict[str, Any]:
    """Everything that a resumed evaluation must agree on with its start."""
    shots = {one.benchmark.name: [list(shot) for shot in one.shots] for one in questions if one.shots}
    return {
        "model": model.name,
        "dtype": model.settings.dtype if isinstance(model, OwnModel) else None,
        "prompts": "token ids" if model.tokenizer is not None else "the server's template",
        "benchmarks": {work.name: _work_asked(work) for work in works},
        **(
            {"shots": shots}
            if (shots := {one.benchmark.name: list(map(list, one.shots)) for one in questions if one.shots})
            else {}
        ),
    }


def _work_asked(work: Work) -> dict[str, Any]:
    protocol = work.benchmark.protocol
    pairs = zip(work.problems, work.prompts, strict=True)
    asked = [[problem.id, problem.question, problem.answer, prompt.token_ids] for problem, prompt in pairs]
    return {
        "problems": len(asked),
        "protocol": protocol.canonical(),
        "protocol_hash": protocol.hash(),
        "content_sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
    }


def open_folder(folder: Path, asked: dict[str, Any], resume: bool) -> None:
    """Write what was asked, or check that the folder holds the same evaluation. Raises EvalError."""
    if folder.exists() and not folder.is_dir():
        raise EvalError(f"--output {folder} is a file; name a folder")
    path = folder / ASKED
    if resume and path.is_file():
        try:
            begun_with = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EvalError(f"--resume: {path} is damaged ({error}); restore it, or name another --output") from error
        return _check_same(begun_with, asked, folder)
    # What a killed process had not renamed yet begins with a dot.
    there = sorted(file.name for file in folder.glob("[!.]*")) if folder.is_dir() else []
    if there and not resume:
        raise EvalError(f"--output {folder} is not empty; add --resume to go on with that evaluation, or name another")
    if there:
        raise EvalError(f"--resume: {folder} has no {ASKED}; expected the folder of an evaluation, or an empty one")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asked, indent=2) + "\n")


def _check_same(there: Any, here: dict[str, Any], folder: Path) -> None:
    if found := differences(there, here):
        plain = [name for name in found if not name.endswith(("protocol_hash", "content_sha256"))] or list(found)
        shown = "; ".join(f"{name} is {found[name][0]!r} there, {found[name][1]!r} here" for name in plain[:5])
        raise EvalError(f"--resume: {folder} is another evaluation: {shown}. Give what it was started with")
