"""How a benchmark is asked, sampled and graded: everything that its number depends on, but the model.

Two results with the same `Protocol.hash()` are comparable. Whatever changes the protocol changes the hash: other
sampling, another instruction, another reading of answers, a new version of the verifier's rules.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eval.problems.data import DataError
from eval.problems.generated import Split
from eval.types import Problem
from rewards import Score
from rewards import grader as verifier_named
from rewards.verifier.extract import STRICT, Place

RULES = 2  # version of the verifier's rules: count it up when a verdict of rewards/ changes
VERIFIERS = ("math", "countdown", "multiple_choice", "number", "code", "reasoning_gym")
PLACES: tuple[str, ...] = typing.get_args(Place)
LATER = ("prefill", "shots")  # settings that protocols of earlier versions do not have
TEMPLATES = ("chat", "r1_zero")  # of grpo/prompts.py; any other is a text with {question}

# DeepSeek-R1's README, usage recommendations: this directive in the user prompt, and no system prompt.
BOXED_STEPS = r"Please reason step by step, and put your final answer within \boxed{}."
PROGRAM = "Please reason step by step, and write the whole program in one block, ```python ... ```, at the end."
# Of puzzles, whose answers may be grids or lists, which a box does not hold.
ANSWER = "Please reason step by step, and put the final answer alone within <answer> and </answer>."
# The frame of lm-evaluation-harness's gsm8k task, without its examples.
PLAIN = "Question: {question}\nAnswer:"

Grade = Callable[[str, Problem], Score]


class ProtocolError(DataError):
    """A protocol that cannot be run. One line a problem."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data set and the columns of its problems.

    Example: Source("openai/gsm8k", question="question", answer="answer", subset="main", answer_pattern=r"####\\s*(.+)")
    """

    dataset: str  # hub id, or a local file or folder as its owner wrote it
    question: str
    answer: str
    subset: str | None = None  # the hub's configuration name
    split: str = "test"
    hub_split: str | None = None  # the same split's name on the hub, where that is another
    answer_pattern: str | None = None  # "boxed", or a regex: group 1 of its last match in the answer column is the gold
    context: str | None = None  # column of a text that comes before the question, where a row has one
    tolerance: str | None = None  # column of the error that a numeric answer may have, where a row allows one


@dataclass(frozen=True, slots=True)
class Generated:
    """Problems of eval/problems/generated.py. Example: Generated("countdown", problems=300, levels=(1, 2, 3))"""

    task: str
    problems: int
    levels: tuple[int, ...]
    seed: int = 0
    split: Split = "held_out"  # no training run sees these, whatever its seed


@dataclass(frozen=True, slots=True)
class Puzzles:
    """Problems of eval/problems/puzzles.py. Example: Puzzles({"dataset": "chain_sum"}, problems=300)"""

    config: typing.Mapping[str, typing.Any]
    problems: int
    seed: int = 0
    split: Split = "held_out"


@dataclass(frozen=True, slots=True)
class Protocol:
    """Raises ProtocolError, one line a problem, if it cannot be run.

    Example: Protocol(Source("openai/gsm8k", "question", "answer", "main"), BOXED_STEPS, max_tokens=2048)
    """

    data: Source | Generated | Puzzles
    instruction: str  # appended to each question, on a line of its own
    max_tokens: int
    template: str = "chat"  # chat, r1_zero, or a text that contains {question}
    plain: str = PLAIN  # the text in place of "chat" where the model has no chat template
    system: str = ""  # of a chat; "": no system prompt
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    samples: int = 1  # completions a problem
    read: tuple[Place, ...] = STRICT  # where an answer may stand (rewards/verifier/extract.py)
    verifier: str = "math"
    rel_tol: float = 0.0  # of the verifier `number`
    abs_tol: float = 0.0
    evaluated: bool = False  # of the verifier `math`: an answer must be a number where the gold answer is one
    rules: int = RULES
    prefill: str = ""  # how the answer starts, after what the template itself opens
    shots: int = 0  # solved problems of the training split that come before the question (eval/problems/shots.py)

    def __post_init__(self) -> None:
        if found := list(_conflicts(self)):
            raise ProtocolError("\n".join(found))

    def hash(self) -> str:
        """12 hex digits of the SHA-256 over the protocol as canonical JSON: sorted keys, no spaces."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def canonical(self) -> dict[str, typing.Any]:
        """The protocol as plain JSON values, as they stand in results.json. 0 and 0.0 are the same temperature.

        Settings that came later are there only where they say something: the hashes of before hold.
        """
        floats = {key: float(getattr(self, key)) for key in ("temperature", "top_p", "rel_tol", "abs_tol")}
        values = {**asdict(self), **floats}
        return json.loads(json.dumps({key: value for key, value in values.items() if value or key not in LATER}))

    def template_for(self, has_chat_template: bool) -> str:
        """What grpo.prompts.render takes for this model."""
        return self.plain if self.template == "chat" and not has_chat_template else self.template


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A set of problems, how they are asked, and where both come from.

    Example: Benchmark("gsm8k", Protocol(...), problems=1319, source="https://arxiv.org/abs/2110.14168", licence="MIT")
    """

    name: str
    protocol: Protocol
    problems: int | None = None  # how many there are; None: not known before they are read
    source: str = ""  # paper or page
    licence: str = ""
    subject: str | None = None  # columns that results are broken down by
    level: str | None = None
    local: Path | None = None  # the user's own file or folder; None: a folder of `name` under --data-dir, else the hub

    def override(self, **changes: typing.Any) -> Benchmark:
        """The benchmark under a changed protocol, which has another hash; None leaves a setting as it is.

        Raises ProtocolError, which names the benchmark, if the changed protocol cannot be run.
        """
        try:
            protocol = replace(self.protocol, **{key: value for key, value in changes.items() if value is not None})
        except ProtocolError as error:
            raise ProtocolError("\n".join(f"{self.name}: {line}" for line in str(error).split("\n"))) from error
        return replace(self, protocol=protocol)


def _conflicts(protocol: Protocol) -> typing.Iterator[str]:
    text = "a text that contains {question}"
    if "{question}" not in protocol.template and protocol.template not in TEMPLATES:
        yield f"template: got {protocol.template!r}, expected {', '.join(TEMPLATES)} or {text}"
    if "{question}" not in protocol.plain:
        yield f"plain: got {protocol.plain!r}, expected {text}"
    for key in ("max_tokens", "samples"):
        if getattr(protocol, key) < 1:
            yield f"{key}: got {getattr(protocol, key)}, expected at least 1"
    if protocol.shots < 0:
        yield f"shots: got {protocol.shots}, expected at least 0"
    if protocol.system and protocol.template != "chat":
        yield f"system: only template: chat has a system prompt, got {protocol.template!r}; put the text into it"
    if protocol.temperature < 0:
        yield f"temperature: got {protocol.temperature}, expected at least 0"
    if not 0 < protocol.top_p <= 1:
        yield f"top_p: got {protocol.top_p}, expected above 0 and at most 1"
    if protocol.temperature == 0 and protocol.samples > 1:
        yield (
            f"samples: {protocol.samples} greedy completions would all be the same; use samples 1, or a temperature "
            "above 0"
        )
    if protocol.verifier not in VERIFIERS:
        yield f"verifier: got {protocol.verifier!r}, expected one of {', '.join(VERIFIERS)}"
    if not protocol.read or set(protocol.read) - set(PLACES):
        yield f"read: got {list(protocol.read)}, expected some of {', '.join(PLACES)}"
    if (protocol.rel_tol or protocol.abs_tol) and protocol.verifier != "number":
        yield f"rel_tol, abs_tol: only the verifier number has a tolerance, got {protocol.verifier}"
    if protocol.evaluated and protocol.verifier != "math":
        yield f"evaluated: only the verifier math has this setting, got {protocol.verifier}"
    if min(protocol.rel_tol, protocol.abs_tol) < 0:
        yield f"rel_tol, abs_tol: got {protocol.rel_tol} and {protocol.abs_tol}, expected at least 0"


def grader(protocol: Protocol) -> Grade:
    """What grades a completion (template's opening included) of a problem by the protocol's rules."""
    settings: dict[str, typing.Any] = {"read": protocol.read}
    if protocol.verifier == "number":
        settings |= {"rel_tol": protocol.rel_tol, "abs_tol": protocol.abs_tol}
    elif protocol.verifier == "code":
        settings = {}  # a program's place is not a setting (rewards/code/extract.py)
    elif protocol.evaluated:
        settings |= {"evaluated": True}
    by_rule = verifier_named(protocol.verifier, **settings)
    column = protocol.data.tolerance if isinstance(protocol.data, Source) else None

    def grade(completion: str, problem: Problem) -> Score:
        row = {**problem.columns, "question": problem.question, "answer": problem.answer}
        if column and protocol.verifier == "math":
            row["tolerance"] = row.get(column)
        return by_rule(completion, row)

    return grade
