"""Memory of each trainer process, at 1, 2 and 4 of them.

    python -m benchmarks.processes [--model DIR | --shape NAME] [--processes 1 2 4] [--tokens N] [--json FILE]

The trainer alone (`grpo.policy.learner`), started by torchrun as a run starts it, in fp32, on the same stored rollouts
at every number (those of benchmarks/train_step.py) and in micro-batches of 2,312 tokens, so that what a micro-batch
takes stays and what is sharded shrinks. Of each process: the memory that it has to itself (RssAnon, see
benchmarks/memory.py), at its highest while the model is loaded and while two steps are trained, and between steps:
weights, moments, gradients, and what the allocator keeps. Random weights (`--shape`) take as much as trained ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import GIB, Peak, private
from benchmarks.random_model import SHAPES, write_model

STEPS = 2
STAGES = ("loading", "training", "held")


def measure(model: str, processes: int, tokens: int, folder: Path) -> list[dict[str, float]]:
    """GiB by stage, of each process."""
    where = folder / str(processes)
    where.mkdir()
    (where / "settings.json").write_text(json.dumps({"model": model, "tokens": tokens}))
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    line = [sys.executable, *agent, "-m", "benchmarks.processes", "--rank", str(where)]
    subprocess.run(line, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})
    return [json.loads((where / f"{rank}.json").read_text()) for rank in range(processes)]


def rank(folder: Path) -> None:
    """One process of the trainer."""
    import torch
    from transformers import AutoConfig

    from benchmarks.train_step import GROUP, LEARNING_RATE, MEAN, PROMPT, train_batch
    from benchmarks.workload import Work, mixed_lengths
    from grpo.config import GRPOConfig, ModelSettings
    from grpo.policy.learner import Learner
    from grpo.policy.load import load_model, load_skeleton
    from grpo.policy.shard.ranks import ALONE, joined

    settings = json.loads((folder / "settings.json").read_text())
    own, cpu = os.getpid(), torch.device("cpu")

    def train() -> None:
        n_groups = max(1, round(settings["tokens"] / (MEAN * GROUP)))
        vocabulary = AutoConfig.from_pretrained(settings["model"]).vocab_size
        batch = train_batch(Work(vocabulary, PROMPT, mixed_lengths(n_groups, GROUP)))
        for step in range(1, STEPS + 1):
            learner.update(step, batch)

    def play(ranks: Any) -> None:
        nonlocal learner
        model = ModelSettings(path=settings["model"], dtype="float32")
        longest = round(PROMPT + GROUP * MEAN)  # a group of the mean length
        config = GRPOConfig(learning_rate=LEARNING_RATE, correction="none", tokens_per_micro_batch=longest)
        with Peak(lambda: private(own)) as loading:
            policy = load_model(model, cpu) if ranks.rank == 0 else load_skeleton(model)
            learner = Learner(config, 1.0, policy, ranks=ranks, device=cpu)
        with Peak(lambda: private(own)) as training:
            if ranks.rank == 0:
                train()
                ranks.dismiss()
            else:
                learner.follow()
        found = {"loading": loading.bytes, "training": training.bytes, "held": private(own)}
        (folder / f"{ranks.rank}.json").write_text(json.dumps({name: n / GIB for name, n in found.items()}))

    learner: Any = None
    if os.environ["WORLD_SIZE"] == "1":
        play(ALONE)
    else:
        with joined(cpu) as ranks:
            play(ranks)


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """By number of processes: rank 0 and the largest of the others at each stage, and all together while training."""
    made = []
    for processes, ranks in found["ranks"].items():
        cells = [processes]
        for stage in STAGES:
            others = [one[stage] for one in ranks[1:]]
            cells.append(f"{ranks[0][stage]:.2f}" + (f" / {max(others):.2f}" if others else ""))
        made.append([*cells, f"{sum(one['training'] for one in ranks):.2f}"])
    return made


STAGE_HEADS = ("loading", "in a step", "between steps")
HEAD = ("processes", *(f"{name}, GiB: first / other" for name in STAGE_HEADS), "all, in a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="SmolLM2-135M-Instruct; else random weights")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--tokens", type=int, default=8448, help="of all completions of a step, about")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments.rank)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), arguments.model
        if not model:
            model = str(folder / "model")
            write_model(arguments.shape, Path(model), "float32")
        counts: Sequence[int] = arguments.processes
        ranks = {str(count): measure(model, count, arguments.tokens, folder) for count in counts}
    found = {
        "model": arguments.model or f"{arguments.shape}, random weights",
        "tokens": arguments.tokens,
        "ranks": ranks,
    }
    for line in (HEAD, *rows(found)):
        print(" | ".join(line))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
