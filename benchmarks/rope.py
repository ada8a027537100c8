"""What scaled positions do to a model that was trained at the shorter length, by log-probs of the text that it reads.

    python -m benchmarks.rope [--length N] [--steps N] [--seed N]

The built-in model goes on learning, for a minute of one core, on documents of N tokens: sums and differences with their
careful solutions, one after the other. Then documents of 2N tokens are read, with positions as they are and with each
`model.rope_scaling` of factor 2: nats a token of tokens 1 to N, as in training, and of tokens N+1 to 2N.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch

KINDS = ("linear", "dynamic", "yarn", "llama3")
MODEL = Path(__file__).parents[1] / "recipes" / "tiny" / "model"
BATCH, TEST = 16, 64  # documents of a step; of the measurement


def documents(n: int, length: int, split: str, seed: int, tokenizer: Any) -> torch.Tensor:
    """(n, length) token ids."""
    from eval.problems.generated import generate
    from recipes.tiny.corpus import LEVELS, PROMPT, careful

    rng = random.Random(seed)
    questions = [row["question"] for row in generate("arithmetic", split, 2000, seed, levels=LEVELS)]
    found = []
    for _ in range(n):
        ids: list[int] = []
        while len(ids) < length:
            question = rng.choice(questions)
            ids += tokenizer(PROMPT.format(question=question) + careful(question) + "\n")["input_ids"]
        found.append(ids[:length])
    return torch.tensor(found)


def taught(length: int, steps: int, seed: int, tokenizer: Any) -> Any:
    from grpo.config import ModelSettings
    from grpo.policy.load import load_model

    model = load_model(ModelSettings(path=str(MODEL), dtype="float32"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    rows = documents(steps * BATCH, length, "train", seed, tokenizer)
    for step, ids in enumerate(rows.split(BATCH)):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def nats(model: Any, ids: torch.Tensor, length: int) -> tuple[list[float], list[float]]:
    """Of each document, nats a token of its first `length` tokens, and of those after them."""
    logp = torch.log_softmax(model(input_ids=ids[:, :-1]).logits, -1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (-logp[:, : length - 1].mean(1)).tolist(), (-logp[:, length:].mean(1)).tolist()


def in_words(values: list[float]) -> str:
    """Mean, and 95% of it, over the documents."""
    found = torch.tensor(values)
    return f"{found.mean():.3f} ± {1.96 * (found.std() / len(values) ** 0.5):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from grpo.policy.rope import scale_positions
    from grpo.rope import RopeScaling

    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    length = options.length
    model = taught(length, options.steps, options.seed, tokenizer)
    ids = documents(TEST, 2 * length, "held_out", options.seed + 1, tokenizer)
    print(
        f"| rope_scaling, factor 2 | nats a token up to {length} | {length + 1} to {2 * length} |\n| --- | --- | --- |"
    )
    for kind in (None, *KINDS):
        config = AutoConfig.from_pretrained(MODEL)
        config.max_position_embeddings = length
        if kind:
            scale_positions(config, RopeScaling(rope_type=kind, factor=2.0))
        scaled = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        scaled.load_state_dict(model.state_dict())
        short, long = (in_words(values) for values in nats(scaled, ids, length))
        print(f"| {kind or 'none'} | {short} | {long} |", flush=True)


if __name__ == "__main__":
    main()
