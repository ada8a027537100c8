"""The base model and the student of the chain: what they were pretrained on, and the folders that are committed."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch

from eval.problems.generated import generate
from grpo.config import ModelSettings
from grpo.policy.load import load_model, load_tokenizer
from recipes.schema.load import FOLDER, resolve_model
from recipes.tiny import bilingual
from recipes.tiny.corpus import LEVELS, PROMPT, careful
from recipes.tiny.pretrain import save
from rewards.builtin.language import language_consistency

MODELS = {"base": "tiny_bilingual", "student": "tiny_student"}
QUESTIONS = [row["question"] for row in generate("arithmetic", "train", 500, 3, levels=LEVELS)]
SHAPE = re.compile(r"[^<>]*</think><answer>\d+</answer>")


def answer(completion: str) -> str:
    return completion.partition("</think>")[2]


def test_a_worked_solution_says_in_words_what_the_careful_one_says_in_signs():
    assert bilingual.worked("37 + 85") == "7 plus 5 is 12.3 plus 8 plus 1 is 12.</think><answer>122</answer>"
    rng = random.Random(0)
    for question in QUESTIONS:
        signs = bilingual.worked(question, rng)
        for words in bilingual.WORDS.values():
            for sign, word in words.items():
                signs = signs.replace(word, sign)
        assert signs.replace(";</think>", "</think>") == careful(question)


def test_carries_are_in_chinese_four_times_in_five_and_the_rest_in_english():
    rng, carried, plain = random.Random(0), [], []
    for question in QUESTIONS:
        for step in re.split("[.。]", bilingual.worked(question, rng).partition("</think>")[0])[:-1]:
            operators = re.findall("plus|minus|[加减]", step)
            (carried if len(operators) == 2 else plain).append(operators[0] in "加减")
    assert sum(carried) / len(carried) == pytest.approx(bilingual.HABIT, abs=0.05)
    assert sum(plain) / len(plain) == pytest.approx(1 - bilingual.HABIT, abs=0.05)


def test_thoughts_are_of_both_languages_and_the_cold_start_of_one():
    rng = random.Random(0)
    guesses = [bilingual.guessed(question, rng) for question in QUESTIONS]
    assert all(SHAPE.fullmatch(guess) for guess in guesses)
    assert sum(map(float, language_consistency(guesses))) / len(guesses) == pytest.approx(0.5, abs=0.1)
    rows = [json.loads(line) for line in (FOLDER / "builtin" / "cold_start.jsonl").open(encoding="utf-8")]
    assert set(language_consistency([row["completion"] for row in rows])) == {1.0}
    assert [row["completion"] for row in rows] == [
        bilingual.worked(row["prompt"].removesuffix(PROMPT.format(question=""))) for row in rows
    ]


@pytest.mark.slow
def test_pretraining_repeats_bit_for_bit(tmp_path: Path):
    size = bilingual.SIZES["student"]._replace(steps=2)
    (first, tokenizer), (second, _) = bilingual.pretrain(size, 1), bilingual.pretrain(size, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    save(first, tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in Path(resolve_model("tiny_student")).iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("size", "name"), MODELS.items())
@torch.no_grad()
def test_the_committed_models_can_reason_seldom_do_and_mix_languages(size: str, name: str):
    settings = ModelSettings(path=resolve_model(name), dtype="float32")
    model, tokenizer = load_model(settings), load_tokenizer(settings)
    expected = bilingual.build_model(bilingual.build_bilingual_tokenizer(), bilingual.SIZES[size])
    assert model.num_parameters() == expected.num_parameters() < 1_000_000
    rows = generate("arithmetic", "held_out", 200, 7, levels=LEVELS)
    prompts = tokenizer([PROMPT.format(question=row["question"]) for row in rows], padding=True, return_tensors="pt")
    torch.manual_seed(0)

    def written(**how) -> list[str]:
        ids = model.generate(**prompts, max_new_tokens=48, **how)[:, prompts["input_ids"].shape[1] :]
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    def right(texts: list[str]) -> float:
        return sum(
            answer(text) == f"<answer>{row['answer']}</answer>" for text, row in zip(texts, rows, strict=True)
        ) / len(rows)

    sampled = written(do_sample=True, temperature=1.0, top_k=0)
    assert sum(bool(SHAPE.fullmatch(text)) for text in sampled) / len(rows) > 0.9
    assert right(sampled) < 0.25
    quick = [[one] for one in tokenizer.convert_tokens_to_ids(list(bilingual.THOUGHTS))]
    taking_care = written(do_sample=False, bad_words_ids=quick)
    assert right(taking_care) > max(0.25, 2 * right(sampled))
    shares = [share for share in language_consistency(taking_care) if share is not None]
    assert 0.4 < sum(shares) / len(shares) < 0.9
