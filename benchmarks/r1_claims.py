"""What DeepSeek-R1 claims of its stages (arXiv 2501.12948), on the built-in models, over seeds.

    python -m benchmarks.r1_claims FOLDER [--seeds 5] [--plot docs/r1.png]

Every seed is the whole chain `r1_tiny_cpu`, sampled in the trainer's process, in FOLDER/SEED; one that is finished is
not run again, one that was stopped goes on. Prints the tables of docs/r1.md: stages, and for each claim the mean of
the seeds' differences with its 95% interval of Student's t. A seed draws its own problems, held-out ones too.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.algorithms import student
from benchmarks.performance import table

RECIPE = "r1_tiny_cpu"
GIVEN = 0.6  # the held-out accuracy that RL is to reach


class Seed:
    """What one chain measured."""

    def __init__(self, folder: Path):
        self.folder = folder
        rows = json.loads((folder / "summary.json").read_text())["stages"]
        self.stages: Mapping[str, Mapping[str, Any]] = {row["name"]: row for row in rows}

    def after(self, stage: str, measure: str = "accuracy") -> float:
        return _number(self.stages[stage]["after"][measure])

    def before(self, stage: str, measure: str = "accuracy") -> float:
        return _number(self.stages[stage]["before"][measure])

    def lines(self, stage: str, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "stages" / stage / name).read_text().splitlines()]

    def steps_to(self, stage: str, accuracy: float) -> float:
        """The first step at which it was measured so high; inf if never."""
        found = self.lines(stage, "evaluations.jsonl")
        return min((float(one["step"]) for one in found if one["accuracy"] >= accuracy), default=math.inf)

    def tokens(self, stage: str) -> float:
        """Tokens that were trained on."""
        return sum(float(one["trained_tokens"]) for one in self.lines(stage, "metrics.jsonl"))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


CLAIMS: tuple[tuple[str, str, Callable[[Seed], float], str], ...] = (
    ("RL alone raises accuracy", "points", lambda s: 100 * (s.after("r1_zero") - s.before("r1_zero")), "2.2"),
    ("RL alone raises length", "tokens", lambda s: s.after("r1_zero", "length") - s.before("r1_zero", "length"), "2.2"),
    (
        f"a cold start spares RL steps to {GIVEN:.0%}",
        "steps",
        lambda s: s.steps_to("r1_zero", GIVEN) - s.steps_to("reasoning_rl", GIVEN),
        "2.3.1",
    ),
    (
        "after the cold start, RL's thoughts are more readable than RL's alone",
        "points of language",
        lambda s: 100 * (s.after("reasoning_rl", "language") - s.after("r1_zero", "language")),
        "2.3.1",
    ),
    (
        "the language reward mends mixing",
        "points of language",
        lambda s: 100 * (s.after("r1_zero_english", "language") - s.after("r1_zero", "language")),
        "2.3.2",
    ),
    (
        "what it costs",
        "points",
        lambda s: 100 * (s.after("r1_zero_english") - s.after("r1_zero")),
        "2.3.2",
    ),
    (
        "SFT of the base model on its samples keeps what RL gained",
        "points",
        lambda s: 100 * (s.after("sft") - s.after("reasoning_rl")),
        "2.3.3",
    ),
    ("the last RL adds", "points", lambda s: 100 * (s.after("final_rl") - s.after("sft")), "2.3.4"),
    (
        "a distilled student is better than by RL alone",
        "points",
        lambda s: 100 * (s.after("distilled") - s.after("student_rl")),
        "2.4",
    ),
)


def interval(values: Sequence[float], form: str = "+.1f", most: float = math.inf) -> str:
    """Mean [95% interval of Student's t, up to `most`] of what is known in every seed, else in how many it is not."""
    lost = sum(not math.isfinite(value) for value in values)
    if lost:
        return f"not in {lost} of {len(values)} seeds"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:{form}}"
    margin = student.quantile(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:{form}} [{mean - margin:{form}}, {min(mean + margin, most):{form}}]"


def chain(folder: Path, seed: int) -> Seed:
    output = folder / str(seed)
    if not (output / "summary.json").is_file():
        settings = ["rollout.engine=transformers", f"train.seed={seed}"]
        words = [word for setting in settings for word in ("--set", setting)]
        words += ["--resume"] if output.exists() else []
        code = "from recipes.command.main import main; main()"
        subprocess.run([sys.executable, "-c", code, "run", RECIPE, *words, "--output", str(output)], check=True)
    return Seed(output)


def stage_table(seeds: Sequence[Seed]) -> str:
    rows = []
    for name, row in seeds[0].stages.items():
        if "after" not in row:
            continue
        shares = [
            interval([100 * one.after(name, measure) for one in seeds], ".1f", 100)
            for measure in ("accuracy", "language")
        ]
        length = interval([one.after(name, "length") for one in seeds], ".1f")
        tokens = statistics.fmean(one.tokens(name) for one in seeds)
        rows.append([name, row["model"], *shares, length, f"{tokens:,.0f}"])
    return table(["stage", "from", "accuracy, %", "English, %", "length", "tokens trained on"], rows)


def claim_table(seeds: Sequence[Seed]) -> str:
    rows = []
    for claim, unit, measure, section in CLAIMS:
        values = [measure(one) for one in seeds]
        each = ", ".join(f"{value:+.1f}" for value in values)
        rows.append([section, claim, f"{interval(values)} {unit}", each])
    return table(["section", "claim", "measured", "by seed"], rows)


def plot(seeds: Sequence[Seed], path: Path) -> None:
    """Accuracy and language of the four long stages of RL by step: the mean of the seeds, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, measure, label in zip(
        axes, ("accuracy", "language"), ("held-out accuracy", "words in English"), strict=True
    ):
        for stage in ("r1_zero", "r1_zero_english", "reasoning_rl", "student_rl"):
            found = [one.lines(stage, "evaluations.jsonl") for one in seeds]
            steps = [line["step"] for line in found[0]]
            by_step = [[line[measure] for line in at] for at in zip(*found, strict=True)]
            (drawn,) = axis.plot(steps, [statistics.fmean(at) for at in by_step], marker="o", markersize=3, label=stage)
            axis.fill_between(steps, [*map(min, by_step)], [*map(max, by_step)], alpha=0.1, color=drawn.get_color())
        axis.set(xlabel="step", ylabel=label, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the chains")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N-1 (default 5)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves of RL, too")
    arguments = parser.parse_args()
    seeds = [chain(arguments.folder, seed) for seed in range(arguments.seeds)]
    print(f"{stage_table(seeds)}\n\n{claim_table(seeds)}")
    if arguments.plot:
        plot(seeds, arguments.plot)


if __name__ == "__main__":
    main()
