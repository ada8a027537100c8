"""The built-in model: its tokenizer, what it was pretrained on, and the folder that is committed."""

import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.problems.generated import generate
from recipes.tiny import pretrain
from recipes.tiny.corpus import LEVELS, PROMPT, careful, quick
from recipes.tiny.tokenizer import TAGS, build_tokenizer

pytestmark = pytest.mark.slow

FOLDER = Path(pretrain.__file__).parent / "model"
SHAPE = re.compile(r"[^<>]*</think><answer>\d+</answer>")


def answer_of(completion: str) -> str | None:
    return completion.split("<answer>")[1].removesuffix("</answer>") if SHAPE.fullmatch(completion) else None


@pytest.mark.parametrize(
    ("question", "completion"),
    [
        ("37 + 85", "7+5=12;3+8+1=12</think><answer>122</answer>"),
        ("7 + 85", "7+5=12;0+8+1=9</think><answer>92</answer>"),
        ("52 - 9", "12-9=3;5-0-1=4</think><answer>43</answer>"),
        ("503 - 498", "13-8=5;10-9-1=0;5-4-1=0</think><answer>5</answer>"),
    ],
)
def test_a_careful_solution_carries_and_borrows(question, completion):
    assert careful(question) == completion


def test_careful_solutions_are_right_and_quick_guesses_mostly_wrong():
    rows, rng = generate("arithmetic", "train", 2000, 0, levels=LEVELS), random.Random(0)
    assert all(answer_of(careful(row["question"])) == row["answer"] for row in rows)
    right = sum(answer_of(quick(row["question"], rng)) == row["answer"] for row in rows) / len(rows)
    assert 0.1 < right < 0.3


def test_every_character_and_every_tag_is_one_token_and_decodes_to_itself():
    tokenizer = build_tokenizer()
    text = "37 + 85=<think>\n7+5=12;</think><answer>122</answer>"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(re.sub("|".join(TAGS), "#", text))
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_only_completions_are_labelled_and_each_ends_with_the_end_token():
    tokenizer = build_tokenizer()
    ids, labels = pretrain.encode(tokenizer, ["1 + 2", "37 + 85"], [careful("1 + 2"), careful("37 + 85")])
    written = [tokenizer.decode(row[row != -100]) for row in labels]
    assert written == [careful("1 + 2") + "<|end|>", careful("37 + 85") + "<|end|>"]
    assert tokenizer.decode(ids[1]) == PROMPT.format(question="37 + 85") + careful("37 + 85") + "<|end|>"


def test_pretraining_reads_no_held_out_problem():
    held_out = {row["question"] for row in generate("arithmetic", "held_out", 2000, 1, levels=LEVELS)}
    read = {row["question"] for rows in pretrain.train_rows(seed=0).values() for row in rows}
    assert len(read) > 30_000
    assert not read & held_out


def test_pretraining_repeats_bit_for_bit_and_its_folder_loads(tmp_path):
    first, tokenizer = pretrain.pretrain(steps=2, seed=1)
    second, _ = pretrain.pretrain(steps=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    pretrain.save(first, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    assert all(torch.equal(a.float(), b) for a, b in zip(first.parameters(), loaded.parameters(), strict=True))


@pytest.fixture(scope="module")
def built_in():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


def test_the_committed_model_is_small_and_loads_in_fp32(built_in):
    model, tokenizer = built_in
    assert model.num_parameters() <= 4_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)


@torch.no_grad()
def write(built_in, rows, **how) -> list[str | None]:
    """The answers of the completions of `rows`."""
    model, tokenizer = built_in
    prompts = tokenizer([PROMPT.format(question=row["question"]) for row in rows], padding=True, return_tensors="pt")
    written = model.generate(**prompts, max_new_tokens=48, **how)[:, prompts["input_ids"].shape[1] :]
    return [answer_of(text) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]


def test_the_committed_model_is_well_formed_but_mostly_wrong_on_held_out_problems(built_in):
    torch.manual_seed(0)
    rows = generate("arithmetic", "held_out", 200, 7, levels=LEVELS)
    for how in ({"do_sample": False}, {"do_sample": True, "temperature": 1.0, "top_k": 0}):
        answers = write(built_in, rows, **how)
        assert sum(answer is not None for answer in answers) >= 0.95 * len(rows)
        assert 0.2 < sum(a == row["answer"] for a, row in zip(answers, rows, strict=True)) / len(rows) <= 0.4


def test_the_committed_model_is_right_when_it_takes_care(built_in):
    rows = generate("arithmetic", "held_out", 200, 7, levels=LEVELS)
    letters = [[i] for i in built_in[1].convert_tokens_to_ids(list("eg"))]  # what quick thoughts begin with
    answers = write(built_in, rows, do_sample=False, bad_words_ids=letters)
    assert sum(a == row["answer"] for a, row in zip(answers, rows, strict=True)) >= 0.95 * len(rows)
