"""An evaluation's folder for the tests of its report, made here: two benchmarks, four samples, and hostile text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from eval.stats.stats import summary
from eval.store import write_parquet
from eval.types import Generation

SAMPLES = 4
# What runs where text is taken for HTML, and what tricks a reader where it is not.
HOSTILE = {
    "script": "</script><script>window.pwned = 1; alert(1)</script>",
    "image": "<img src=x onerror=\"window.pwned = 1; alert(1)\"><svg onload='alert(1)'>",
    "remote": "<img src='https://example.invalid/a.png'><iframe src='https://example.invalid/'></iframe>",
    "comment": "<!-- ]]> --> <style>body{display:none}</style> &lt;b&gt; &amp;",
    "control": "null \x00 escape \x1b[31m bell \x07 end",
    "control and markup": "\x00<img src=x onerror='window.pwned = 1'>\x00<b>bold</b>\x00",
    "direction": "\u202egnorw si siht\u202c zero\u200bwidth",
    "text in a formula": r"$\text{<img src=x onerror=alert(1)>}$ and $\text{</script><script>alert(1)</script>}$",
    "link in a formula": r"$\href{javascript:alert(1)}{x}$ and $\class{a}{b}$",
    "braces": "$" + "{" * 3000 + "}" * 3000 + "$",
    "openings": r"\[" * 20_000 + r"\boxed{" * 5_000 + "$$" * 5_001,
    "wide": "W" * 3000 + " $" + "+".join(f"x_{{{i}}}" for i in range(120)) + "$",
    "template": "${alert(1)} $policy `x` {{y}} %s",
}


def arithmetic(rng: random.Random, number: int) -> list[Generation]:
    a, b = rng.randrange(10, 100), rng.randrange(10, 100)
    return [_sum(rng, number, sample, a, b) for sample in range(SAMPLES)]


def _sum(rng: random.Random, number: int, sample: int, a: int, b: int) -> Generation:
    kind = rng.choice(["correct", "correct", "wrong", "no_answer"])
    said = {"correct": str(a + b), "wrong": str(a + b + rng.randrange(1, 9)), "no_answer": None}[kind]
    thought = f"<think>{a} plus {b} costs $5 and $6, that is " + "so " * rng.randrange(60)
    return Generation(
        benchmark="sums",
        problem_id=f"sums/{number}",
        sample=sample,
        question=f"What is {a} + {b}?",
        answer=str(a + b),
        completion=thought if said is None else f"{thought}</think><answer>{said}</answer>",
        value=float(kind == "correct"),
        outcome=kind,
        extracted=said,
        reason="thinking is not closed"
        if said is None
        else f"{said} {'is' if kind == 'correct' else 'is not'} {a + b}",
        tokens=len(thought) // 3,
        finish_reason="length" if said is None else "stop",
        level=str(1 + number % 3),
    )


def algebra(rng: random.Random, number: int) -> list[Generation]:
    p, q = rng.randrange(2, 9), rng.randrange(2, 9)
    return [_root(rng, number, sample, p, q) for sample in range(SAMPLES)]


def _root(rng: random.Random, number: int, sample: int, p: int, q: int) -> Generation:
    kind = rng.choice(["correct", "wrong", "malformed", "timeout", "failed"])
    answer = rf"\frac{{{p}}}{{{q}}}"
    said = answer if kind == "correct" else rf"\sqrt{{{p}}}"
    work = rf"From ${q}x - {p} = 0$ follows \[x = {answer} \approx {p / q:.3f},\] so \(x\) is $\boxed{{{said}}}$."
    failed = kind == "failed"
    return Generation(
        benchmark="roots",
        problem_id=f"roots/{number}",
        sample=sample,
        question=f"Solve ${q}x = {p}$ for $x$.",
        answer=answer,
        completion="" if failed else work,
        value=None if kind in ("timeout", "failed") else float(kind == "correct"),
        outcome=None if failed else kind,
        extracted=None if failed or kind == "malformed" else said,
        reason="the server answered nothing" if failed else f"{said} was read",
        tokens=None if failed else len(work) // 3,
        finish_reason=None if failed else "stop",
        failure="timeout" if failed else None,
        subject=["Algebra", "Counting & Probability"][number % 2],
        level=str(1 + number % 2),
    )


def hostile() -> list[Generation]:
    return [
        Generation(
            benchmark="<b>hostile</b>",
            problem_id=f"<i>{name}</i>#%2F:&?",
            sample=0,
            question=f"Q {text}",
            answer=f"A {text[:200]}",
            completion=f"C {text}",
            value=0.0,
            outcome="wrong",
            extracted=f"E {text[:200]}",
            reason=f"R {text}",
            tokens=1,
            finish_reason="stop",
            subject="<img src=x onerror=alert(1)>",
            level="</option><script>alert(1)</script>",
        )
        for name, text in HOSTILE.items()
    ]


def generations() -> list[Generation]:
    """In the order in which a folder's generations are read: by benchmark, problem and sample."""
    rng = random.Random(0)
    sums = [row for number in range(30) for row in arithmetic(rng, number)]
    roots = [row for number in range(20) for row in algebra(rng, number)]
    return [*sorted(hostile(), key=lambda row: row.problem_id), *roots, *sums]


def write_folder(folder: Path, rows: Sequence[Generation]) -> Path:
    """A finished evaluation as `zero eval` leaves it, without its report."""
    folder.mkdir(parents=True, exist_ok=True)
    benchmarks = dict.fromkeys(row.benchmark for row in rows)
    results = {name: _entry(name, [row for row in rows if row.benchmark == name]) for name in benchmarks}
    (folder / "results.json").write_text(json.dumps(results))
    write_parquet(rows, folder / "generations.parquet")
    return folder


def _entry(name: str, rows: Sequence[Generation]) -> dict[str, object]:
    samples = 1 + max(row.sample for row in rows)
    protocol = {"instruction": f"Answer <b>{name}</b>.", "max_tokens": 512, "read": ["tag", "boxed"]}
    return {**summary(rows, samples), "model": "zero/<tiny>", "protocol": protocol, "protocol_hash": "0a1b2c3d4e5f"}
