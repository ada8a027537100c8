"""The verdict on the answer to a puzzle of reasoning-gym.

Its scorers give credit for near misses, and some evaluate what a model wrote as Python. So: where one answer is right,
ours is compared as text (exact.py). Where many are, the answer must first look like one (`LOOKS`), which no program
does, and goes to the scorer only then, in a worker that can be killed (worker.py): its full mark is right, all else is
wrong. Nothing of an answer is ever evaluated in the caller's process.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from rewards.builtin.countdown import countdown_verdict
from rewards.puzzles.exact import same
from rewards.puzzles.trust import trusted
from rewards.verifier.pool import Pool
from rewards.verifier.verdict import Verdict

CPU_SECONDS, MEMORY_GIB, WORKERS = 4.0, 4.0, 2
SHOWN = 60  # characters of an answer in a reason

_WORD = r"(?:sin|cos|tan|asin|acos|atan|sinh|cosh|tanh|exp|log|ln|sqrt|pi|[A-Za-z])(?![A-Za-z_])"
# Short numbers, and exponents of one or two digits, a fraction or a letter: no tower of powers.
_EXPONENT = r"\s*(?:\d{1,2}(?!\d)|[a-z](?![A-Za-z])|\(\s*-?\d{1,2}(?:\s*/\s*\d{1,2})?\s*\))(?!\s*\*\*)"
_FORMULA = rf"(?:{_WORD}|\d{{1,12}}(?:\.\d{{1,12}})?(?![\d.A-Za-z_])|\*\*{_EXPONENT}|\*(?!\*)|[-+/()\s])+"
_JSON = r"[\[{][^\\_]*[\]}]"
# What an answer to those with many right ones looks like; `refused` ones may be asked for all the same.
LOOKS: Mapping[str, str] = {
    "boxnet": _JSON,
    "codeio": r".+",
    "cryptarithm": r"(?:\s*[A-Z]\s*=\s*\d\s*(?:,|\Z))+",
    "graph_color": r"\{[\s\d\":,]*\}",
    "group_anagrams": _JSON,
    "intermediate_integration": _FORMULA,
    "jugs": r"\[[\w\s\",>-]*\]",
    "kakurasu": r"[01]+(?:\s+[01]+)*",
    "knight_swap": r"\[[\w\s\",]*\]|(?i:no)",
    "n_queens": r"[_Q\s]+",
    "palindrome_generation": r"[A-Za-z]+",
    "palindrome_partitioning": r"\[[\w\s\",\[\]]*\]",
    "polynomial_multiplication": _FORMULA,
    "power_function": r"[-+]?\d{1,40}(?:\.\d{0,40})?(?:[eE][-+]?\d{1,3})?",
    "prime_factorization": r"\d+(?:\s*\u00d7\s*\d+)*",
    "propositional_logic": r"[A-Z()\s¬∧\u2228→↔]+",
    "quantum_lock": r"[ABC](?:\s*→\s*[ABC])*",
    "rubiks_cube": r"\d?[A-Za-z]w?'?(?:\s+\d?[A-Za-z]w?'?)*",
    "rush_hour": r"(?:[A-Z][-+]\d\s*)+",
    "shortest_path": r"infeasible|(?:up|down|left|right)(?:\s+(?:up|down|left|right))*",
    "simple_integration": _FORMULA,
    "sokoban": r"[UDLR]+",
    "survo": r"\d+(?:\s+\d+)*",
    "tower_of_hanoi": r"Move disk \d+ from Peg \d+ to Peg \d+(?:\s*\n\s*Move disk \d+ from Peg \d+ to Peg \d+)*",
    "word_ladder": r"[A-Za-z]+(?:\s*,\s*[A-Za-z]+)*",
}
# One name or word, which the question writes otherwise than the gold answer; their scorers take any case, too.
ANY_CASE = frozenset({"calendar_arithmetic", "color_cube_rotation", "family_relationships", "tsumego", "zebra_puzzles"})
COUNTDOWN = {"countdown": None, "puzzle24": 24}  # and the target, where the row does not hold it

_pool = Pool("rewards.puzzles.worker", WORKERS, CPU_SECONDS, MEMORY_GIB)


def entry_of(metadata: Any) -> Mapping[str, Any]:
    """The row's `metadata`, a mapping or JSON of one, which names its generator. Raises ValueError if it is neither."""
    try:
        entry = json.loads(metadata) if isinstance(metadata, str) else metadata
    except ValueError:
        entry = None
    name = entry.get("source_dataset") if isinstance(entry, Mapping) else None
    if name not in trusted():
        raise ValueError(
            f"metadata: got {str(metadata)[:SHOWN]!r}, expected what reasoning-gym made: an object, or JSON of one, "
            "whose source_dataset is the generator's name"
        )
    return entry


def verdict(gold: str, metadata: Any, answer: str) -> Verdict:
    """Of one answer. ValueError: `metadata` is none of a puzzle."""
    entry = entry_of(metadata)
    name = entry["source_dataset"]
    if name in COUNTDOWN:
        return countdown_verdict(answer, entry["numbers"], entry.get("target", COUNTDOWN[name]))
    if name not in LOOKS:
        right = same(answer, gold, name in ANY_CASE)
        return "correct" if right else "wrong", f"{answer[:SHOWN]!r} is {'' if right else 'not '}{gold[:SHOWN]!r}"
    if not _looks(name).fullmatch(answer):
        return "malformed", f"{answer[:SHOWN]!r} does not look like an answer to {name}"
    return ask_scorer(answer, gold, json.dumps(entry))


def ask_scorer(answer: str, gold: str, metadata: str) -> Verdict:
    """The generator's own scorer, in a worker, whatever the answer looks like. `metadata`: JSON."""
    return _pool.ask({"answer": answer, "gold": gold, "metadata": metadata})


@functools.cache
def _looks(name: str) -> re.Pattern[str]:
    return re.compile(LOOKS[name], re.DOTALL)
