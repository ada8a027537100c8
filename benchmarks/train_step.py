"""The training step alone, ours and TRL's alternately in one run, on identical stored rollouts.

    python -m benchmarks.train_step [--model DIR | --shape NAME] [--tokens N] [--calibrate] [--json FILE]
    python -m benchmarks.train_step --sweep length|group [--model DIR | --shape NAME] [--tokens N] [--json FILE]

The rollouts: prompts of 200 random tokens, groups of 8, completions of 16 to 512, half of each group rewarded, so that
no group is without advantage. Loss: plain GRPO. Ours is `PolicyUpdate.run`, packing included. TRL's is its trainer's
whole step with a `rollout_func` that hands over the same rollouts: padding as TRL pads, forward, backward, clip and
AdamW; weights in bf16, no autocast, no checkpointing, and the micro-batch that `--calibrate` finds fastest. Both sides'
loss and gradient norm of the first step are given beside the times, as proof of equal work.

Each side is a process of its own, stopped while the other has its turn (benchmarks/turns.py). `speedup` is TRL's
seconds over ours, pair by pair; `memory` our peak over TRL's, after the warm-up. Utilisation is model FLOPs (counted
as in benchmarks/workload.py) over seconds over the bf16 ceiling of benchmarks/matmul.py.

The sweeps are of our side alone: completions of 256 to 4,096 tokens with as many of them as make the same number of
tokens, and groups of 4 to 32 with as many groups. A GPU is used where there is one; `--micro-batch` is for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.matmul import ceiling
from benchmarks.random_model import SHAPES, write_model
from benchmarks.turns import Baton, Side, Turns, ratios
from benchmarks.workload import Work, body_parameters, mixed_lengths, model_flops

PROMPT, GROUP = 200, 8
MEAN = (16 + 512) / 2  # tokens of a completion
LENGTHS = (256, 512, 1024, 2048, 4096)
GROUPS = (4, 8, 16, 32)
BATCHES = (2, 4, 8, 16, 32)
LEARNING_RATE = 1e-6
WARM_UP = 1


@dataclass(frozen=True)
class Settings:
    """What a side's process is told."""

    model: str  # folder
    work: Work
    dtype: str = "bfloat16"
    tokens_per_micro_batch: int = 8192  # ours
    batch: int = 8  # TRL's completions a micro-batch
    steps: int = 1000  # more than are asked for


# -- ours -------------------------------------------------------------------------------------------------------------


def ours(baton: Baton, settings: Settings) -> None:
    import torch

    from grpo.config import GRPOConfig, ModelSettings
    from grpo.policy.load import load_model
    from grpo.policy.optim import MasterAdamW
    from grpo.policy.policy import Policy
    from grpo.policy.update import PolicyUpdate

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(ModelSettings(path=settings.model, dtype=settings.dtype), device)
    config = GRPOConfig(
        learning_rate=LEARNING_RATE, correction="none", tokens_per_micro_batch=settings.tokens_per_micro_batch
    )
    update = PolicyUpdate(config, 1.0, Policy(model), MasterAdamW(model.parameters()))
    batch = train_batch(settings.work)
    for step in range(1, settings.steps + 1):
        metrics = update.run(step, batch)
        if device == "cuda":
            torch.cuda.synchronize()
        baton.pass_on(metrics)


def train_batch(work: Work) -> Any:
    """The rollouts as our training step takes them. Plain GRPO weighs a token by 1 / (completions x its length)."""
    from grpo.policy.update import TrainBatch
    from grpo.types import Sample

    rollouts = [one for group in work.groups for one in group]
    samples = [Sample(r.prompt_ids, r.completion_ids, (0.0,) * len(r.completion_ids), r.advantage) for r in rollouts]
    return TrainBatch(samples, [1 / (len(rollouts) * len(r.completion_ids)) for r in rollouts])


# -- TRL's ------------------------------------------------------------------------------------------------------------


def theirs(baton: Baton, settings: Settings) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype)).to(device)
    trl_trainer(settings, model, AutoTokenizer.from_pretrained(settings.model), baton.pass_on).train()


