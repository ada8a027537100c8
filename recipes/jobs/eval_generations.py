"""Grading the generations of somebody else's program: what `zero eval --generations` does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.ask.run import write_results
from eval.grade import NEEDED, GenerationsError, grade_generations, graded_by
from eval.stats.stats import summary
from eval.store import Store
from eval.types import Generation
from recipes.jobs.eval_model import EvalError
from recipes.jobs.eval_shown import printer, show
from recipes.jobs.evaluate import default_folder, open_folder


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
