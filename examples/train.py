"""A run in three lines, and its records as datasets. 20 seconds on 2 cores.

python examples/train.py [FOLDER]
"""

import sys

import recipes

# The demo's recipe, with fewer and smaller steps, and samples drawn in this machine's processes without a server.
SHORT = {
    "rollout.engine": "transformers",
    "rollout.group_size": 8,
    "rollout.prompts_per_step": 8,
    "train.steps": 4,
    "eval.problems": 50,
}

if __name__ == "__main__":
    run = recipes.run("tiny_arithmetic_cpu", output=sys.argv[1] if sys.argv[1:] else None, settings=SHORT)
    print(run)
    print(run.evaluations.to_pandas()[["step", "accuracy", "low", "high"]])
    print(run.completions[0]["prompt"], run.completions[0]["completion"])
