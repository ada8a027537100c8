"""Whether a program passes its tests (the accuracy reward of DeepSeek-R1 for code, arXiv 2501.12948, section 2.2.2).

Programs run in a sandbox (rewards/sandbox/), where no expected value is (rewards/code/judge.py). The completions of one
call run at once, as many as there are cores; so do calls in several threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rewards.code.extract import read_program
from rewards.code.formats import COLUMNS, Tests, TestsError, read_tests
from rewards.code.judge import Judgement, judge
from rewards.graded import Completion, Graded, text_of
from rewards.sandbox.host import together
from rewards.sandbox.languages import Language, language_named
from rewards.sandbox.run import AT_ONCE
from rewards.sandbox.tools import SandboxError, SandboxName, find
from rewards.sandbox.types import Limits, Program
from rewards.types import RewardError, Score
from rewards.verifier.verdict import MAX_REASON, score

MAX_KEPT = 2000  # characters of a program that its Score keeps


@Graded
def code(
    completions: Sequence[Completion],
    language: str | Mapping[str, str] = "python",
    partial: bool = False,
    tolerance: float = 0.0,
    tests_format: str | None = None,
    sandbox: SandboxName = "auto",
    limits: Mapping[str, float] | None = None,
    **columns: Any,
) -> list[Score]:
    """1.0 if the program passes all tests of its row, else 0.0; None if the tests or the sandbox failed.

    The program is the last fenced block after the thinking; its tests are in the row's columns
    (rewards/code/formats.py). `reason` begins with what happened: passed, failed, compile error, timeout, memory,
    output, forbidden. `sandbox: none` runs what the model wrote with your rights.

    Args:
        language: python, c++, c, javascript, bash, perl, or {name, file, run, compile}.
        partial: the share of tests that pass, in place of 0.
        tolerance: of numbers, relative or absolute.
        tests_format: which columns, where a row has tests in several formats.
        limits: of one run, such as {cpu_seconds: 5, memory_mib: 1024}.

    Raises RewardError on a setting that is none, and where no sandbox works.
    """
    grader = _Grader(*_settings(language, limits, sandbox), sandbox, partial, tolerance)
    tests: dict[tuple[int, ...], Tests | TestsError] = {}  # a group's completions have one row
    jobs = []
    for i, completion in enumerate(completions):
        row = {name: columns[name][i] for name in COLUMNS if name in columns}
        key = tuple(map(id, row.values()))
        if key not in tests:
            tests[key] = _read(row, tests_format)
        jobs.append((text_of(completion), tests[key]))
    with together(len(jobs)), ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(grader.score, jobs))


@dataclass(frozen=True, slots=True)
class _Grader:
    language: Language
    limits: Limits
    sandbox: SandboxName
    partial: bool
    tolerance: float

    def score(self, job: tuple[str, Tests | TestsError]) -> Score:
        text, tests = job
        reading = read_program(text)
        if reading.answer is None:
            return score(reading.failure or "no_answer", None, reading.reason)
        kept = reading.answer[:MAX_KEPT]
        if isinstance(tests, TestsError):
            return score("error", kept, str(tests)[:MAX_REASON])
        program = Program(reading.answer, self.language)
        try:
            judged = judge(program, tests, self.limits, self.sandbox, self.tolerance, all_tests=self.partial)
        except (OSError, ValueError) as failure:  # no process more can be started; tests that are not for this language
            return score("error", kept, f"{type(failure).__name__}: {failure}"[:MAX_REASON])
        return self._scored(judged, kept)

    def _scored(self, judged: Judgement, kept: str) -> Score:
        if judged.ending == "broken":
            return score("error", kept, judged.reason[:MAX_REASON])
        if judged.ending == "passed":
            return score("correct", kept, f"passed: {judged.total} of {judged.total} tests")
        reason = f"{judged.ending}: {judged.reason}; {judged.passed} of {judged.total} tests passed"
        if not self.partial:
            reason = f"{judged.ending}: {judged.reason}"
        value = judged.passed / judged.total if self.partial else 0.0
        return Score(value, kept, "wrong", reason[:MAX_REASON])


def _read(row: Mapping[str, Any], tests_format: str | None) -> Tests | TestsError:
    try:
        return read_tests(row, tests_format)
    except TestsError as error:
        return error


def _settings(language: Any, limits: Mapping[str, float] | None, sandbox: SandboxName) -> tuple[Language, Limits]:
    try:
        find(sandbox)
        # A data set's column of that name, one value a row, is no setting.
        return language_named("python" if isinstance(language, list | tuple) else language), Limits(**(limits or {}))  # type: ignore[arg-type]
    except (SandboxError, ValueError, TypeError) as error:
        raise RewardError(f"reward 'code': {error}") from error
