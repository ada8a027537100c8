"""The recipe of each published method: cited, short, planned, and two steps of it on the built-in model."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from grpo.policy.checkpoint import checkpoints
from recipes.jobs.train import run
from recipes.schema.load import TINY, builtin_recipes, load_recipe
from recipes.schema.plan import Machine, ModelSize, plan

pytestmark = pytest.mark.slow

PAPERS = {
    "r1_zero_3b_math_2gpu": "2501.12948",
    "dr_grpo_1.5b_math_1gpu": "2503.20783",
    "dapo_3b_math_2gpu": "2503.14476",
    "gspo_1.7b_math_2gpu": "2507.18071",
    "cispo_3b_math_2gpu": "2506.13585",
}
QWEN_3B = ModelSize(3_085_938_688, 0, 2048, 36, 256)
# The method stays; model, task and sizes become those of the built-in model, and sampling goes in process.
SMALL = [
    "model={path: tiny, dtype: float32}",
    "task={name: arithmetic, config: {levels: [1, 2]}, template: '{question}=<think>'}",
    "rollout.engine=transformers",
    "rollout.group_size=8",
    "rollout.prompts_per_step=4",
    "rollout.max_tokens=32",
    "rollout.max_prompt_tokens=32",
    "rollout.max_staleness=0",
    "rollout.server={}",
    "train.steps=2",
    "train.warmup_steps=0",
    "train.gpus=[]",
    "train.eval_every=0",
    "eval.problems=4",
]


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_is_short_and_cites_it(name):
    text = builtin_recipes()[name][0].read_text()
    assert f"arXiv {PAPERS[name]}" in text
    assert len(text.splitlines()) < 30
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_fits_the_gpus_that_it_names(name):
    gpus = 1 if "1gpu" in name else 2
    size = ModelSize(1_543_714_304, 0, 1536, 28, 256) if gpus == 1 else QWEN_3B
    said = plan(load_recipe(name), size, Machine(32, 250.0, dict.fromkeys(range(gpus), 79.0)))
    assert f"trainer        GPU {gpus - 1}" in said


@pytest.mark.parametrize("name", PAPERS)
def test_two_steps_of_a_papers_recipe_train_the_built_in_model(name, tmp_path):
    lengths = ["rewards.1.args={max_length: 32, buffer: 8}"] if name.startswith(("dapo", "cispo")) else []
    recipe = load_recipe(name, [*SMALL, *lengths])
    assert run(recipe, name, tmp_path / "out", resume=False) == 0
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(value is not None and math.isfinite(value) for step in steps for value in step.values())
    assert all(step["grad_norm"] > 0 for step in steps)
    trained, start = (
        load_file(checkpoints(tmp_path / "out")[-1][1] / "model.safetensors"),
        load_file(TINY / "model.safetensors"),
    )
    moved = [name for name, tensor in trained.items() if not torch.equal(tensor.float(), start[name].float())]
    assert len(moved) > len(trained) / 2


def test_the_papers_settings_are_those_that_the_runs_use():
    r1, dr_grpo, dapo, gspo, cispo = (load_recipe(name).train for name in PAPERS)
    assert (r1.kl_coef, r1.kl_sync_every, r1.learning_rate) == (0.001, 400, 3e-6)
    assert (dr_grpo.normaliser_kind, dr_grpo.advantage_kind, dr_grpo.kl_coef) == ("constant", "group_mean", 0.0)
    assert (dapo.normaliser_kind, dapo.clip_low, dapo.clip_high) == ("token", 0.2, 0.28)
    assert (gspo.normaliser_kind, gspo.clip_low, gspo.clip_high) == ("sequence", 3e-4, 4e-4)
    assert (cispo.normaliser_kind, cispo.clip_low, cispo.clip_high) == ("token", 1.0, 4.0)
    assert {one.stale_correction for one in (dapo, gspo, cispo)} == {"coupled"}
