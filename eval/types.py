"""The records of an evaluation, in order: Problem -> Generation -> statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rewards.types import Outcome

# Why a completion never came. too_long: the prompt leaves no room in the model's context, so it was never asked for.
Failure = Literal["timeout", "refused", "server", "malformed", "missing", "too_long"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a benchmark.

    Example: Problem(id="math500/test/17", question="What is ...", answer="\\\\frac{1}{2}", subject="Algebra",
    level="3", columns={"unique_id": ...})
    """

    id: str
    question: str
    answer: str
    subject: str | None = None
    level: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)  # what else the verifier may need


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion of one problem with its grade; or, with `failure`, one that never came.

    Its texts can be written to any file: half of a surrogate pair, which JSON knows and UTF-8 does not, becomes a ?.
    `value` is 1.0, 0.0, or None where the verifier could not grade it (outcome timeout, error) and where nothing came.

    Example: Generation(benchmark="gsm8k", problem_id="gsm8k/test/17", sample=0, question="...", answer="18",
    completion="<think>...</think><answer>18</answer>", value=1.0, outcome="correct", extracted="18",
    reason="18 is 18", tokens=204, finish_reason="stop", failure=None, subject=None, level=None, max_tokens=2048)
    """

    benchmark: str
    problem_id: str
    sample: int  # 0 to samples - 1
    question: str
    answer: str  # gold
    completion: str  # what the template opened (such as <think>) plus what the model wrote
    value: float | None
    outcome: Outcome | None  # None: nothing came
    extracted: str | None
    reason: str
    tokens: int | None = None  # of what the model wrote, where known
    finish_reason: str | None = None  # "stop", or "length" for one cut at max_tokens
    failure: Failure | None = None
    subject: str | None = None
    level: str | None = None
    max_tokens: int | None = None  # that it could have; fewer than the protocol's where the prompt leaves less room

    def __post_init__(self) -> None:
        for column in fields(self):
            if isinstance(text := getattr(self, column.name), str):
                object.__setattr__(self, column.name, text.encode(errors="replace").decode())
