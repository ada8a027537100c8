"""Measure a reward: which completions of the corpus, in which order, for how long, and the user's rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rewards.check.corpus import QUESTIONS, Item, Question, cheating, empty, hostile, plain, unshaped, unsound, variants
from rewards.check.exploits import Grading, grading
from rewards.check.findings import Finding, Trial
from rewards.check.probe import Probe
from rewards.types import RewardError

SECONDS = 20.0  # for each part: the plain completions, the others, the user's file
UNSOUND_TYPES = 4  # types of gold answers, and forms, that unsound completions are made of
UNSOUND_FORMS = 3


@dataclass(slots=True)
class Measured:
    """The trials of each part of the check."""

    plain: list[Trial] = field(default_factory=list)
    others: list[Trial] = field(default_factory=list)
    own: list[Trial] = field(default_factory=list)
    changes: list[Finding] = field(default_factory=list)
    executed: bool = False  # code that a completion contained
    refused: dict[str, str] = field(default_factory=dict)  # type of gold answer -> how the function raises on it
    graded: Grading = field(default_factory=lambda: Grading({}))
    notes: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Trial]:
        return [*self.plain, *self.others, *self.own]


def measure(probe: Probe, own: Sequence[Item], mark: Path) -> Measured:
    """`mark`: a file that appears if code of a completion is executed."""
    measured = Measured()
    try:
        measured.plain = _alone(probe, plain(), "plain completions", measured)
    except RewardError as error:
        if not own:
            hint = "give rows that have it with --data FILE.jsonl, or an argument of the function with --arg KEY=VALUE"
            raise RewardError(f"{error} (the built-in corpus): {hint}") from error
        measured.notes.append(f"the built-in corpus was left out: {error}")
    measured.refused = _refused(measured.plain)
    measured.graded = grading([trial for trial in measured.plain if trial.item.type not in measured.refused])
    if len(measured.plain) == len(plain()):
        others = _of_a_grader if measured.graded.right else _of_another
        measured.others = _alone(
            probe, list(others(measured, f"open({str(mark)!r}, 'w')")), "other completions", measured
        )
    measured.own = _alone(probe, own, "completions of the file", measured)
    measured.changes = probe.together([*measured.plain, *measured.others]) or probe.together(measured.own)
    measured.executed = mark.exists()
    return measured


def _alone(probe: Probe, items: Sequence[Item], what: str, measured: Measured) -> list[Trial]:
    trials = probe.alone(items, SECONDS)
    if len(trials) < len(items) and trials:
        why = "after calls without an answer" if probe.stopped else f"for they took more than {SECONDS:g} seconds"
        measured.notes.append(f"{len(trials)} of {len(items)} {what} were tried, {why}")
    return trials


def _of_a_grader(measured: Measured, code: str) -> Iterator[Item]:
    """Variants in the first form that it reads, and unsound answers in several."""
    cells = measured.graded.right
    types, forms = measured.graded.types, measured.graded.forms
    if "boxed" in forms and "tag" not in forms:
        forms = [form for form in forms if form != "boxed in tag"]  # it reads boxes: text may follow a tag
    for problem in QUESTIONS:
        if problem.type in types:
            yield from variants(problem, measured.graded.first_form(problem.type))
    for problem in _first_of(types[:UNSOUND_TYPES]):
        for form in forms[:UNSOUND_FORMS]:
            if (problem.type, form) in cells:
                yield from unsound(problem, form)
    if "program" in types:
        yield from cheating(measured.graded.first_form("program"))
    (problem,) = _first_of(types[:1])
    yield from empty(problem, measured.graded.first_form(problem.type))
    yield from hostile(problem, measured.graded.first_form(problem.type), code)


def _of_another(measured: Measured, code: str) -> Iterator[Item]:
    """For a reward that does not grade: the tag form whole, broken and less its tags."""
    types = dict.fromkeys(problem.type for problem in QUESTIONS if problem.type not in measured.refused)
    problems = _first_of(list(types)[:UNSOUND_TYPES])
    for problem in problems:
        yield from unsound(problem, "tag")
        yield from unshaped(problem)
    yield from empty(problems[0], "tag")
    yield from hostile(problems[0], "tag", code)


def _first_of(types: Sequence[str]) -> list[Question]:
    return [next(problem for problem in QUESTIONS if problem.type == type) for type in types]


def _refused(trials: Iterable[Trial]) -> dict[str, str]:
    """Types of gold answer that the function raises on, unless it raises on every type: then it is the function."""
    raised: dict[str, str] = {}
    types = set()
    for trial in trials:
        types.add(trial.item.type)
        if trial.problem == "raises":
            raised.setdefault(trial.item.type, trial.message)
    return raised if len(raised) < len(types) else {}
