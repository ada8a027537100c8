"""What `zero rewards check` finds: the records, and each finding's name with what it means for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.check.corpus import THINKING, Item
from rewards.graded import text_of

MEANING: Mapping[str, str] = {
    "raises": "an exception stops the run",
    "wrong-type": "what is no list of numbers and None stops the run",
    "wrong-length": "another number of values than of completions stops the run",
    "not-finite": "NaN and infinity stop the run",
    "hangs": "a call that does not end in time has no reward; too many stop the run",
    "dies": "a call that ends its process has no reward; too many stop the run",
    "slow": "the model waits while its completions are scored",
    "executes-completions": "what the model writes is run as code, on your machine",
    "not-deterministic": "the same completion earns this now and that later: the policy learns from noise",
    "batch-dependent": "what a completion earns depends on the others that are scored with it, or on their order",
    "false-positive": "wrong answers are paid",
    "false-negative": "right answers are not paid",
    "pays-unfinished-thinking": "the policy learns not to finish its thinking",
    "pays-answer-in-thinking": "the policy learns that its final answer does not matter",
    "accepts-lists-of-guesses": "the policy learns to guess often instead of being right",
    "pays-text-after-answer": "the policy learns to go on after its answer",
    "pays-unclosed-answer": "the policy learns to stop in the middle of its answer",
    "pays-echoed-question": "the policy learns to repeat the question",
    "pays-empty": "the policy learns to say nothing",
    "pays-garbage": "the policy learns to write garbage",
    "pays-cheating-programs": "the policy learns to fool the tests",
}
EXAMPLES = 3  # that a finding keeps


@dataclass(frozen=True, slots=True)
class Trial:
    """One completion, scored alone. `problem` names the finding that kept it from having a value.

    Example: Trial(item, value=None, seconds=0.0002, problem="raises", message="... ZeroDivisionError ...")
    """

    item: Item
    value: float | None = None
    seconds: float | None = None  # None where it says nothing: the first call of a process
    problem: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """Example: Example("<think>So 42", "42", 1.0, "unfinished thinking")"""

    completion: str
    answer: str
    value: float | None
    kind: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Example: Finding("pays-empty", "pays empty completions 1, as much as right answers (1)", 3, (Example(...),))"""

    name: str  # one of MEANING
    summary: str
    count: int  # completions that show it
    examples: tuple[Example, ...] = ()


def finding(name: str, summary: str, trials: Sequence[Trial] = ()) -> Finding:
    return Finding(name, summary, len(trials), tuple(map(_example, trials[:EXAMPLES])))


def _example(trial: Trial) -> Example:
    text = text_of(trial.item.completion).replace(THINKING, "...")
    shown = text if len(text) <= 200 else f"{text[:100]} ... {text[-60:]}"
    kind = ", ".join(filter(None, (trial.item.kind, trial.item.style)))
    return Example(shown, str(trial.item.columns.get("answer", "")), trial.value, kind)
