"""The cold start of `r1_tiny_cpu`: a few careful solutions, as R1's were written by people (arXiv 2501.12948, 2.3.1).

`python -m recipes.tiny.cold_start > recipes/builtin/cold_start.jsonl`
"""

from __future__ import annotations

import json

from eval.problems.generated import generate
from recipes.tiny.corpus import LEVELS, PROMPT, careful

EXAMPLES = 64

if __name__ == "__main__":
    for row in generate("arithmetic", "train", EXAMPLES, 7, levels=LEVELS):
        question = row["question"]
        print(json.dumps({"prompt": PROMPT.format(question=question), "completion": careful(question)}))
