"""`python -m tests.chaos --episodes 40 --seed 0`: plays episodes and prints a table in Markdown."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.catalogue import ALL
from tests.chaos.episode import Episode, Result, play

HEAD = "| episode | faults | exit codes | resumed | prompts exactly once | left behind | what did not hold |"


def main() -> int:
    asked = _arguments()
    episodes = chosen(asked.episodes, asked.seed, asked.only)
    if asked.list:
        print("\n".join(map(str, episodes)))
        return 0
    print(f"{HEAD}\n|{' --- |' * 7}", flush=True)
    results = []
    for number, episode in enumerate(episodes):
        started = time.monotonic()
        results.append(play(episode, asked.keep and asked.keep / f"{number:02d}"))
        print(line(results[-1]), flush=True)
        print(f"{number + 1}/{len(episodes)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    failed = [result for result in results if result.all_findings]
    struck = sum(result.struck for result in results)
    print(f"\n{len(results)} episodes, {struck} faults; {len(failed)} episodes in which something did not hold")
    return 1 if failed else 0


def chosen(n: int | None, seed: int, only: str) -> Sequence[Episode]:
    """The first `n` of the catalogue; beyond its end it begins again with the next seed."""
    there = [episode for episode in ALL if only in str(episode)]
    n = len(there) if n is None else n
    return [replace(there[i % len(there)], seed=seed + i // len(there)) for i in range(n if there else 0)]


def line(result: Result) -> str:
    cells = [
        result.episode,
        result.struck,
        ", ".join(map(str, result.codes)),
        result.resumed,
        "no" if result.miscounted else "yes",
        "; ".join(result.left) or "nothing",
        "; ".join([*result.findings, *result.miscounted]),
    ]
    return f"| {' | '.join(str(cell).replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--episodes", type=int, help="how many; default: the whole catalogue once")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of the damage")
    parser.add_argument("--only", default="", help="episodes whose name contains this")
    parser.add_argument("--list", action="store_true", help="their names, and nothing else")
    parser.add_argument("--keep", type=Path, help="a folder that gets a copy of every run's directory")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
