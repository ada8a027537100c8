"""Whole training steps, ours and TRL's GRPOTrainer alternately in one run, on the same work.

    python -m benchmarks.vs_trl --model DIR [--steps N] [--calibrate] [--json FILE]
    python -m benchmarks.vs_trl --model DIR --learning STEPS [--json FILE]

The work: recipes/smollm2_135m_cpu.yaml with 8 prompts x 8 completions of at most 64 tokens (sums and differences, one
worked example in the prompt). TRL gets the same prompts, rewards, loss and learning rate (`train.backend: trl`) in the
fastest way that runs: weights in bf16, no autocast, no checkpointing, all cores, and the micro-batch that
`--calibrate` finds fastest. Ours is the recipe as it stands; `--set` changes it, and `--both`
changes the work.

Each side is a process of its own with whatever it starts, stopped while the other has its turn (benchmarks/turns.py).
After a warm-up each turn is a step; a ratio is TRL's seconds over ours of one pair of turns. The two sample with
different random numbers and soon have different weights, so their completions differ in length: tokens per second
stand beside the seconds.

--learning trains each side for STEPS and gives held-out accuracy by tokens sampled, from the runs' evaluations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.turns import Baton, Report, Side, Turns, ratios

RECIPE = "smollm2_135m_cpu"
WORK = ["rollout.max_tokens=64", "rollout.group_size=8", "rollout.prompts_per_step=8", "train.checkpoint_every=0"]
LONGEST = 80 + 64  # tokens of a prompt and its completion
BATCHES = (8, 16, 32, 64)
# What a step is made of. TRL samples while it waits, and has nothing to send.
PARTS = ("wait", "reward", "pack", "forward", "backward", "optimizer", "sync", "rest")


@dataclass(frozen=True)
class Settings:
    """What a side's process is told."""

    overrides: tuple[str, ...]
    output: str
    recipe: str = RECIPE


def train(baton: Baton | None, settings: Settings) -> None:
    """`zero run`; the baton is passed on at the end of each step."""
    import recipes.jobs.train
    from recipes.schema.load import load_recipe

    if baton:
        recipes.jobs.train.RunRecorder = _recorder(baton)  # type: ignore[misc]
    recipe = load_recipe(settings.recipe, list(settings.overrides))
    recipes.jobs.train.run(recipe, settings.recipe, Path(settings.output), False)


def _recorder(baton: Baton) -> type:
    from grpo.record.recorder import RunRecorder

    class TurnRecorder(RunRecorder):
        def step(self, step: int, metrics: Mapping[str, float]) -> None:
            super().step(step, metrics)
            baton.pass_on(metrics)

    return TurnRecorder


def learn(baton: Baton, settings: Settings) -> None:
    train(None, settings)
    baton.pass_on({})


# -- one run of each --------------------------------------------------------------------------------------------------


def overrides(side: str, arguments: argparse.Namespace, steps: int, *more: str) -> tuple[str, ...]:
    """The recipe of a side. TRL's micro-batch is a number of completions: so many as that many padded tokens hold."""
    common = [f"model.path={arguments.model}", *WORK, *arguments.both, f"train.steps={steps}", *more]
    if side == "trl":
        return (*common, "train.backend=trl", f"train.tokens_per_micro_batch={arguments.trl_batch * LONGEST}")
    return (*common, *arguments.set)


def programs(arguments: argparse.Namespace, folder: Path, steps: int) -> dict[str, tuple[Any, Settings]]:
    few = ("eval.problems=8", "train.eval_every=0")  # an evaluation is no part of a step
    return {
        side: (train, Settings(overrides(side, arguments, steps, *few), str(folder / side), arguments.recipe))
        for side in ("ours", "trl")
    }


def calibrate(arguments: argparse.Namespace, folder: Path) -> dict[int, float]:
    """Median seconds of TRL's step by its micro-batch, after one step of warm-up."""
    found = {}
    for batch in BATCHES:
        arguments.trl_batch = batch
        place = folder / f"batch-{batch}"
        place.mkdir()
        try:
            with Turns({"trl": programs(arguments, place, 4)["trl"]}, place) as turns:
                turns.round(2)
                found[batch] = statistics.median(turns.sides["trl"].seconds)
            print(f"TRL with {batch} completions a micro-batch: {found[batch]:.1f} s a step", flush=True)
        except RuntimeError as error:  # out of memory, say
            print(f"TRL with {batch} completions a micro-batch: {error}", flush=True)
    arguments.trl_batch = min(found, key=lambda batch: found[batch])
    print(f"chosen: {arguments.trl_batch}", flush=True)
    return found


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    calibrated = calibrate(arguments, folder) if arguments.calibrate else {}
    steps = 1 + arguments.warm_up + arguments.steps + 1  # the first one is over when a side is ready
    with Turns(programs(arguments, folder, steps), folder) as turns:
        turns.warm_up(arguments.warm_up)
        for _ in range(arguments.steps):
            turns.round()
        ours, theirs = turns.sides["ours"], turns.sides["trl"]
        result = {name: summed_up(side) for name, side in turns.sides.items()}
    rates = {name: [one["tokens"] / s for one, s in zip(side.reports, side.seconds, strict=True)]
             for name, side in (("ours", ours), ("trl", theirs))}  # fmt: skip
    return {
        "speedup": ratios(theirs.seconds, ours.seconds),
        "speedup_per_token": ratios(rates["ours"], rates["trl"]),
        "memory": result["ours"]["peak_gib"]["all"] / result["trl"]["peak_gib"]["all"],
        **result,
        "trl_batch": arguments.trl_batch,
        "calibration": calibrated,
        "both": arguments.both,
        "set": arguments.set,
        "steps": arguments.steps,
    }


