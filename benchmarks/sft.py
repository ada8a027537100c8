"""A step of supervised fine-tuning, ours and TRL's SFTTrainer alternately in one run, on identical rows.

    python -m benchmarks.sft --model DIR [--rows N] [--rounds R] [--packed] [--autocast] [--json FILE]

The rows: prompts of 32 to 256 random tokens, completions of 16 to 1,024, each with its end; lengths as they are met in
samples of a reasoning model, many short and some long. The loss is on the completions alone. Ours is `PolicyUpdate.run`
with the cross-entropy, packed. TRL's is its trainer's whole step: padded, in the micro-batch that is found fastest
(--packed: its own packing, `packing_strategy="bfd"`), weights in bf16, no autocast (--autocast: weights in fp32 as our
masters are, computed in bf16), no checkpointing, AdamW. The loss and gradient norm of both sides' first step are given
beside the times: padded they are equal, as proof of equal work.

Each side is a process of its own, stopped while the other has its turn (benchmarks/turns.py). `speedup` is TRL's
seconds over ours, pair by pair; `memory` our peak over TRL's, after the warm-up.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.turns import Baton, Turns, ratios

BATCHES = (1, 2, 4, 8, 16)
LEARNING_RATE = 1e-6
WARM_UP = 1
LENGTHS = ((32, 256), (16, 1024))  # tokens of a prompt, of a completion


@dataclass(frozen=True)
class Settings:
    """What a side's process is told."""

    model: str  # folder
    rows: int
    dtype: str = "bfloat16"
    batch: int = 4  # TRL's rows a micro-batch
    packed: bool = False  # TRL's side
    autocast: bool = False  # TRL's side: fp32 weights
    steps: int = 1000  # more than are asked for


def rows(settings: Settings) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of each row, the same in both processes."""
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(settings.model).get_text_config().vocab_size
    draw = random.Random(0)

    def tokens(low: int, high: int) -> list[int]:
        n = round(low * (high / low) ** draw.random())  # log-uniform
        return [draw.randrange(vocabulary) for _ in range(n)]

    return [(tokens(*LENGTHS[0]), tokens(*LENGTHS[1])) for _ in range(settings.rows)]


def ours(baton: Baton, settings: Settings) -> None:
    from grpo.config import GRPOConfig, ModelSettings
    from grpo.losses.cross_entropy import CrossEntropy
    from grpo.policy.load import load_model
    from grpo.policy.optim import MasterAdamW
    from grpo.policy.policy import Policy
    from grpo.policy.update import PolicyUpdate, TrainBatch
    from grpo.types import Sample

    model = load_model(ModelSettings(path=settings.model, dtype=settings.dtype), "cpu")
    config = GRPOConfig(learning_rate=LEARNING_RATE, correction="none", tokens_per_micro_batch=4096)
    optimizer = MasterAdamW(model.parameters())
    update = PolicyUpdate(config, 1.0, Policy(model), optimizer, objective=CrossEntropy())
    pairs = rows(settings)
    samples = [Sample(tuple(prompt), tuple(answer), (0.0,) * len(answer), 0.0) for prompt, answer in pairs]
    n = sum(len(answer) for _, answer in pairs)
    for step in range(1, settings.steps + 1):
        baton.pass_on(update.run(step, TrainBatch(samples, [1 / n] * len(samples))))


def theirs(baton: Baton, settings: Settings) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class StepEnd(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                baton.pass_on({"loss": logs["loss"], "grad_norm": logs["grad_norm"]})

    pairs = rows(settings)
    data = [
        {"input_ids": [*prompt, *answer], "completion_mask": [0] * len(prompt) + [1] * len(answer)}
        for prompt, answer in pairs
    ]
    dtype = torch.float32 if settings.autocast else getattr(torch, settings.dtype)
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    longest = max(len(one["input_ids"]) for one in data)
    packing = {"packing": True, "padding_free": False} if settings.packed else {}
    config = SFTConfig(
        output_dir=str(Path(tempfile.gettempdir()) / "sft-trl"),  # nothing is written there
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=max(1, settings.rows // settings.batch),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        completion_only_loss=True,
        max_length=longest,
        gradient_checkpointing=False,
        bf16=settings.autocast,  # else the weights have the dtype themselves
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **packing,
    )
    SFTTrainer(
        model,
        config,
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(settings.model),
        callbacks=[StepEnd()],
    ).train()


def calibrate(settings: Settings, folder: Path) -> dict[int, float]:
    """Seconds of TRL's second step by its micro-batch. The first that is slower than the one before ends the search."""
    found = {}
    for batch in (batch for batch in BATCHES if settings.rows % batch == 0):
        name = f"trl-{batch}"
        try:
            with Turns({name: (theirs, replace(settings, batch=batch))}, folder) as turns:
                turns.round()
                found[batch] = turns.sides[name].seconds[0]
            print(f"TRL with {batch} rows a micro-batch: {found[batch]:.1f} s", flush=True)
        except RuntimeError as error:  # out of memory, say
            print(f"TRL with {batch} rows a micro-batch: {error}", flush=True)
            break
        if found[batch] > min(found.values()):
            break
    return found


def compare(settings: Settings, rounds: int, folder: Path) -> dict[str, Any]:
    calibrated = calibrate(settings, folder)
    settings = replace(settings, batch=min(calibrated, key=lambda batch: calibrated[batch]))
    with Turns({"ours": (ours, settings), "trl": (theirs, settings)}, folder) as turns:
        sides: dict[str, dict[str, Any]] = {
            name: {key: side.first[key] for key in ("loss", "grad_norm")} for name, side in turns.sides.items()
        }
        turns.warm_up(WARM_UP)
        for _ in range(rounds):
            turns.round()
        for name, side in turns.sides.items():
            sides[name] |= {"seconds": statistics.median(side.seconds), "peak_gib": side.peak_gib()["process"]}
        speedup = ratios(turns.sides["trl"].seconds, turns.sides["ours"].seconds)
    lengths = [len(prompt) + len(answer) for prompt, answer in rows(settings)]
    return {
        "speedup": speedup,
        "memory": sides["ours"]["peak_gib"] / sides["trl"]["peak_gib"],
        **sides,
        "rows": settings.rows,
        "tokens": sum(lengths),
        "longest": max(lengths),
        "trl_batch": settings.batch,
        "trl_packed": settings.packed,
        "trl_autocast": settings.autocast,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packed", action="store_true", help="TRL packs, too")
    parser.add_argument("--autocast", action="store_true", help="TRL's weights are in fp32, as our masters are")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    settings = Settings(arguments.model, arguments.rows, packed=arguments.packed, autocast=arguments.autocast)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(settings, arguments.rounds, Path(folder))
    for name in ("ours", "trl"):
        print(f"{name}: {found[name]}")
    print("speedup {median:.2f} [{low:.2f}, {high:.2f}]".format(**found["speedup"]), f"memory {found['memory']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
