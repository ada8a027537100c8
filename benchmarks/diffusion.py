"""What a masked diffusion model learns with exact ratios, with d1's estimate, and with random rewards, over seeds.

    python -m benchmarks.diffusion FOLDER [--seeds 5] [--only exact|d1|random ...]

Every run is the recipe `tiny_diffusion_cpu` with the settings of its variant, in FOLDER/VARIANT-SEED, one after the
other in this process; one that is finished there is not run again. Prints the table of docs/results.md: means over
seeds with 95% intervals of Student's t.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.algorithms import mean_interval
from benchmarks.performance import table
from recipes.jobs.train import run
from recipes.schema.load import load_recipe

RECIPE = "tiny_diffusion_cpu"
ONE_PASS = ("rollout.diffusion.likelihood=one_pass", "train.correction=none")
VARIANTS: dict[str, tuple[str, ...]] = {
    "exact": (),
    "d1": ONE_PASS,
    "d1, by confidence": (*ONE_PASS, "rollout.diffusion.order=confidence"),
    "random": ("train.control=random",),
}


def summary(folder: Path, variant: str, seed: int) -> dict[str, Any]:
    """Of the run, which is made where it is not there."""
    output = folder / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    if not (output / "summary.json").is_file():
        shutil.rmtree(output, ignore_errors=True)
        settings = [*VARIANTS[variant], f"train.seed={seed}"]
        run(load_recipe(RECIPE, settings), RECIPE, output, resume=False, overrides=settings)
    found: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return found


def row(variant: str, found: Sequence[dict[str, Any]]) -> list[str]:
    before, after = ([one[when]["accuracy"] for one in found] for when in ("before", "after"))
    cells = [f"{mean:.1%} [{low:.1%}, {high:.1%}]" for mean, low, high in (mean_interval(before), mean_interval(after))]
    seconds = sorted(one["wall_seconds"] for one in found)
    return [
        variant,
        *cells,
        f"{min(after):.1%} to {max(after):.1%}",
        str(len(found)),
        f"{seconds[len(seconds) // 2]:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the runs")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N-1 (default 5)")
    parser.add_argument("--only", action="append", choices=VARIANTS, help="these variants alone; may be repeated")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):  # what is stopped early has all variants with fewer seeds
        for variant in arguments.only or VARIANTS:
            found.setdefault(variant, []).append(summary(arguments.folder, variant, seed))
    head = ["variant", "before", "after", "range after", "seeds", "seconds, median"]
    print(table(head, [row(variant, runs) for variant, runs in found.items()]))


if __name__ == "__main__":
    main()
