"""What the policy wrote, by outcome and step, with pandas: of any run's directory, finished or not.

python examples/look_at_a_run.py [RUN_DIR]        without one, a run is made first: 20 seconds
"""

import json
import sys
import tempfile

import recipes
from recipes import Run

SHORT = {"rollout.engine": "transformers", "rollout.group_size": 8, "train.steps": 3, "eval.problems": 50}

if __name__ == "__main__":
    if sys.argv[1:]:
        run = Run(sys.argv[1])
    else:
        run = recipes.run("tiny_arithmetic_cpu", output=f"{tempfile.mkdtemp()}/run", settings=SHORT, quiet=True)
    rows = run.read_completions(columns=["step", "completion", "outcome", "rewards", "reward", "prompt_id"]).to_pandas()
    rows["length"] = rows["completion"].str.len()
    rows["accuracy"] = rows["rewards"].map(lambda text: json.loads(text).get("accuracy"))
    print(rows.groupby(["step", "outcome"])[["length", "reward"]].agg(["size", "mean"]))
    hardest = rows.groupby("prompt_id")["accuracy"].mean().sort_values().index[0]
    print(f"the hardest problem, {hardest}:")
    print(rows[rows["prompt_id"] == hardest]["completion"].head(3).to_string())
