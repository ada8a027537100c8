"""Problems from a CSV file, a reward of your own, and a run that is stopped and goes on. 40 seconds on 2 cores.

python examples/own_reward_and_data.py [FOLDER]
"""

import csv
import random
import sys
from pathlib import Path

import recipes


def brevity(completions: list[str], answer, **columns):
    """1 for an answer in at most 30 characters, falling to 0 at 90."""
    return [min(1.0, max(0.0, (90 - len(text)) / 60)) for text in completions]


def write_problems(path: Path, n: int, seed: int) -> None:
    """Gold answers as people write them: the last number of a sentence."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sum", "solution"])
        for _ in range(n):
            a, b = draw.randrange(10, 60), draw.randrange(10, 40)
            rows.writerow([f"{a}+{b}", f"Adding both, we find {a + b}"])


def recipe(data: Path) -> dict:
    return {
        "model": {"path": "tiny", "dtype": "float32"},
        "task": {
            "dataset": str(data),
            "columns": {"question": "sum", "answer": "solution"},
            "answer_pattern": r"(\d+)$",
            "template": "{question}=<think>",
        },
        "rewards": ["accuracy", {"name": brevity, "weight": 0.1}],
        "rollout": {
            "engine": "transformers",
            "group_size": 8,
            "prompts_per_step": 8,
            "max_tokens": 48,
            "max_prompt_tokens": 32,
        },
        "train": {"steps": 2, "learning_rate": 2e-4, "checkpoint_every": 1},
        "eval": {"problems": 40},
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else "runs/own-data")
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(folder / "sums.csv", n=400, seed=0)
    recipes.run(recipe(folder / "sums.csv"), output=folder / "run")
    # A run that was stopped, here after its 2 steps, goes on where it was; so it does after Ctrl-C.
    run = recipes.run(recipe(folder / "sums.csv"), output=folder / "run", settings={"train.steps": 4}, resume=True)
    print(run)
    print(run.metrics.to_pandas()[["step", "reward/accuracy", "reward/brevity", "length"]])