def summed_up(side: Side) -> dict[str, Any]:
    """Medians over the turns; `step_seconds` is every turn."""
    tokens = [report["tokens"] for report in side.reports]
    return {
        "seconds": statistics.median(side.seconds),
        "step_seconds": side.seconds,
        "parts": parts(side.reports, side.seconds),
        "tokens": statistics.median(tokens),
        "tokens_per_second": sum(tokens) / sum(side.seconds),
        "zero_variance_groups": statistics.fmean(report["zero_variance_groups"] for report in side.reports),
        "peak_gib": side.peak_gib(),
    }


def parts(reports: Sequence[Report], seconds: Sequence[float]) -> dict[str, float]:
    """Mean seconds of each part; `rest` is what the turn took beyond the others."""
    means = {name: _mean([report.get(f"seconds_{name}") or 0.0 for report in reports]) for name in PARTS[:-1]}
    return {**means, "rest": _mean(seconds) - sum(means.values())}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


# -- learning curves --------------------------------------------------------------------------------------------------


def learning(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    if arguments.calibrate:
        calibrate(arguments, folder)
    steps = arguments.learning
    found = {}
    for side in ("ours", "trl"):
        more = (f"train.eval_every={max(1, steps // 4)}",)
        settings = Settings(overrides(side, arguments, steps, *more), str(folder / side), arguments.recipe)
        with Turns({side: (learn, settings)}, folder):
            found[side] = curve(folder / side)
        print(f"{side}: {found[side][-1]['accuracy']:.1%} after {found[side][-1]['tokens']:,} tokens", flush=True)
    return {"steps": steps, **found}


def curve(run: Path) -> list[dict[str, float]]:
    """Held-out accuracy by step and by tokens sampled up to it."""
    lines = {name: [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
             for name in ("metrics", "evaluations")}  # fmt: skip
    tokens = [0, *accumulate(line["tokens"] for line in lines["metrics"])]
    seconds = [0.0, *accumulate(line["seconds"] for line in lines["metrics"])]
    return [
        {
            "step": one["step"],
            "tokens": tokens[one["step"]],
            "seconds": seconds[one["step"]],
            **{key: one[key] for key in ("accuracy", "low", "high", "n")},
        }
        for one in lines["evaluations"]
    ]


# -- the command ------------------------------------------------------------------------------------------------------


def shown(result: Mapping[str, Any]) -> str:
    rows = [("seconds a step", "seconds", "{:.2f}"), ("tokens a second", "tokens_per_second", "{:,.0f}")]
    lines = [f"{'':<18}{'ours':>10}{'TRL':>10}"]
    for label, key, form in rows:
        lines.append(f"{label:<18}{form.format(result['ours'][key]):>10}{form.format(result['trl'][key]):>10}")
    for name in PARTS:
        lines.append(f"  {name:<16}{result['ours']['parts'][name]:>10.2f}{result['trl']['parts'][name]:>10.2f}")
    for name in ("process", "all"):
        cells = [f"{result[side]['peak_gib'][name]:>10.2f}" for side in ("ours", "trl")]
        lines.append(f"{'peak GiB, ' + name:<18}{''.join(cells)}")
    for key, of in (("speedup", "seconds"), ("speedup_per_token", "seconds per token")):
        values = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**result[key])
        lines.append(f"TRL / ours, {of}: {values}, median and range of {result['steps']} pairs")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint's folder, or tiny")
    parser.add_argument("--recipe", default=RECIPE, help="another recipe's file or name")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps of each side (default 5)")
    parser.add_argument("--warm-up", type=int, default=1, metavar="N", help="untimed ones after the first (default 1)")
    parser.add_argument("--trl-batch", type=int, default=16, metavar="N", help="completions of TRL's micro-batch")
    parser.add_argument("--calibrate", action="store_true", help=f"choose it: the fastest of {BATCHES}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our side's recipe")
    parser.add_argument("--both", action="append", default=[], metavar="KEY=VALUE", help="of both sides' recipe")
    parser.add_argument("--learning", type=int, metavar="STEPS", help="learning curves instead of times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vs_trl-") as folder:
        result = (learning if arguments.learning else compare)(arguments, Path(folder))
    if not arguments.learning:
        print(shown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
