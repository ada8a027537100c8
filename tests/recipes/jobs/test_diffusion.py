"""Recipes of masked models: what they refuse, and runs of a random one, resumed, filtered, evaluated."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from safetensors.torch import load_file

from eval.problems.benchmarks import benchmark
from grpo.config import ModelError
from grpo.policy.checkpoint import checkpoints
from grpo.trainer import GRPOTrainer
from recipes.jobs.dry_run import DryRunError, dry_run
from recipes.jobs.eval_run import evaluate_run
from recipes.jobs.evaluate import Request, evaluate
from recipes.jobs.train import run
from recipes.schema.load import RecipeError, load_recipe
from tests.masked_models import save_eurobert

RECIPE = "tiny_diffusion_cpu"
ONE_PASS = "rollout.diffusion={likelihood: one_pass}"
REWARDS = """
def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
"""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.diffusion.block_length=4"], "block_length: got 4, expected a divisor of max_tokens (6)"),
        (["rollout.diffusion.tokens_per_pass=7"], "tokens_per_pass: got 7, expected at most max_tokens (6)"),
        (["rollout.diffusion={block_length: 2, tokens_per_pass: 3}"], "expected at most block_length (2)"),
        (["rollout.diffusion.order=confidence"], "likelihood: exact needs an order that does not depend on the policy"),
        ([ONE_PASS], "train.correction: got truncate, which compares"),
        (["rollout.diffusion.prompt_masking=0.3"], "likelihood: exact hides nothing of the prompt"),
        ([ONE_PASS, "train={correction: none, kl_coef: 0.1, kl_place: reward}"], "train.kl_place: reward takes"),
        (["rollout={engine: vllm, diffusion: {tokens_per_pass: 2}}"], "engine: vllm has no use for it"),
        (["rollout={engine: diffusion, max_staleness: 1}"], "engine: diffusion samples and trains in turn"),
        (["train.processes=2"], "engine: diffusion trains in one process; use 1"),
        (["train.backend=trl"], "trl trains causal models alone"),
        (["train={advantage: teacher, teacher: tiny}"], "train.teacher: a teacher is asked token by token"),
        (["model.adapter={peft_type: PREFIX_TUNING, num_virtual_tokens: 4}"], "use model.lora"),
        (["rollout.diffusion.block_length=2", "eval.max_tokens=5"], "expected a multiple of rollout.diffusion.block_"),
        (["task.environment=calculator"], "engine: diffusion writes one reply"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_line(overrides, said):
    with pytest.raises(RecipeError) as refused:
        load_recipe(RECIPE, ["rollout.max_tokens=6", *overrides])
    (line,) = str(refused.value).split("\n")
    assert said in line


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.path=tiny"], "Qwen3ForCausalLM, which reads from left to right; engine: diffusion needs a masked"),
        (["rollout.engine=transformers"], "a masked language model, which is sampled and trained with rollout.engine"),
        (["rollout.diffusion.mask_token=<nope>"], "the tokenizer has no token '<nope>'"),
    ],
)
def test_a_model_of_the_other_kind_is_refused_by_the_dry_run_and_the_run(overrides, said, tmp_path):
    recipe = load_recipe(RECIPE, overrides)
    with pytest.raises(DryRunError) as refused:
        dry_run(recipe, RECIPE, None, Console(quiet=True))
    assert said in str(refused.value)
    with pytest.raises(ModelError) as refused_run:
        run(recipe, RECIPE, tmp_path / "out", False)
    assert said in str(refused_run.value)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_the_dry_run_says_how_many_passes_there_are():
    console = Console(record=True, width=200, file=io.StringIO())
    passes = "rollout.diffusion={block_length: 3, tokens_per_pass: 2}"
    sizes = ["rollout.max_tokens=6", "rollout.group_size=4", "rollout.prompts_per_step=5"]
    dry_run(load_recipe(RECIPE, [*sizes, passes]), RECIPE, None, console)
    assert "4 write a completion, 80 rows train" in console.export_text()


# -- Runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "my_rewards.py").write_text(REWARDS)
    recipe = {
        "model": {"path": str(save_eurobert(folder / "model")), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": [{"name": "my_rewards.py:digits"}],
        "rollout": {
            "engine": "diffusion", "group_size": 8, "prompts_per_step": 4, "max_tokens": 4, "max_prompt_tokens": 16,
            "diffusion": {"block_length": 2},
        },
        "train": {"steps": 3, "learning_rate": 3.0e-3, "checkpoint_every": 1, "keep_checkpoints": 9, "seed": 3},
        "eval": {"problems": 8},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def train(recipe_file: Path, output: Path, *overrides: str, resume: bool = False) -> list[dict]:
    assert run(load_recipe(str(recipe_file), list(overrides)), "test", output, resume) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output: Path) -> bytes:
    return (checkpoints(output)[-1][1] / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(recipe_file, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    train(recipe_file, output)
    return output


@pytest.mark.slow
def test_a_run_keeps_the_orders_and_its_logprobs_are_the_samplers(whole):
    import datasets

    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(line["logprob_diff"] < 1e-6 for line in lines)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["engine"] == "diffusion"
    assert summary["proof"]["served"]["difference"] <= summary["proof"]["served"]["bound"]
    rows = datasets.load_dataset("parquet", data_files=str(whole / "rollouts" / "*.parquet"), split="train")
    for row in rows:
        unmasking = json.loads(row["unmasking"])
        assert unmasking["canvas"] == 4
        assert sorted(unmasking["passes"]) == list(range(len(row["token_ids"])))
        assert max(unmasking["passes"][:2]) == 1
    assert "a row each pass" in (whole / "logs" / "run.log").read_text()


@pytest.mark.slow
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(recipe_file, whole, tmp_path, monkeypatch):
    step = GRPOTrainer._step

    async def dies_in_the_third(self, number):
        if number == 3:
            await step(self, number)  # its weights are trained, and lost
            raise asyncio.CancelledError
        await step(self, number)

    monkeypatch.setattr(GRPOTrainer, "_keep_whole", lambda self: asyncio.sleep(0))
    monkeypatch.setattr(GRPOTrainer, "_step", dies_in_the_third)
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        train(recipe_file, tmp_path / "out")
    monkeypatch.undo()
    assert [number for number, _ in checkpoints(tmp_path / "out")] == [1, 2]
    train(recipe_file, tmp_path / "out", resume=True)
    assert weights(tmp_path / "out") == weights(whole)


@pytest.mark.slow
def test_d1s_estimate_trains_what_confidence_has_written(recipe_file, tmp_path):
    confidence = "rollout.diffusion={order: confidence, likelihood: one_pass}"
    lines = train(recipe_file, tmp_path / "out", confidence, "train.correction=none", "train.steps=2",
                  "model.lora={r: 4}", "train.kl_coef=0.01")  # fmt: skip
    assert all(line["grad_norm"] > 0 for line in lines)
    assert "log-probs differ from the trainer's by" not in (tmp_path / "out" / "logs" / "run.log").read_text()
    names = set(load_file(checkpoints(tmp_path / "out")[-1][1] / "adapter_model.safetensors"))
    assert names
    evaluate_run(tmp_path / "out", None, Request(None, [], limit=4, output=tmp_path / "eval"), Console(quiet=True))
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["arithmetic"]["n_problems"] == 4


@pytest.mark.slow
def test_benchmarks_are_asked_in_this_process_and_greedy_answers_repeat(recipe_file, tmp_path):
    (tmp_path / "sums.yaml").write_text("{}")
    model = str(recipe_file.parent / "model")
    found = []
    for name in ("a", "b"):
        request = Request(model, ["arithmetic"], max_tokens=4, limit=12, template="{question}=", concurrency=5,
                          output=tmp_path / name)  # fmt: skip
        assert evaluate(request, Console(quiet=True)) == 0
        results = json.loads((tmp_path / name / "results.json").read_text())["arithmetic"]
        assert results["n_problems"] == 12
        assert (
            results["protocol"]
            == benchmark("arithmetic").override(max_tokens=4, template="{question}=").protocol.canonical()
        )
        found.append(results["outcomes"])
    assert found[0] == found[1]
