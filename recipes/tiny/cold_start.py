"""The cold starts of `r1_tiny_cpu` and `r1_smollm2_135m_cpu`: a few careful solutions, as R1's were written by people
(arXiv 2501.12948, 2.3.1).

`python -m recipes.tiny.cold_start > recipes/builtin/cold_start.jsonl`
`python -m recipes.tiny.cold_start words > recipes/builtin/cold_start_words.jsonl`
"""

from __future__ import annotations

import json
import sys

from eval.problems.generated import generate
from recipes.schema.load import load_recipe
from recipes.tiny.bilingual import worked
from recipes.tiny.corpus import LEVELS, PROMPT, careful

EXAMPLES = 64
COLUMNS = ("ones", "tens", "hundreds")


def in_words(question: str) -> str:
    """The careful solution in the form that `smollm2_135m_cpu` shows its model, after the `<think>` of its template.

    Example: in_words("37 + 85") == "ones 7+5=12, tens 3+8+1=12, so 37 + 85 = 122</think> <answer>122</answer>"
    """
    steps, _, rest = careful(question).partition("</think><answer>")
    answer = rest.removesuffix("</answer>")
    columns = ", ".join(f"{name} {step}" for name, step in zip(COLUMNS, steps.split(";"), strict=False))
    return f"{columns}, so {question} = {answer}</think> <answer>{answer}</answer>"


def _words() -> None:
    template = load_recipe("smollm2_135m_cpu").only_task.template
    for row in generate("arithmetic", "train", EXAMPLES, 7, levels=[1, 2]):
        question = row["question"]
        row = {"prompt": template.replace("{question}", question), "completion": f" {in_words(question)}"}
        print(json.dumps(row))


if __name__ == "__main__":
    if sys.argv[1:] == ["words"]:
        _words()
        sys.exit()
    for row in generate("arithmetic", "train", EXAMPLES, 7, levels=LEVELS):
        question = row["question"]
        print(json.dumps({"prompt": PROMPT.format(question=question), "completion": worked(question)}))