def trl_trainer(settings: Settings, model: Any, tokenizer: Any, finish: Any) -> Any:
    """TRL's trainer on the stored rollouts; `finish(metrics)` is called after each step."""
    import trl
    from datasets import Dataset

    from recipes.jobs.trl_trainer import StepEnd, TimedTrainer

    groups = settings.work.groups
    rollouts = [one for group in groups for one in group]

    def stored(prompts: list[str], _: Any) -> dict[str, Any]:
        assert [int(prompt) for prompt in prompts] == [i for i, group in enumerate(groups) for _ in group]
        return {
            "prompt_ids": [list(one.prompt_ids) for one in rollouts],
            "completion_ids": [list(one.completion_ids) for one in rollouts],
            "logprobs": None,
        }

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [one.reward for one in rollouts]

    def finish_step(step: int, seconds: float, logs: Any) -> None:
        parts = {f"seconds_{part}": value for part, value in trainer.take_seconds().items()}
        finish({"loss": logs["loss"], "grad_norm": logs["grad_norm"], **parts})

    trainer = TimedTrainer(
        model=model,
        reward_funcs=reward,
        args=trl.GRPOConfig(**trl_arguments(settings)),
        train_dataset=Dataset.from_list(
            [{"prompt": str(i)} for _ in range(settings.steps) for i in range(len(groups))]
        ),
        processing_class=tokenizer,
        rollout_func=stored,
        callbacks=[StepEnd(finish_step)],
    )
    return trainer


