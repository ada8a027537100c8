"""A benchmark of one's own: a small YAML file that names a data set's columns.

    dataset: problems.jsonl     # hub id, .jsonl or .parquet file, or a folder of them
    columns: {question: prompt, answer: gold, subject: topic}

or puzzles that reasoning-gym makes (eval/problems/puzzles.py), of which the held-out ones are asked:

    puzzles: {dataset: chain_sum, max_terms: 3}
    problems: 200

Local data is looked for beside the file, then from here. Everything else has a default: see BenchmarkFile
and PuzzleFile.

    zero eval --model X --benchmark my_bench.yaml
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from eval.problems.data import DataError, checked_pattern
from eval.problems.protocol import ANSWER, BOXED_STEPS, PLAIN, Benchmark, Protocol, ProtocolError, Puzzles, Source
from eval.problems.puzzles import entries
from rewards.nearest import did_you_mean
from rewards.verifier.extract import STRICT, Place


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """The columns of a problem. `subject` and `level` are what results are broken down by."""

    question: str
    answer: str
    subject: str | None = None
    level: str | None = None
    tolerance: str | None = None  # by how much a number may differ, where a row says so


class _File(_Part):
    """The names and the defaults are those of eval/problems/protocol.py."""

    name: str | None = Field(None, pattern=r"^[\w.-]+$")  # None: the file's
    instruction: str = BOXED_STEPS
    template: str = "chat"
    plain: str = PLAIN
    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 4096
    samples: int = 1
    read: tuple[Place, ...] = STRICT
    source: str = ""
    licence: str = ""


class BenchmarkFile(_File):
    """What the file of a data set may say."""

    dataset: str
    columns: Columns
    subset: str | None = None
    split: str = "test"
    answer_pattern: Annotated[str | None, AfterValidator(lambda pattern: checked_pattern(pattern))] = None
    verifier: Literal["math", "countdown", "multiple_choice", "number", "code", "reasoning_gym"] = "math"
    rel_tol: float = 0.0
    abs_tol: float = 0.0
    evaluated: bool = False


class PuzzleFile(_File):
    """What the file of puzzles may say."""

    puzzles: dict[str, Any]
    problems: int = Field(300, ge=1)
    seed: int = 0
    instruction: str = ANSWER
    verifier: Literal["reasoning_gym"] = "reasoning_gym"

    @field_validator("puzzles")
    @classmethod
    def _known(cls, config: dict[str, Any]) -> dict[str, Any]:
        entries(config)
        return config


ASKED = ("instruction", "template", "plain", "system", "temperature", "top_p", "max_tokens", "samples", "read")
GRADED = ("verifier", "rel_tol", "abs_tol", "evaluated")


def read_benchmark(path: Path) -> Benchmark:
    """The benchmark that the file describes.

    Raises:
        DataError: no such file, no YAML, or anything in it that is not allowed; one line a problem.
    """
    data = _parse(path)
    kind = PuzzleFile if isinstance(data, dict) and "puzzles" in data else BenchmarkFile
    try:
        given = kind.model_validate(data)
        asked = {key: getattr(given, key) for key in (*ASKED, *GRADED) if key in kind.model_fields}
        protocol = Protocol(_data(given), **asked)
    except ValidationError as error:
        raise DataError("\n".join(f"{path}: {line}" for line in _explain(error, kind))) from error
    except ProtocolError as error:
        raise DataError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from error
    benchmark = Benchmark(given.name or path.stem, protocol, source=given.source, licence=given.licence)
    if isinstance(given, PuzzleFile):
        return replace(benchmark, problems=given.problems, subject="subject", level="level")
    return replace(
        benchmark,
        subject=given.columns.subject,
        level=given.columns.level,
        local=_local(given.dataset, path),
    )


def _parse(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a text file in YAML: {reason}") from error


def _data(given: BenchmarkFile | PuzzleFile) -> Source | Puzzles:
    if isinstance(given, PuzzleFile):
        return Puzzles(given.puzzles, given.problems, given.seed)
    columns = given.columns
    return Source(
        given.dataset,
        columns.question,
        columns.answer,
        subset=given.subset,
        split=given.split,
        tolerance=columns.tolerance,
        answer_pattern=given.answer_pattern,
    )


def _local(dataset: str, path: Path) -> Path | None:
    """The user's own file or folder; None where there is none of that name, and it is a hub id."""
    name = Path(dataset).expanduser()
    return next((place.resolve() for place in (path.parent / name, name) if place.exists()), None)


def _explain(error: ValidationError, kind: type[_File]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            allowed = (Columns if problem["loc"][0] == "columns" else kind).model_fields
            hint = did_you_mean(str(problem["loc"][-1]), allowed)
            yield f"{key}: unknown key{hint}; allowed here: {', '.join(allowed)}"
        elif problem["type"] == "missing":
            yield f"{key}: required, but absent"
        elif not key:
            yield f"expected a mapping with dataset and columns, got {problem['input']!r}"
        else:
            hint = did_you_mean(str(problem["input"]), str(problem.get("ctx", {}).get("expected", "")).split("'"))
            yield f"{key}: got {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}{hint}"
