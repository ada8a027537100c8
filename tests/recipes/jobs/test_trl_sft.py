"""A supervised recipe through TRL's SFTTrainer: the losses and weights that ours gives, and what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from grpo.policy.checkpoint import checkpoints
from recipes.jobs.sft import run
from recipes.schema.load import RecipeError, load_run
from recipes.stages.artifact import finish

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b) * (1 + a % 3)} for a in range(9) for b in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "kind": "sft",
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "data": [{"dataset": "rows.jsonl"}],
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}=", "problems": 8},
        "rollout": {"engine": "transformers", "max_tokens": 4, "max_prompt_tokens": 16},
        "eval": {"problems": 4},
        # With the default eps Adam would step by the sign of a rounding.
        "train": {
            "steps": 2,
            "batch_size": 4,
            "learning_rate": 5.0e-3,
            "optimizer": {"eps": 0.01},
            "held_out": 0.3,
            "eval_every": 1,
            "tokens_per_micro_batch": 32,  # several micro-batches a step
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def trained(recipe_file: Path, output: Path, *overrides: str) -> list[dict[str, Any]]:
    assert run(load_run(str(recipe_file), list(overrides)), "test", output, False) == 0  # type: ignore[arg-type]
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_trl_gives_our_losses_and_weights_and_leaves_the_run_directory_that_ours_leaves(recipe_file, tmp_path) -> None:
    ours, theirs = (trained(recipe_file, tmp_path / side, f"train.backend={side}") for side in ("zero", "trl"))
    for key in ("loss", "grad_norm", "heldout_loss", "learning_rate", "tokens", "trained_tokens", "epoch"):
        assert [line[key] for line in theirs] == pytest.approx([line[key] for line in ours], abs=1e-5), key
    zero, trl = (load_file(checkpoints(tmp_path / side)[-1][1] / "model.safetensors") for side in ("zero", "trl"))
    assert zero.keys() == trl.keys()
    assert max((zero[name] - trl[name]).abs().max().item() for name in zero) < 1e-5
    summaries = [json.loads((tmp_path / side / "summary.json").read_text()) for side in ("zero", "trl")]
    assert summaries[0].keys() | {"backend"} == summaries[1].keys()
    for key in ("loss_before", "loss_after"):
        assert summaries[0][key] == pytest.approx(summaries[1][key], abs=1e-5)
    assert summaries[0]["before"] == summaries[1]["before"]
    assert {path.name for path in (tmp_path / "zero").iterdir()} <= {path.name for path in (tmp_path / "trl").iterdir()}
    # A chain goes on from it.
    recipe = load_run(str(tmp_path / "trl" / "recipe.yaml"))
    assert finish(tmp_path / "trl", "identity", "sft", recipe).model == "model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.processes=2", "train.processes: got 2, but backend: trl trains in one; use 1, or backend: zero"),
        ("train.gpus=[1]", "train.gpus: got [1], TRL's trainer has no such setting here; leave it at []"),
        ("train.dropout=true", "train.dropout: got True"),
        ("train.optimizer={amsgrad: true}", "train.optimizer.amsgrad: TRL's trainer takes betas, eps and weight_decay"),
        ("model.lora={r: 4, quantize: nf4}", "model.lora.quantize: only our own trainer loads weights in 4 bits"),
    ],
)
def test_what_trl_cannot_do_is_refused_by_name_before_anything_starts(recipe_file, tmp_path, override, message) -> None:
    with pytest.raises(RecipeError) as refused:
        trained(recipe_file, tmp_path / "out", override, "train.backend=trl")
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_resuming_is_refused(recipe_file, tmp_path) -> None:
    recipe = load_run(str(recipe_file), ["train.backend=trl"])
    with pytest.raises(RecipeError, match="--resume: a run of TRL's trainer cannot be resumed here"):
        run(recipe, "test", tmp_path / "out", True)  # type: ignore[arg-type]
