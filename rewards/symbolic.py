"""Math-Verify, with a second opinion where it is loose. Runs in a worker process (rewards/pool.py), which bounds it.

Only its LaTeX reader is used: its reader of plain expressions is sympy's `parse_expr`, which is `eval`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Expr

from rewards.pool import serve
from rewards.types import Outcome

_READ = (LatexExtractionConfig(boxed_match_priority=0),)
_FLOOR = 1e-60  # an exact zero evaluates to about 1e-100
# What sympy raises on answers that it cannot compare, say a matrix with a set.
_CANNOT = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


def equivalent(item: Mapping[str, str]) -> tuple[Outcome, str]:
    answer, gold = _parse(item["answer"]), _parse(item["gold"])
    if gold is None:
        return "wrong", f"not the text of the gold answer, and {item['gold']!r} is no mathematics that can be read"
    if answer is None:
        return "wrong", f"{item['answer']!r} is no mathematics that can be read"
    try:
        # Its own timeouts need the main thread's SIGALRM; the pool's need nothing of the process.
        equal = verify(gold, answer, timeout_seconds=None, raise_on_error=True) and _same_value(gold, answer)
    except _CANNOT as problem:
        return "error", f"Math-Verify raised {type(problem).__name__}: {problem}"
    return ("correct", "Math-Verify finds them equal") if equal else ("wrong", "Math-Verify finds them different")


def _parse(text: str) -> Basic | None:
    parsed = parse(f"\\boxed{{{text}}}", _READ, fallback_mode="no_fallback", parsing_timeout=None)
    return parsed[0] if parsed else None


def _same_value(gold: Basic, answer: Basic) -> bool:
    """Math-Verify rounds to 6 decimals: of two constants, ask for 12 significant digits."""
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.free_symbols or answer.free_symbols:
        return True
    gold, answer = gold.doit(), answer.doit()
    if not (gold.is_finite and answer.is_finite):
        return True
    return bool(abs((gold - answer).evalf(30)) <= max(abs(gold.evalf(30)) * 1e-12, _FLOOR))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # Math-Verify warns that its timeouts are off; the pool has its own
    equivalent({"answer": r"\frac{\sqrt{2}}{2}", "gold": r"\frac{1}{\sqrt{2}}"})  # fill the parser's caches once
    serve(equivalent)
