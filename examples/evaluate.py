"""Grading answers, grading completions that are there, comparing two evaluations. 10 seconds on 2 cores.

    python examples/evaluate.py [FOLDER]

A model is evaluated by recipes.evaluate(MODEL, ["gsm8k", "math500"]), or what a run has trained by
recipes.evaluate(run="runs/mine", checkpoint="all"): both start a vLLM server, which takes about a minute.
"""

import json
import sys
from pathlib import Path

import recipes
from eval.stats.compare import compare_folders
from eval.stats.compare_text import render
from rewards import compare, verify


def write_completions(path: Path, right: int) -> None:
    """60 problems, of which the first `right` are solved."""
    lines = [
        {"problem_id": f"sums/{n}", "completion": f"<answer>{2 * n + (n >= right)}</answer>", "answer": str(2 * n)}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    print(verify(r"so the answer is \boxed{\frac{1}{2}}", "0.5"))
    print(compare("1/3", "0.333"))

    folder = Path(sys.argv[1] if sys.argv[1:] else "runs/graded")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, right in (("before", 20), ("after", 35)):
        write_completions(folder / f"{name}.jsonl", right)
        file = folder / f"{name}.jsonl"
        found.append(recipes.evaluate(generations=file, output=folder / name, quiet=True))
        print(found[-1])
    print(found[-1].generations.to_pandas().groupby("outcome").size())
    for comparison in compare_folders(found[0].folder, found[1].folder):
        print(render(comparison))
