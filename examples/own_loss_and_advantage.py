"""A loss and an advantage of your own, named in a recipe as file:function. 25 seconds on 2 cores.

python examples/own_loss_and_advantage.py [FOLDER]
"""

import statistics
import sys
from pathlib import Path

import recipes


def above_median(groups):
    """An advantage: the reward less the group's median; where most fail, only what succeeds is moved."""
    rewards = [group.total_G for group in groups]  # None where a completion could not be scored
    medians = [statistics.median([r for r in total_G if r is not None] or [0]) for total_G in rewards]
    pairs = zip(rewards, medians, strict=True)
    return [[None if r is None else r - median for r in total_G] for total_G, median in pairs]


def bounded(inputs, limit):
    """A loss: the ratio to the old policy bounded from above, whatever the sign of the advantage."""
    ratio_T = (inputs.logprobs_T - inputs.old_logprobs_T).exp()
    return -ratio_T.clamp(max=limit) * inputs.advantage_T


HERE = str(Path(__file__).resolve())
SETTINGS = {
    "rollout.engine": "transformers",
    "rollout.group_size": 8,
    "rollout.prompts_per_step": 8,
    "train.steps": 3,
    "train.advantage": f"{HERE}:above_median",
    "train.loss": f"{HERE}:bounded",
    "train.loss_args": {"limit": 1.5},
    "eval.problems": 50,
}

if __name__ == "__main__":
    run = recipes.run("tiny_arithmetic_cpu", output=sys.argv[1] if sys.argv[1:] else None, settings=SETTINGS)
    print(run.metrics.to_pandas()[["step", "reward", "loss", "grad_norm"]])
