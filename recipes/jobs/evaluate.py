"""One evaluation, from a model and benchmarks to results: what `zero eval` does. Here the packages meet.

In the output folder: evaluation.json says what was asked, and is written first; then every generation as it comes
(eval/store.py); at the end results.json and report.html.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.ask.progress import open_progress
from eval.ask.run import RESULTS, Work, count_tokens, prepare, results, run_benchmarks, write_results
from eval.grade import NEEDED, GenerationsError, grade_generations, graded_by
from eval.page.table import results_table, shortened_in_words
from eval.problems.benchmarks import BENCHMARKS, benchmark, load_problems
from eval.problems.protocol import Benchmark, Generated, Puzzles
from eval.stats.stats import summary
from eval.store import Store
from eval.types import Generation
from grpo.record.atomic import write_atomic, writing
from grpo.rollout.engine import RolloutError
from recipes.errors import run_async
from recipes.jobs.eval_model import AttachedModel, EvalError, OwnModel, attached_model, connect, own_model
from recipes.schema.load import differences

ASKED = "evaluation.json"
SHOWN = 3  # reasons that a message quotes
Say = Callable[[str], None]


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


# -- The evaluation -----------------------------------------------------------------------------------------------


def evaluate(request: Request, console: Console) -> int:
    """Run the benchmarks and write the results. Returns the exit code: 0; 1 where a part is missing.

    Raises EvalError, DataError, ProtocolError or PromptError on what was asked; RolloutError if no server comes up;
    OSError that names the file.
    """
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when it is imported, if it is
    benchmarks = [_overridden(name, request) for name in request.benchmarks]
    _refuse_conflicts(request, benchmarks)
    loaded = [load_problems(one, request.data_dir, request.limit) for one in benchmarks]
    if request.base_urls:
        model: OwnModel | AttachedModel = attached_model(request.model, request.base_urls)
    else:
        model = own_model(str(request.model), request.dtype)
    works = [prepare(one, found.problems, model.tokenizer) for one, found in zip(benchmarks, loaded, strict=True)]
    folder = request.output or default_folder(model.name)
    open_folder(folder, _asked(model, works), request.resume)
    say = printer(console)
    for one, found in zip(benchmarks, loaded, strict=True):
        _say_dropped(one.name, found.dropped, say)
    with Store(folder) as store:
        _say_passed_over(store, say)
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
            _say_cut_short(work, context, say)
        progress = open_progress(console)
        try:
            await run_benchmarks(works, client, store, in_flight, context, progress)
        finally:
            progress.close()


def printer(console: Console) -> Say:
    """Prints text as it is: no markup, no wrapping."""
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _overridden(name: str, request: Request) -> Benchmark:
    """The benchmark with what the command line says otherwise, which its protocol's hash then says, too."""
    chosen = benchmark(name)
    data = chosen.protocol.data
    if request.seed is not None and isinstance(data, Generated | Puzzles):
        chosen = chosen.override(data=replace(data, seed=request.seed))
    return chosen.override(
        samples=request.samples,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        template=request.template,
        instruction=request.instruction,
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


def _say_dropped(name: str, dropped: Sequence[tuple[str, str]], say: Say) -> None:
    if dropped:
        shown = "; ".join(f"{problem}: {reason}" for problem, reason in dropped[:SHOWN])
        say(f"{name}: {len(dropped)} problems left out, whose gold answer does not pass the verifier. {shown}")


def _say_passed_over(store: Store, say: Say) -> None:
    if wrong := store.passed_over:
        shown = "\n".join(f"  {line}" for line in wrong[:SHOWN])
        say(f"{len(wrong)} parts of what was stored cannot be read; what they held is asked for again\n{shown}")


def _say_cut_short(work: Work, context: int | None, say: Say) -> None:
    if n := work.cut_short(context):
        say(
            f"{work.name}: {n} of {len(work.prompts)} prompts leave less than max_tokens "
            f"({work.benchmark.protocol.max_tokens}) of the {context} tokens that the model takes, so less is asked for"
        )


# -- What came of it ----------------------------------------------------------------------------------------------


def show(
    found: Mapping[str, Any],
    generations: Sequence[Generation],
    folder: Path,
    say: Say,
    lost: RolloutError | None = None,
) -> int:
    """Print the table, what is missing and why, and where everything is; write the report. Returns the exit code."""
    from eval.page.report import write_report

    say(results_table(found))
    for name, entry in found.items():
        _say_failed(name, entry, [one for one in generations if one.benchmark == name], say)
        if shortened := shortened_in_words(entry):
            say(f"{name}: {shortened}")
    empty = [name for name, entry in found.items() if not entry["n_generations"]]
    if lost is not None:
        say(f"failed: the servers were lost before everything was asked for: {lost}")
    elif empty:
        say(f"failed: no completion came of {', '.join(empty)}")
    say(f"results: {folder / RESULTS}   report: {write_report(folder)}")
    return 1 if lost is not None or empty else 0


def _say_failed(name: str, entry: Mapping[str, Any], generations: Sequence[Generation], say: Say) -> None:
    failed, n = entry["failed"], sum(entry["failed"].values())
    if not n:
        return
    causes = ", ".join(f"{count} {cause}" for cause, count in failed.items())
    say(f"{name}: {n} of {n + entry['n_generations']} completions failed ({causes}); they are in no rate")
    for reason in list(dict.fromkeys(one.reason for one in generations if one.failure))[:SHOWN]:
        say(f"  {reason}")


def _go_on(folder: Path) -> str:
    return f"what came is stored; the same command with --output {folder} --resume asks for the rest"


# -- What was asked, on disk --------------------------------------------------------------------------------------


def _asked(model: OwnModel | AttachedModel, works: Sequence[Work]) -> dict[str, Any]:
    """Everything that a resumed evaluation must agree on with its start."""
    return {
        "model": model.name,
        "dtype": model.settings.dtype if isinstance(model, OwnModel) else None,
        "prompts": "token ids" if model.tokenizer is not None else "the server's template",
        "benchmarks": {work.name: _work_asked(work) for work in works},
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


# -- Someone else's generations -----------------------------------------------------------------------------------


def grade(file: Path, samples: int | None, output: Path | None, console: Console) -> int:
    """Grade the generations in a .jsonl file and write what an evaluation writes. Returns the exit code.

    Raises EvalError if the file cannot be read, GenerationsError that names the row, OSError that names the file.
    """
    try:
        generations = grade_generations(_rows(file))
    except GenerationsError as error:
        raise EvalError(f"{file}: {error}") from error
    folder = output or default_folder(file.stem)
    open_folder(folder, {"generations": str(file.resolve())}, resume=False)
    with Store(folder) as store:
        for generation in generations:
            store.append(generation)
        store.finish()
    found = {
        name: _numbers([one for one in generations if one.benchmark == name], samples)
        for name in dict.fromkeys(one.benchmark for one in generations)
    }
    write_results(folder, found)
    return show(found, generations, folder, printer(console))


def _numbers(generations: Sequence[Generation], samples: int | None) -> dict[str, Any]:
    """How they were sampled is not ours to know: no model, and of the protocol only how they were graded."""
    most = max(Counter(one.problem_id for one in generations).values())
    rules = graded_by(generations[0].benchmark)
    return summary(generations, samples or most) | {"model": None, "protocol": rules, "protocol_hash": None}


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"--generations {file} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise EvalError(f"{file}:{number}: not JSON ({error}); expected one object a line") from error
        if row is not None and not isinstance(row, dict):
            raise EvalError(f"{file}:{number}: expected an object with {', '.join(NEEDED)}, got {line[:80]}")
        rows += [row] if row is not None else []
    if not rows:
        raise EvalError(f"{file} is empty; expected one JSON object a line, with {', '.join(NEEDED)}")
    return rows
