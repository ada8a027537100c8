"""Sampling while training: what a step takes beside the longer of its two parts.

    python -m benchmarks.overlap --model DIR [--rounds N] [--json FILE]

The recipe smollm2_135m_cpu with one core for the server and one for the trainer, and a reward that tells all
completions apart, so that every group is trained. Two sides take turns, step by step (benchmarks/turns.py): one
samples and trains in turn (`max_staleness: 0`) and shows what the two parts take by themselves; the other may train on
samples that are one step old (`max_staleness: 1`), so that both cores work. The ratio is the step of the second over
the longer part of the first, 1.0 at best; both parts in turn would give the last column.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.turns import Turns, spread
from benchmarks.vs_trl import Settings, train

WORK = [
    "rollout.group_size=8", "rollout.prompts_per_step=8", "rollout.max_tokens=64", "train.checkpoint_every=0",
    "rollout.server.threads=1", "train.threads=1", "rewards=[{name: benchmarks.overlap:unlike}]",
    "eval.problems=8", "train.eval_every=0",
]  # fmt: skip
SIDES = {"in_turn": 0, "overlapped": 1}


def unlike(completions: Sequence[str], **_: Any) -> list[float]:
    """A reward that says nothing and differs between completions."""
    return [sum(map(ord, text)) % 101 / 101 for text in completions]


def compare(model: str, rounds: int, folder: Path) -> dict[str, Any]:
    steps = rounds + 4  # the first ends when a side is ready, two warm up, one is ahead of the last
    programs = {}
    for name, staleness in SIDES.items():
        settings = (f"model.path={model}", f"rollout.max_staleness={staleness}", f"train.steps={steps}", *WORK)
        programs[name] = (train, Settings(settings, str(folder / name)))
    with Turns(programs, folder) as turns:
        turns.warm_up(2)
        for _ in range(rounds):
            turns.round()
        in_turn, overlapped = (turns.sides[name] for name in SIDES)
        sampling = statistics.fmean(report["seconds_wait"] for report in in_turn.reports)
        training = statistics.fmean(report["seconds_train"] + report["seconds_sync"] for report in in_turn.reports)
        seconds = {name: spread(side.seconds) for name, side in turns.sides.items()}
        staleness = statistics.fmean(report.get("staleness", 0.0) for report in overlapped.reports)
    longer = max(sampling, training)
    return {
        "sampling": sampling,
        "training": training,
        "step": seconds["overlapped"],
        "ratio": spread([one / longer for one in overlapped.seconds]),
        "mean_ratio": statistics.fmean(overlapped.seconds) / longer,
        "in_turn": seconds["in_turn"]["median"] / longer,
        "staleness": staleness,
        "rounds": rounds,
    }


def shown(found: Mapping[str, Any]) -> str:
    return (
        f"sampling alone {found['sampling']:.2f} s, training and sync alone {found['training']:.2f} s; "
        f"a step that overlaps them {found['step']['median']:.2f} s: {found['mean_ratio']:.2f} of the longer "
        f"[{found['ratio']['low']:.2f}, {found['ratio']['high']:.2f}]; in turn {found['in_turn']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="SmolLM2-135M-Instruct")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments.model, arguments.rounds, Path(folder))
    print(shown(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
