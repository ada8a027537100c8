"""A step with two servers against a step with one, on the same machine.

    python -m benchmarks.fleet --model DIR [--rounds N] [--json FILE]

The recipe smollm2_135m_cpu as benchmarks/vs_trl.py has it, with `rollout.server.replicas` 1 and 2. On a CPU two servers
share the cores that one has alone, so this shows what a second one costs, not what it brings where it has a device of
its own. Two sides take turns, step by step, after a warm-up (benchmarks/turns.py); `speedup` is one server's seconds
over two servers', pair by pair. The two sample with different random numbers: tokens a second stand beside.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.turns import Turns, ratios, spread
from benchmarks.vs_trl import RECIPE, WORK, Settings, train

SIDES = {"one": 1, "two": 2}
FEW = ("eval.problems=8", "train.eval_every=0")  # an evaluation is no part of a step


def compare(recipe: str, overrides: Sequence[str], rounds: int, folder: Path) -> dict[str, Any]:
    steps = rounds + 3  # the first ends when a side is ready, two warm up
    programs = {}
    for name, replicas in SIDES.items():
        sizes = (f"rollout.server.replicas={replicas}", f"train.steps={steps + 1}")
        programs[name] = (train, Settings((*overrides, *sizes), str(folder / name), recipe))
    with Turns(programs, folder) as turns:
        turns.warm_up(2)
        for _ in range(rounds):
            turns.round()
        sides = turns.sides
        rates = {
            name: [one["tokens"] / seconds for one, seconds in zip(side.reports, side.seconds, strict=True)]
            for name, side in sides.items()
        }
        return {
            "speedup": ratios(sides["one"].seconds, sides["two"].seconds),
            "speedup_per_token": ratios(rates["two"], rates["one"]),
            "seconds": {name: spread(side.seconds) for name, side in sides.items()},
            "peak_gib": {name: side.peak_gib() for name, side in sides.items()},
            "rounds": rounds,
        }


HEAD = ("", "one server", "two servers", "one / two")


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    seconds = [f"{found['seconds'][name]['median']:.2f}" for name in SIDES]
    made = [["seconds a step", *seconds, "{median:.2f} [{low:.2f}, {high:.2f}]".format(**found["speedup"])]]
    for which, label in (("process", "peak GiB, trainer"), ("all", "peak GiB, with the servers")):
        peaks = [found["peak_gib"][name][which] for name in SIDES]
        made.append([label, *(f"{peak:.2f}" for peak in peaks), f"{peaks[0] / peaks[1]:.2f}"])
    rate = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**found["speedup_per_token"])
    return [*made, ["tokens a second, two / one", "", "", rate]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="SmolLM2-135M-Instruct")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--set", nargs="*", default=WORK, metavar="a.b=value", help="settings of both sides")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    overrides = (f"model.path={arguments.model}", *arguments.set, *FEW)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments.recipe, overrides, arguments.rounds, Path(folder))
    for line in (HEAD, *rows(found)):
        print(" | ".join(line))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
