"""Try a reward function before a GPU is spent on it (`zero rewards check`).

corpus.py        completions: right, wrong, and written to be paid without being right
   │
probe.py         one at a time, then in batches, in a process that is killed at a deadline
   │
exploits.py      whether it grades answers, and what a policy would learn from it
   │
findings.py      what is wrong, by name

The check always ends, whatever the reward does.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rewards.check.corpus import (
    FORMS,
    QUESTIONS,
    Item,
    Question,
    empty,
    hostile,
    plain,
    token_ids,
    unshaped,
    unsound,
    variants,
)
from rewards.check.exploits import Grading, exploits, form_exploits, grading, mistakes
from rewards.check.findings import MEANING, Finding, Trial, finding
from rewards.check.probe import Probe
from rewards.registry import RewardSettings
from rewards.types import RewardError

TIMEOUT = 20.0  # seconds for one call; above what our own verifier takes to give up an answer
SECONDS = 20.0  # for each part: the plain completions, the others, the user's file
SLOW = 0.1  # seconds for a completion: a step of 64 would wait 6 s
UNSOUND_TYPES = 4  # types of gold answers, and forms, that unsound completions are made of
UNSOUND_FORMS = 3
NO_GRADER = "does not look at the answer: it cannot serve as the accuracy reward"
KINDS = 4  # of completions that a finding names
DEFAULT_ARGS: Mapping[str, Mapping[str, Any]] = {  # that built-in rewards need and a check can choose
    "soft_overlong": {"max_length": 512, "buffer": 128},
    "cosine_length": {"max_length": 512},
}


@dataclass(frozen=True, slots=True)
class KindSummary:
    """What a kind of completion gets. Example: KindSummary("wrong", n=83, low=0.0, mean=0.0, high=0.0)"""

    kind: str
    n: int
    low: float | None
    mean: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is known of a reward. It passed if `findings` is empty.

    Example: CheckReport("accuracy", findings=(), notes=(), completions=412, low=0.0, high=1.0, none_share=0.0,
    latency={"p50": 0.0002, "p95": 0.0004, "max": 3.1}, grades=("integer",), reads=("tag",), table=(KindSummary(...),))
    """

    spec: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    completions: int
    low: float | None  # of all values
    high: float | None
    none_share: float
    latency: Mapping[str, float] = field(default_factory=dict)  # seconds for one completion: p50, p95, max
    grades: tuple[str, ...] = ()  # types of gold answers for which it tells right from wrong
    reads: tuple[str, ...] = ()  # forms of answer in which it does
    table: tuple[KindSummary, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `passed`, and every field."""
        return {"passed": not self.findings, **asdict(self)}


def check_reward(
    settings: RewardSettings | str, rows: Sequence[Mapping[str, Any]] = (), base_dir: Path | None = None
) -> CheckReport:
    """Try a reward on the built-in corpus and on `rows`.

    Args:
        settings: as in a recipe, with the timeout of one call; or the name alone.
        rows: each with `completion`, `answer` and the columns that the function takes, the same in all; `label` (true
            or false, 1 or 0) says whether the completion should be paid.
        base_dir: where the reward's file is looked for. Default: the current folder.

    Raises RewardError if the reward cannot be loaded or needs a column that is not there, or rows are not as said.
    """
    if isinstance(settings, str):
        settings = RewardSettings(name=settings, timeout=TIMEOUT)
    settings = settings.model_copy(update={"args": {**DEFAULT_ARGS.get(settings.name, {}), **settings.args}})
    items = _items(rows)
    probe = Probe(settings, base_dir)
    try:
        with tempfile.TemporaryDirectory(prefix="zero-check-") as folder:
            measured = _measure(probe, items, Path(folder) / "executed")
    finally:
        probe.close()
    return _report(settings, measured)


# -- measuring -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Measured:
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


def _measure(probe: Probe, own: Sequence[Item], mark: Path) -> _Measured:
    """`mark`: a file that appears if code of a completion is executed."""
    measured = _Measured()
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


def _alone(probe: Probe, items: Sequence[Item], what: str, measured: _Measured) -> list[Trial]:
    trials = probe.alone(items, SECONDS)
    if len(trials) < len(items) and trials:
        why = "after calls without an answer" if probe.stopped else f"for they took more than {SECONDS:g} seconds"
        measured.notes.append(f"{len(trials)} of {len(items)} {what} were tried, {why}")
    return trials


def _of_a_grader(measured: _Measured, code: str) -> Iterator[Item]:
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
    (problem,) = _first_of(types[:1])
    yield from empty(problem, measured.graded.first_form(problem.type))
    yield from hostile(problem, measured.graded.first_form(problem.type), code)


def _of_another(measured: _Measured, code: str) -> Iterator[Item]:
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


def _items(rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Raises RewardError if a row has no completion, other columns than the first, or a label that is none."""
    items = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("completion"), str | list):
            raise RewardError(f"row {number}: completion: got {row.get('completion')!r}, expected a text or messages")
        if different := sorted((set(row) ^ set(rows[0])) - {"label"}):
            raise RewardError(f"row {number}: {', '.join(different)}: in this row or in row 1, expected in both")
        label = row.get("label")
        if label not in (None, 0, 1):
            raise RewardError(f"row {number}: label: got {label!r}, expected true or false, 1 or 0")
        columns = {name: value for name, value in row.items() if name not in ("completion", "label")}
        columns.setdefault("prompts", row.get("prompt", row.get("question", "")))
        columns.setdefault("completion_ids", token_ids(row["completion"]))
        style = "" if label is None else "should be paid" if label else "should not be paid"
        items.append(
            Item("your file", row["completion"], columns, "", "", style, None if label is None else bool(label))
        )
    return items


