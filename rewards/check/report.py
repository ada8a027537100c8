"""What is known of a reward from its measurements: findings, notes, values and latency."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rewards.check.corpus import FORMS
from rewards.check.exploits import Grading, exploits, form_exploits, mistakes, of_silence, silence
from rewards.check.findings import MEANING, Finding, Trial, finding
from rewards.check.measure import Measured
from rewards.registry import RewardSettings

SLOW = 0.1  # seconds for a completion: a step of 64 would wait 6 s
NO_GRADER = "does not look at the answer: it cannot serve as the accuracy reward"
KINDS = 4  # of completions that a finding names
DEFAULT_ARGS: Mapping[str, Mapping[str, Any]] = {  # that built-in rewards need and a check can choose
    "soft_overlong": {"max_length": 512, "buffer": 128},
    "cosine_length": {"max_length": 512},
    "code": {"limits": {"cpu_seconds": 1, "wall_seconds": 3}},
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


def report(settings: RewardSettings, measured: Measured) -> CheckReport:
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


def _findings(measured: Measured, latency: Mapping[str, float]) -> list[Finding]:
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


def _of_values(measured: Measured) -> list[Finding]:
    found = _of_labels(measured.own, measured.graded)
    if measured.graded.right:
        found += mistakes([*measured.plain, *measured.others], measured.graded)
        found += exploits(measured.others, measured.graded)
    else:
        found += form_exploits(measured.plain, measured.others)
        if not any(one.name == "pays-empty" for one in found):
            found += silence([*measured.plain, *measured.others])
    return found


def _broken(measured: Measured) -> list[Finding]:
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


def _is_random(measured: Measured) -> bool:
    return any(change.name == "not-deterministic" for change in measured.changes)


def _notes(settings: RewardSettings, measured: Measured) -> list[str]:
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
        most, best = of_silence([*measured.plain, *measured.others])
        if most > best and not silence([*measured.plain, *measured.others]):
            notes.append("pays nothing more than saying nothing: give it less weight than the reward of the answer")
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


def _table(measured: Measured) -> Iterator[KindSummary]:
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
