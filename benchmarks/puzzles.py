"""Which of reasoning-gym's generators can be trusted.

    python -m benchmarks.puzzles [NAME ...] [--write] [--json FILE]

For each, with its default settings, `ROWS` puzzles of one seed. The gold answer must be right, and near misses
(benchmarks/puzzle_misses.py) must not, once by our grading (rewards/puzzles/grading.py) and once by its own scorer
alone. A generator whose grading fails is `refused`. `--write` stores what was found in rewards/puzzles/trust.json,
which the code goes by, and prints the table of docs/puzzles.md; a test measures a sample again. About 20 minutes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.puzzle_misses import RIGHT, near_misses
from eval.problems.puzzle_maker import drawn, row_of
from rewards.puzzles.exact import same
from rewards.puzzles.grading import COUNTDOWN, LOOKS, ask_scorer, verdict
from rewards.puzzles.trust import FILE, Trust, trusted

ROWS, SEED = 20, "measured"
SLOW_ROWS = 10  # of generators that take longer than SLOW seconds for one puzzle
SLOW = 0.05
LEFT_OUT = ("composite",)  # a mixture of the others, which `datasets` is here
UNFIT = {  # one answer is right, and the gold answer is not the one that the question asks for
    "number_format": "its gold answers carry rounding noise, such as 947865419.1689999 for 947865419.169",
}


@dataclass
class Measured:
    """Counts, and the first near misses that were taken, for whoever reads them."""

    trust: Trust
    taken: list[tuple[str, str, str]] = field(default_factory=list)  # kind, answer, gold, by our grading


def measure(name: str, rows: int = ROWS) -> Measured:
    """Of one generator. Needs reasoning-gym."""
    made, milliseconds = _rows(name, rows)
    golds = [row["answer"] for row in made]
    counts: Counter[str] = Counter()
    taken: list[tuple[str, str, str]] = []
    for row in made:
        gold = row["answer"]
        counts["golds"] += bool(gold)
        counts["passed"] += bool(gold) and _right(gold, row, gold)
        others = [other for other in dict.fromkeys(golds) if other and not same(other, gold)][:3]
        for kind, answer in near_misses(_as_asked(name, gold), row["question"], others, random.Random(row["id"])):
            if _is_right(name, kind, answer, gold):
                continue
            counts["near_misses"] += 1
            counts["scorer_accepted"] += ask_scorer(answer, gold, row["scorer_metadata"])[0] == "correct"
            if _right(gold, row, answer):
                counts["accepted"] += 1
                taken.append((kind, answer, gold))
    keys = ("golds", "passed", "near_misses", "accepted", "scorer_accepted")
    trust = Trust("refused", _levels(name), milliseconds=milliseconds, **{key: counts[key] for key in keys})
    return Measured(_decided(name, trust), taken)


def _decided(name: str, trust: Trust) -> Trust:
    """How it is graded, by what was counted."""
    if name in UNFIT:
        return replace(trust, reason=UNFIT[name])
    if not trust.golds:
        return replace(trust, reason="it gives no gold answer, so that nothing shows what its scorer takes for right")
    if trust.passed < trust.golds:
        return replace(trust, reason=f"only {trust.passed} of {trust.golds} gold answers are right by its scorer")
    if trust.accepted:
        return replace(trust, reason=f"{trust.accepted} of {trust.near_misses} near misses are right by its scorer")
    return replace(trust, graded="countdown" if name in COUNTDOWN else "scorer" if name in LOOKS else "exact")


def _rows(name: str, n: int) -> tuple[list[dict[str, Any]], float]:
    """Puzzles, each with the whole of what its generator says about it, and the milliseconds that one took."""
    import reasoning_gym  # noqa: F401 - its seconds are no puzzle's

    started, made = time.perf_counter(), []
    for entry in drawn(name, {}, None, f"{SEED}/{name}"):
        if isinstance(entry, str):
            raise RuntimeError(f"{name}: {entry}")
        key = format(random.Random(f"{name}/{len(made)}").getrandbits(64), "016x")
        whole = json.dumps(entry["metadata"], ensure_ascii=False, default=str)
        made.append({**row_of(name, entry, None, key), "scorer_metadata": whole})
        seconds = (time.perf_counter() - started) / len(made)
        if len(made) == (SLOW_ROWS if seconds > SLOW and n > SLOW_ROWS else n):
            break
    return made, round(1000 * seconds, 1)


def _right(gold: str, row: Mapping[str, Any], answer: str) -> bool:
    return bool(answer.strip()) and verdict(gold, row["metadata"], answer.strip())[0] == "correct"


def _as_asked(name: str, gold: str) -> str:
    """The gold answer as the question wants it: power_function asks for three figures and gives all."""
    return f"{float(gold):.2e}" if name == "power_function" else gold


def _is_right(name: str, kind: str, answer: str, gold: str) -> bool:
    """Whether it is no near miss after all."""
    if name == "power_function" and re.fullmatch(LOOKS[name], answer):
        return float(answer) == float(_as_asked(name, gold))
    return same(answer, gold) or "".join(answer.split()) == "".join(gold.split()) or kind in RIGHT.get(name, ())


def _levels(name: str) -> int:
    from reasoning_gym.factory import CURRICULA

    attributes = CURRICULA[name]().attributes.values() if name in CURRICULA else ()
    return max((len(one.levels) for one in attributes), default=0)


def table(found: Mapping[str, Trust]) -> str:
    """The table of docs/puzzles.md."""
    rows = [
        "| generator | graded | levels | golds right | near misses | taken by us | by its scorer | ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in found.items():
        cells = [one.graded, one.levels, f"{one.passed} of {one.golds}", one.near_misses, one.accepted]
        rows.append(f"| `{name}` | {' | '.join(map(str, [*cells, one.scorer_accepted, one.milliseconds]))} |")
    return "\n".join(rows) + "\n"


def generators() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - set(LEFT_OUT))


def main(arguments: Sequence[str] | None = None) -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":  # some generators depend on it
        os.execve(sys.executable, [sys.executable, "-W", "ignore", "-m", "benchmarks.puzzles", *sys.argv[1:]],
                  {**os.environ, "PYTHONHASHSEED": "0"})  # fmt: skip
    parser = argparse.ArgumentParser(description="Measure which of reasoning-gym's generators can be trusted.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true", help="store what was found, and print the table of docs")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    found: dict[str, Trust] = {}
    for name in asked.names or generators():
        measured = measure(name)
        found[name] = measured.trust
        print(f"{name}: {measured.trust}", flush=True)
        for kind, answer, gold in measured.taken[:4]:
            print(f"    {kind}: {answer[:70]!r} for {gold[:70]!r}", flush=True)
    if asked.write:
        everything = dict(sorted({**trusted(), **found}.items()))
        write(everything)
        print(table(everything), end="")
    if asked.json:
        asked.json.write_text(json.dumps({name: asdict(one) for name, one in found.items()}, indent=1) + "\n")


def write(found: Mapping[str, Trust]) -> None:
    lines = ",\n".join(f'  "{name}": {json.dumps(asdict(one))}' for name, one in found.items())
    version = importlib.metadata.version("reasoning-gym")
    FILE.write_text(f'{{"reasoning_gym": "{version}", "generators": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main()