# -- judging -------------------------------------------------------------------------------------------------------


def _report(settings: RewardSettings, measured: _Measured) -> CheckReport:
    trials = measured.all
    latency = _latency(trials)
    values = [trial.value for trial in trials if trial.value is not None]
    answered = [trial for trial in trials if trial.problem is None]
    return CheckReport(
        spec=settings.name,
        findings=tuple(_findings(measured, latency)),
        notes=tuple(_notes(settings, measured)),
        completions=len(trials),
        low=min(values, default=None),
        high=max(values, default=None),
        none_share=1 - len(values) / len(answered) if answered else 0.0,
        latency=latency,
        grades=tuple(measured.graded.types),
        reads=tuple(measured.graded.forms),
        table=tuple(_table(measured)),
    )


def _findings(measured: _Measured, latency: Mapping[str, float]) -> list[Finding]:
    found = _broken(measured)
    if latency and latency["p50"] > SLOW:
        slow = [trial for trial in measured.all if trial.seconds is not None and trial.seconds > SLOW]
        found.append(Finding("slow", f"half of the completions take at least {latency['p50']:.2g} s each", len(slow)))
    if measured.executed:
        found.append(Finding("executes-completions", "runs Python code that stands in a completion", 1))
    found += measured.changes
    if not _is_random(measured):
        found += _of_values(measured)
    order = list(MEANING)
    return sorted(found, key=lambda one: order.index(one.name))


def _of_values(measured: _Measured) -> list[Finding]:
    found = _of_labels(measured.own, measured.graded)
    if measured.graded.right:
        found += mistakes([*measured.plain, *measured.others], measured.graded)
        found += exploits(measured.others, measured.graded)
    else:
        found += form_exploits(measured.plain, measured.others)
    return found


def _broken(measured: _Measured) -> list[Finding]:
    """What kept completions from having a value, by the place where it raised."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in measured.all:
        if trial.problem and not (trial.problem == "raises" and trial.item.type in measured.refused):
            place = trial.message.rpartition("(")[2] if trial.problem == "raises" else ""
            groups.setdefault((trial.problem, place), []).append(trial)
    return [finding(name, _breakage(trials), trials) for (name, _), trials in groups.items()]


def _breakage(trials: Sequence[Trial]) -> str:
    kinds = list(dict.fromkeys(trial.item.kind for trial in trials))
    shown = ", ".join(kinds[:KINDS]) + (f" and {len(kinds) - KINDS} other kinds" if len(kinds) > KINDS else "")
    return f"{len(trials)} completion{'s' if len(trials) > 1 else ''} ({shown}): {trials[0].message}"


def _of_labels(own: Sequence[Trial], graded: Grading) -> list[Finding]:
    """The file's labels against its values; a completion without a value is neither."""
    found = []
    for name, label, what in (
        ("false-positive", False, "paid though they should not be"),
        ("false-negative", True, "not paid though they should be"),
    ):
        labelled = [trial for trial in own if trial.item.label is label and trial.value is not None]
        bad = [trial for trial in labelled if ((trial.value or 0.0) > graded.middle) is not label]
        if bad:
            found.append(finding(name, f"{len(bad)} of {len(labelled)} completions of the file are {what}", bad))
    return found


def _is_random(measured: _Measured) -> bool:
    return any(change.name == "not-deterministic" for change in measured.changes)


def _notes(settings: RewardSettings, measured: _Measured) -> list[str]:
    notes = list(measured.notes)
    if args := DEFAULT_ARGS.get(settings.name, {}):
        used = ", ".join(f"{name}={settings.args[name]}" for name in args)
        notes.append(f"tried with {used}; give your own with --arg")
    if measured.refused:
        types, message = ", ".join(measured.refused), next(iter(measured.refused.values()))
        notes.append(f"raises where the gold answer is of type {types}: harmless if your data has none. {message}")
    if measured.plain and all(trial.problem == "raises" for trial in measured.plain) and not settings.completions:
        notes.append("raises on every text: if it takes message lists, as for a chat, add --completions messages")
    if _is_random(measured):
        notes.append("values were not judged, for they change by themselves")
    elif measured.plain and not measured.graded.right and not any(trial.problem for trial in measured.plain):
        notes.append(
            f"{NO_GRADER} (forms tried: {', '.join(FORMS)}; if it reads another, give labelled rows with --data)"
        )
    values = [trial.value for trial in measured.all if trial.problem is None]
    if len(values) > 1 and len(set(values)) == 1:
        notes.append("gives every completion the same: the policy learns nothing from it here")
    return notes


def _latency(trials: Iterable[Trial]) -> dict[str, float]:
    seconds = sorted(trial.seconds for trial in trials if trial.seconds is not None)
    if not seconds:
        return {}
    p95 = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
    return {"p50": statistics.median(seconds), "p95": p95, "max": seconds[-1]}


def _table(measured: _Measured) -> Iterator[KindSummary]:
    """Of a grader, right and wrong answers in what it reads only."""
    cells = measured.graded.right
    kinds: dict[str, list[Trial]] = {}
    for trial in measured.all:
        item = trial.item
        if item.kind in ("right", "wrong") and cells and (item.type, item.form) not in cells:
            continue
        kinds.setdefault(f"{item.kind}, {item.style}" if item.label is not None else item.kind, []).append(trial)
    for kind, trials in kinds.items():
        values = [trial.value for trial in trials if trial.value is not None]
        mean = statistics.fmean(values) if values else None
        yield KindSummary(kind, len(trials), min(values, default=None), mean, max(values, default=None))
