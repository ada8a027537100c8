"""The built-in masked model: what it was pretrained on, and the folder that is committed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from eval.problems.generated import generate
from grpo.config import ModelSettings
from grpo.policy.load import load_model, load_tokenizer
from recipes.schema.load import load_recipe, model_settings, resolve_model
from recipes.tiny import diffusion
from recipes.tiny.pretrain import save

pytestmark = pytest.mark.slow


def test_pretraining_reads_no_held_out_problem_and_every_answer_fits_the_canvas():
    rows = diffusion.train_rows(seed=0)
    held_out = {row["question"] for row in generate("arithmetic", "held_out", 1000, 1, levels=[diffusion.LEVEL])}
    assert not held_out & {question for question, _ in rows}
    tokenizer = diffusion.build_masked_tokenizer()
    longest = max(len(tokenizer(f"{answer}</answer>")["input_ids"]) for _, answer in rows)
    assert longest < diffusion.CANVAS == load_recipe("tiny_diffusion_cpu").rollout.max_tokens


def test_guesses_are_mostly_wrong_and_mostly_one_and_the_same():
    rng, rows = random.Random(0), diffusion.train_rows(seed=0)[:2000]
    said = [(right, diffusion.guess(question, right, rng)) for question, right in rows]
    assert 0.3 < sum(right == answer for right, answer in said) / len(said) < 0.5
    copied = [diffusion.guess("37 + 85", "122", rng) for _ in range(400)]
    assert copied.count("35") / 400 == pytest.approx(diffusion.COPIED, abs=0.1)


def test_pretraining_repeats_bit_for_bit_and_its_folder_loads(tmp_path):
    first, tokenizer = diffusion.pretrain(1, right_steps=1, guess_steps=1)
    second, _ = diffusion.pretrain(1, right_steps=1, guess_steps=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    save(first, tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in Path(resolve_model("tiny_diffusion")).iterdir()
    }
    loaded = load_model(ModelSettings(path=str(tmp_path), dtype="float32"))
    assert all(torch.equal(a.float(), b) for a, b in zip(first.parameters(), loaded.parameters(), strict=True))


def test_the_committed_model_is_small_and_fits_its_recipe():
    settings = model_settings(load_recipe("tiny_diffusion_cpu"))
    assert settings.path == resolve_model("tiny_diffusion")
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.config.mask_token_id == tokenizer.mask_token_id == len(tokenizer) - 1
