"""What losses, adapters and staleness do on the built-in model: held-out accuracy by step, over seeds.

    python -m benchmarks.algorithms FOLDER [--seeds 5] [--jobs 2] [--only losses|adapters|staleness]

Every run is the demo (recipes/tiny_arithmetic_cpu.yaml, 24 steps of 16 prompts x 16 completions) with the settings of
its variant, in FOLDER/VARIANT-SEED; one that is finished there is not run again, one that was stopped goes on. Those
of `staleness` sample from a vLLM server of their own, one core for it and one for the trainer; the others sample in
process. Afterwards the tables and the plot in docs/results.md are written.

A mean over seeds stands with its 95% interval of Student's t: seeds are the independent units, and each draws its own
problems, held-out ones too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.performance import DOCS, replaced, table
from eval.stats import student

RECIPE = "tiny_arithmetic_cpu"
STEPS = 24
COMMON = (f"train.steps={STEPS}", "train.eval_every=6", "train.threads=1", "train.checkpoint_every=6")
IN_PROCESS = ("rollout.engine=transformers",)
SERVED = ("rollout.engine=vllm", "rollout.server.threads=1")
UNCORRECTED = ("train.correction=none", "train.stale_correction=none")
# Two updates a batch: with one, every ratio is 1 and no clip is ever at work.
TWICE = ("train.updates_per_batch=2",)
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "losses": {
        loss: (*IN_PROCESS, *TWICE, f"train.loss={loss}") for loss in ("grpo", "dr_grpo", "dapo", "cispo", "gspo")
    },
    "adapters": {
        "full": IN_PROCESS,
        "LoRA": (*IN_PROCESS, "model.lora={r: 16, alpha: 32}", "train.learning_rate=2e-3"),
    },
    "staleness": {
        "0": SERVED,
        "0, uncorrected": (*SERVED, *UNCORRECTED),
        "1": (*SERVED, "rollout.max_staleness=1"),
        "1, uncorrected": (*SERVED, "rollout.max_staleness=1", *UNCORRECTED),
        "4": (*SERVED, "rollout.max_staleness=4"),
        "4, uncorrected": (*SERVED, "rollout.max_staleness=4", *UNCORRECTED),
    },
}
HEADS = {"losses": "loss", "adapters": "weights", "staleness": "staleness, at most"}


def place(folder: Path, group: str, variant: str, seed: int) -> Path:
    return folder / f"{group}-{variant.replace(', ', '-')}-{seed}"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def finished(run: Path) -> bool:
    return any(line["step"] == STEPS for line in lines(run / "evaluations.jsonl"))


def train(run: Path, settings: Sequence[str], seed: int) -> None:
    """Runs the recipe, or goes on with it. Raises CalledProcessError; what was printed is in RUN.log."""
    words = [str(Path(sys.executable).with_name("zero")), "run", RECIPE, "--output", str(run)]
    if (run / "checkpoints").is_dir():
        words.append("--resume")
    elif run.exists():  # stopped before anything was saved
        shutil.rmtree(run)
    words += [word for setting in (*COMMON, *settings, f"train.seed={seed}") for word in ("--set", setting)]
    with open(f"{run}.log", "a") as log:
        subprocess.run(words, check=True, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    print(f"{run.name}: {lines(run / 'evaluations.jsonl')[-1]['accuracy']:.1%}", flush=True)


# -- tables -----------------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of shares and its t interval, within 0..1. Example: mean_interval([0.9, 0.94]) = (0.92, 0.666, 1.0)"""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, 0.0, 1.0
    margin = student.quantile(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, max(0.0, mean - margin), min(1.0, mean + margin)


def curves(folder: Path, group: str) -> dict[str, dict[int, list[float]]]:
    """Accuracies of the finished runs, one a seed, by variant and step."""
    found: dict[str, dict[int, list[float]]] = {}
    for variant in VARIANTS[group]:
        for run in runs(folder, group, variant):
            for line in lines(run / "evaluations.jsonl"):
                found.setdefault(variant, {}).setdefault(line["step"], []).append(line["accuracy"])
    return found


def runs(folder: Path, group: str, variant: str) -> Iterator[Path]:
    stem = place(folder, group, variant, 0).name.removesuffix("0")
    return (run for run in sorted(folder.glob(f"{stem}[0-9]*")) if run.is_dir() and finished(run))


def group_table(folder: Path, group: str, found: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    steps = sorted(next(iter(found.values())))
    rows = []
    for variant, by_step in found.items():
        cells = [f"{mean:.1%} [{low:.1%}, {high:.1%}]" for mean, low, high in map(mean_interval, by_step.values())]
        row = [variant, *cells, f"{min(by_step[STEPS]):.1%} to {max(by_step[STEPS]):.1%}", str(len(by_step[STEPS]))]
        if group == "staleness":
            metrics = [line for run in runs(folder, group, variant) for line in lines(run / "metrics.jsonl")]
            row.append(f"{statistics.fmean(line['staleness'] for line in metrics):.2f}")
        rows.append(row)
    head = [HEADS[group], *(f"step {step}" for step in steps), f"range at {STEPS}", "seeds"]
    return table([*head, "mean staleness"] if group == "staleness" else head, rows)


def plot(found: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.2), layout="constrained", squeeze=False)
    for axis, (group, variants) in zip(axes[0], found.items(), strict=True):
        for variant, by_step in variants.items():
            means, lows, highs = zip(*map(mean_interval, by_step.values()), strict=True)
            (drawn,) = axis.plot(list(by_step), means, marker="o", markersize=3, label=variant)
            axis.fill_between(list(by_step), lows, highs, alpha=0.1, color=drawn.get_color())
        axis.set(title=group, xlabel="step", ylabel="held-out accuracy", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# -- the command ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the runs")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N-1 (default 5)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at once (default 2)")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="these variants alone; may be repeated")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # By seed first: what is stopped early has all variants with fewer seeds.
    wanted = [
        (run, settings, seed)
        for group in arguments.only or VARIANTS
        for seed in range(arguments.seeds)
        for variant, settings in VARIANTS[group].items()
        if not finished(run := place(arguments.folder, group, variant, seed))
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda one: train(*one), wanted))
    found = {group: made for group in VARIANTS if (made := curves(arguments.folder, group))}
    page = DOCS / "results.md"
    texts = {group: group_table(arguments.folder, group, found[group]) for group in found}
    page.write_text(replaced(page.read_text(), texts))
    plot(found, DOCS / "algorithms.png")
    print(f"{page}: {', '.join(found)}")


if __name__ == "__main__":
    main()
