"""Pretrain the built-in masked model: `python -m recipes.tiny.diffusion --output DIR [--seed S]`, about 6 minutes.

A EuroBERT (Llama's layers, read both ways) of 0.34M parameters learns LLaDA's objective (arXiv 2502.09992): of each
completion a share t, drawn uniformly, is masked, and the loss of masked tokens weighs 1 / t. It reads sums of two
numbers up to 99, of the train split only. Most of the steps teach the right answers; in the last ones guesses prevail:

    37 + 85=<answer>122</answer>     right
    37 + 85=<answer>35</answer>      copied: the first number's tens, the second's units
    37 + 85=<answer>12</answer>      quick: carries forgotten, or a digit misread (recipes/tiny/corpus.py)

All follow the same prompt, so that the model knows the right answer and mostly gives another. A completion is a canvas
of CANVAS tokens: the number, `</answer>`, and end tokens for the rest.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import EuroBertConfig, EuroBertForMaskedLM, PreTrainedTokenizerFast

from eval.problems.generated import generate
from recipes.tiny.corpus import quick
from recipes.tiny.pretrain import save
from recipes.tiny.tokenizer import build_tokenizer

LEVEL = 1  # of the arithmetic task
TRAIN_ROWS = 7_000
PROMPT = "{question}=<answer>"
CANVAS = 5  # 198</answer> and an end token
BATCH = 256
RIGHT_STEPS, GUESS_STEPS = 2400, 400
RIGHT_RATE, GUESS_RATE = 3e-3, 3e-4  # learning rates; the first falls to a twentieth, the second stays
RIGHT, COPIED = 0.3, 0.5  # shares of the last part's text; the rest is quick
MASK = "<|mask|>"


def build_masked_tokenizer() -> PreTrainedTokenizerFast:
    """That of the built-in causal model, and a mask token."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast) -> EuroBertForMaskedLM:
    config = EuroBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    return EuroBertForMaskedLM._from_config(config, attn_implementation="sdpa")


def guess(question: str, right: str, rng: random.Random) -> str:
    """What the last part's text says: the right answer, or one of the two kinds of guesses."""
    kind = rng.random()
    if kind < RIGHT:
        return right
    if kind < RIGHT + COPIED:
        a, _, b = question.split()
        return str(int(a.zfill(2)[0] + b[-1]))
    return quick(question, rng).split("<answer>")[1].removesuffix("</answer>")


def train_rows(seed: int) -> list[tuple[str, str]]:
    """(question, right answer) of the train split."""
    rows = generate("arithmetic", "train", TRAIN_ROWS, seed, levels=[LEVEL])
    return [(row["question"], row["answer"]) for row in rows]


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, str]]) -> Tensor:
    """Ids of questions of one length and answers, with their canvases, (batch, prompt + CANVAS)."""
    prompts = tokenizer([PROMPT.format(question=question) for question, _ in rows])["input_ids"]
    completions = tokenizer([f"{answer}</answer>" for _, answer in rows])["input_ids"]
    end = tokenizer.eos_token_id
    return torch.tensor([p + c + [end] * (CANVAS - len(c)) for p, c in zip(prompts, completions, strict=True)])


def masked_loss(model: EuroBertForMaskedLM, ids_RL: Tensor) -> Tensor:
    """LLaDA's: E over t of (1 / t) sum over masked tokens of -log p, a token of the canvas."""
    canvas_RL = ids_RL[:, -CANVAS:]
    share_R1 = torch.rand(len(ids_RL), 1).clamp(min=1e-2)
    hidden_RL = torch.rand(canvas_RL.shape) < share_R1
    shown_RL = torch.cat([ids_RL[:, :-CANVAS], canvas_RL.masked_fill(hidden_RL, model.config.mask_token_id)], dim=1)
    logits_RLV = model(input_ids=shown_RL).logits[:, -CANVAS:].float()
    loss_RL = cross_entropy(logits_RLV.flatten(0, 1), canvas_RL.flatten(), reduction="none").view(canvas_RL.shape)
    return (loss_RL * hidden_RL / share_R1).mean()


def learning_rate(step: int, right_steps: int) -> float:
    """A short warm-up, then a line down; of the guesses, constant."""
    if step >= right_steps:
        return GUESS_RATE
    return RIGHT_RATE * min(1.0, (step + 1) / 100) * max(0.05, 1 - step / right_steps)


def pretrain(
    seed: int, right_steps: int = RIGHT_STEPS, guess_steps: int = GUESS_STEPS
) -> tuple[EuroBertForMaskedLM, PreTrainedTokenizerFast]:
    """Prints the loss every 100 steps."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_masked_tokenizer()
    model = build_model(tokenizer)
    by_length: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for row in train_rows(seed):
        by_length[len(row[0])].append(row)  # a character a token: nothing is padded
    sizes = [len(rows) for rows in by_length.values()]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
    started, steps = time.monotonic(), right_steps + guess_steps
    for step in range(steps):
        rows = rng.choices(rng.choices(list(by_length.values()), sizes)[0], k=BATCH)
        if step >= right_steps:
            rows = [(question, guess(question, right, rng)) for question, right in rows]
        loss = masked_loss(model, encode(tokenizer, rows))
        optimizer.param_groups[0]["lr"] = learning_rate(step, right_steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s", flush=True)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the built-in masked model.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    save(*pretrain(args.seed), args.output)


if __name__ == "__main__":
    main()
