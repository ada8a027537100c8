"""Pretrain the built-in model: `python -m recipes.tiny.pretrain --output DIR [--steps N] [--seed S]`.

A Qwen3 of 1.8M parameters reads `recipes.tiny.corpus` on train-split problems only. Most of the steps teach
careful solutions and quick guesses alike; in the last ones guesses prevail, which leaves a model that can
reason but rarely does. The prompt is `{question}=<think>`, as in `37 + 85=<think>`; completions end with
`</think><answer>N</answer>` and the end token, after at most 32 tokens.

`recipes/tiny/model` is what the defaults made, in 11 minutes of one CPU core (0.4 s a step). On 800 held-out
problems it is right 28% of the time greedily and 30% at temperature 1, where it takes care in 15% of its
completions; held to care it is right 99.7% and 97% of the time. The same seed on the same machine gives the
same weights.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from eval.problems.generated import Row, generate
from recipes.tiny.corpus import LEVELS, PROMPT, careful, quick
from recipes.tiny.tokenizer import build_tokenizer

TRAIN_ROWS = {1: 7_000, 2: 3_500, 3: 20_000, 4: 20_000}  # by level; the first two have few more
BATCH = 64
LEARNING_RATE = 2e-3
FIRST_CAREFUL_SHARE, LAST_CAREFUL_SHARE = 0.5, 0.16  # of the text, before and in the last part
LAST_PART = 0.2  # of the steps


def qwen3(
    tokenizer: PreTrainedTokenizerFast, width: int, intermediate: int, layers: int, heads: int
) -> Qwen3ForCausalLM:
    """Random weights. The head size is one that vLLM's CPU attention supports."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # At these lengths the backward pass of plain attention is twice as fast on a CPU as that of SDPA.
    return Qwen3ForCausalLM._from_config(config, attn_implementation="eager")


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    return qwen3(tokenizer, width=192, intermediate=512, layers=4, heads=3)


def encode(
    tokenizer: PreTrainedTokenizerFast, questions: list[str], completions: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (batch, longest), padded on the right; only completions have labels."""
    prompts = tokenizer([PROMPT.format(question=question) for question in questions])["input_ids"]
    answers = tokenizer([completion + tokenizer.eos_token for completion in completions])["input_ids"]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def train_rows(seed: int, levels: Sequence[int] = LEVELS) -> dict[int, list[Row]]:
    """Problems to read, by level: of the train split, so that held-out problems stay unseen."""
    return {level: generate("arithmetic", "train", TRAIN_ROWS[level], seed, levels=[level]) for level in levels}


def write_batch(rows: dict[int, list[Row]], careful_share: float, rng: random.Random) -> tuple[list[str], list[str]]:
    """Questions of all levels in equal parts, and for each either a careful solution or a guess."""
    questions = [rng.choice(rows[rng.choice([*rows])])["question"] for _ in range(BATCH)]
    return questions, [careful(q) if rng.random() < careful_share else quick(q, rng) for q in questions]


def learning_rate(step: int, steps: int) -> float:
    """A short warm-up, then a cosine down to nothing."""
    warmup = min(1.0, (step + 1) / 100)
    return LEARNING_RATE * warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    write: Callable[[int], tuple[list[str], list[str]]],
    steps: int,
    rate: Callable[[int], float],
    autocast: bool,
) -> None:
    """Next-token prediction on completions. Prints the loss every 50 steps.

    write: a step's questions and their completions; rate: a step's learning rate; autocast: compute in bf16.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step in range(steps):
        ids, labels = encode(tokenizer, *write(step))
        # Rows are padded on the right, so the causal mask alone keeps padding out of what is trained.
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids[:, :-1]).logits
        loss = cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten())
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)


def pretrain(
    steps: int,
    seed: int,
    build: Callable[[PreTrainedTokenizerFast], PreTrainedModel] = build_model,
    levels: Sequence[int] = LEVELS,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The built-in model, or what `build` makes, and its tokenizer."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    rows = train_rows(seed, levels)
    tokenizer = build_tokenizer()
    model = build(tokenizer)

    def write(step: int) -> tuple[list[str], list[str]]:
        last = step >= (1 - LAST_PART) * steps
        return write_batch(rows, LAST_CAREFUL_SHARE if last else FIRST_CAREFUL_SHARE, rng)

    fit(model, tokenizer, write, steps, lambda step: learning_rate(step, steps), autocast=True)
    return model, tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Tensors in fp16, half the size, under a configuration that asks for fp32 on loading."""
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    config = AutoConfig.from_pretrained(output)
    config.dtype = torch.float32
    config.save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the built-in model.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save(*pretrain(args.steps, args.seed), args.output)


if __name__ == "__main__":
    main()