def trl_arguments(settings: Settings) -> dict[str, Any]:
    import torch

    completions = sum(map(len, settings.work.lengths))
    return {
        "output_dir": str(Path(tempfile.gettempdir()) / "train_step-trl"),  # nothing is written there
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": completions // settings.batch,
        "num_generations": len(settings.work.lengths[0]),
        "max_completion_length": max(map(max, settings.work.lengths)),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "loss_type": "grpo",
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "bf16": False,  # no autocast: the weights have the dtype themselves
        "use_cpu": not torch.cuda.is_available(),
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """The folder, and what utilisation needs."""

    folder: str
    config: Any
    body: int
    ceiling: float  # operations a second

    def utilisation(self, work: Work, seconds: float) -> float:
        return model_flops(self.config, self.body, work) / seconds / self.ceiling


def describe(folder: str) -> Model:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    return Model(folder, config, body_parameters(config), ceiling("bfloat16")[0])


def summed_up(side: Side, model: Model, work: Work) -> dict[str, Any]:
    seconds = statistics.median(side.seconds)
    names = sorted({name for report in side.reports for name in report if name.startswith("seconds_")})
    peak = side.peak_gib()
    return {
        "seconds": seconds,
        "step_seconds": side.seconds,
        "parts": {
            name.removeprefix("seconds_"): statistics.median(report[name] for report in side.reports) for name in names
        },
        "tokens_per_second": work.tokens / seconds,
        "peak_gib": peak.get("gpu", peak["process"]),
        "utilisation": model.utilisation(work, seconds),
    }


def compare(arguments: argparse.Namespace, model: Model, folder: Path) -> dict[str, Any]:
    work = Work(model.config.vocab_size, PROMPT, mixed_lengths(mixed_groups(arguments.tokens), GROUP))
    settings = Settings(model.folder, work, tokens_per_micro_batch=arguments.micro_batch, batch=arguments.trl_batch)
    calibrated = calibrate(settings, folder) if arguments.calibrate else {}
    if calibrated:
        settings = replace(settings, batch=min(calibrated, key=lambda batch: calibrated[batch]))
    with Turns({"ours": (ours, settings), "trl": (theirs, settings)}, folder) as turns:
        first = {name: {key: side.first[key] for key in ("loss", "grad_norm")} for name, side in turns.sides.items()}
        turns.warm_up(WARM_UP)
        for _ in range(arguments.rounds):
            turns.round()
        sides = {name: {**summed_up(side, model, work), **first[name]} for name, side in turns.sides.items()}
        speedup = ratios(turns.sides["trl"].seconds, turns.sides["ours"].seconds)
    return {
        "speedup": speedup,
        "memory": sides["ours"]["peak_gib"] / sides["trl"]["peak_gib"],
        **sides,
        **about(work, model),
        "trl_batch": settings.batch,
        "calibration": calibrated,
        "rounds": arguments.rounds,
    }


def mixed_groups(tokens: int) -> int:
    """Groups of mixed lengths that make about so many tokens; a multiple of 4, so that 32 divides their completions."""
    groups = tokens / (GROUP * MEAN)
    return max(1, round(groups) if groups < 4 else 4 * round(groups / 4))


def about(work: Work, model: Model) -> dict[str, Any]:
    return {
        "tokens": work.tokens,
        "completions": sum(map(len, work.lengths)),
        "flops": model_flops(model.config, model.body, work),
        "ceiling": model.ceiling,
    }


def calibrate(settings: Settings, folder: Path) -> dict[int, float]:
    """Seconds of TRL's second step by its micro-batch."""
    found = {}
    completions = sum(map(len, settings.work.lengths))
    for batch in (batch for batch in BATCHES if completions % batch == 0):
        try:
            with Turns({f"trl-{batch}": (theirs, replace(settings, batch=batch))}, folder) as turns:
                turns.round()
                found[batch] = turns.sides[f"trl-{batch}"].seconds[0]
            print(f"TRL with {batch} completions a micro-batch: {found[batch]:.1f} s", flush=True)
        except RuntimeError as error:  # out of memory, say
            print(f"TRL with {batch} completions a micro-batch: {error}", flush=True)
    return found


# -- sweeps of our side -----------------------------------------------------------------------------------------------


def sweep_work(name: str, tokens: int, vocabulary: int) -> Iterator[tuple[int, Work]]:
    """(value, work): the same number of tokens at each length; of groups, the same number at each size."""
    if name == "length":
        for length in LENGTHS:
            groups = max(1, round(tokens / (GROUP * length)))
            yield length, Work(vocabulary, PROMPT, ((length,) * GROUP,) * groups)
    else:
        for size in GROUPS:
            yield size, Work(vocabulary, PROMPT, mixed_lengths(mixed_groups(tokens), size))


def sweep(arguments: argparse.Namespace, model: Model, folder: Path) -> dict[str, Any]:
    points = []
    for value, work in sweep_work(arguments.sweep, arguments.tokens, model.config.vocab_size):
        name = f"{arguments.sweep}-{value}"
        settings = Settings(model.folder, work, tokens_per_micro_batch=arguments.micro_batch)
        with Turns({name: (ours, settings)}, folder) as turns:
            turns.warm_up(WARM_UP)
            for _ in range(arguments.rounds):
                turns.round()
            point = {arguments.sweep: value, **about(work, model), **summed_up(turns.sides[name], model, work)}
        point["seconds_per_token"] = point["seconds"] / point["tokens"]
        points.append(point)
        print(
            f"{arguments.sweep} {value}: {point['seconds']:.2f} s, {1e3 * point['seconds_per_token']:.3f} ms a token, "
            f"peak {point['peak_gib']:.2f} GiB, {point['utilisation']:.0%} of the ceiling",
            flush=True,
        )
    return {"sweep": arguments.sweep, "points": points}


# -- the command ------------------------------------------------------------------------------------------------------


def shown(result: dict[str, Any]) -> str:
    rows = [
        ("seconds a step", "seconds", "{:.2f}"),
        ("tokens a second", "tokens_per_second", "{:,.0f}"),
        ("peak GiB", "peak_gib", "{:.2f}"),
        ("of the ceiling", "utilisation", "{:.1%}"),
        ("loss, first step", "loss", "{:.6f}"),
        ("gradient norm", "grad_norm", "{:.4f}"),
    ]
    lines = [
        f"{result['tokens']:,} tokens in {result['completions']} completions; TRL's micro-batch {result['trl_batch']}"
    ]
    lines.append(f"{'':<18}{'ours':>12}{'TRL':>12}")
    for label, key, form in rows:
        lines.append(f"{label:<18}{form.format(result['ours'][key]):>12}{form.format(result['trl'][key]):>12}")
    for part in ("pack", "forward", "backward", "optimizer"):
        cells = [f"{result[side]['parts'].get(part, 0.0):>12.2f}" for side in ("ours", "trl")]
        lines.append(f"  {part:<16}{''.join(cells)}")
    values = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**result["speedup"])
    lines.append(f"TRL / ours: {values}, median and range of {result['rounds']} pairs; memory {result['memory']:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="DIR", help="a checkpoint's folder")
    which.add_argument("--shape", choices=SHAPES, default="smollm2-135m", help="random weights (default smollm2-135m)")
    default = round(4 * GROUP * MEAN)
    parser.add_argument("--tokens", type=int, default=default, help=f"completion tokens, about (default {default})")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side (default 5)")
    parser.add_argument("--micro-batch", type=int, default=8192, metavar="N", help="tokens of ours (default 8192)")
    parser.add_argument("--trl-batch", type=int, default=8, metavar="N", help="completions of TRL's micro-batch")
    parser.add_argument("--calibrate", action="store_true", help=f"choose it: the fastest of {BATCHES}")
    parser.add_argument("--sweep", choices=("length", "group"), help="our side alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train_step-") as name:
        folder = Path(name)
        if not arguments.model:
            write_model(arguments.shape, folder / "model")
        model = describe(arguments.model or str(folder / "model"))
        result = (sweep if arguments.sweep else compare)(arguments, model, folder)
    if not arguments.sweep:
        print(shown(result))
    result["model"] = Path(arguments.model).name if arguments.model else arguments.shape
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
