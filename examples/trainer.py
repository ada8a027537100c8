"""`GRPOTrainer` without the command, in an event loop of your own. 15 seconds on 2 cores.

    python examples/trainer.py [FOLDER]

In a notebook, whose loop runs already, the last line is `summary = await trainer.train()`.
"""

import asyncio
import random
import sys

from grpo import GRPOConfig, GRPOTrainer
from grpo.config import ModelSettings, RolloutSettings
from recipes.schema.load import TINY


def brevity(completions: list[str], **columns):
    """A function is called in this process; a reward that may hang or crash is named: file.py:function."""
    return [min(1.0, max(0.0, (90 - len(text)) / 60)) for text in completions]


def sums(n: int, seed: int) -> list[dict]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(10, 60), draw.randrange(10, 40)) for _ in range(n)]
    return [{"question": f"{a}+{b}", "answer": str(a + b)} for a, b in pairs]


def trainer(folder: str) -> GRPOTrainer:
    return GRPOTrainer(
        model_settings=ModelSettings(path=str(TINY), dtype="float32"),
        rewards=["accuracy", brevity],
        prompts=sums(200, seed=0),
        template="{question}=<think>",
        run_dir=folder,
        config=GRPOConfig(steps=3, learning_rate=2e-4),
        rollout=RolloutSettings(engine="transformers", group_size=8, prompts_per_step=8, max_tokens=48),
    )


if __name__ == "__main__":
    summary = asyncio.run(trainer(sys.argv[1] if sys.argv[1:] else "runs/trainer").train())
    print(summary["steps"], "steps in", round(summary["wall_seconds"]), "s")
