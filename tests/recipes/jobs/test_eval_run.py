"""`zero eval --run`: under the recipe's own prompt, reading and sampling, of one checkpoint or of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.problems.benchmarks import benchmark
from eval.store import read_generations
from grpo.prompts import SYSTEM
from recipes.command.main import main
from recipes.jobs import eval_run
from recipes.jobs.eval_model import EvalError
from recipes.jobs.eval_run import as_the_recipe
from recipes.schema.load import load_recipe, save_recipe
from rewards.verifier.extract import STRICT

TINY = "tiny_arithmetic_cpu"


def zero(*arguments: object):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run with two checkpoints, whose weights are those of the built-in model."""
    recipe = load_recipe(TINY, ["eval.problems=6", "rollout.max_sequences=8"])
    folder = tmp_path / "run"
    folder.mkdir()
    save_recipe(recipe, folder / "recipe.yaml")
    for step in (10, 24):
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        for file in (Path(eval_run.__file__).parents[1] / "tiny" / "model").iterdir():
            (checkpoint / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_benchmark_is_asked_as_the_recipe_asks():
    chat = ["task.template=chat", "task.read=[boxed]", "rewards.0.args={read: [boxed]}", "task.prefill=<think>"]
    recipe = load_recipe(TINY, [*chat, "eval.samples=3", "eval.temperature=1.0"])
    protocol = as_the_recipe(benchmark("gsm8k"), recipe).protocol
    assert (protocol.template, protocol.system, protocol.prefill, protocol.read) == (
        "chat",
        SYSTEM,
        "<think>",
        ("boxed",),
    )
    assert (protocol.instruction, protocol.samples, protocol.temperature) == ("", 3, 1.0)
    assert protocol.max_tokens == (recipe.eval.max_tokens or recipe.rollout.max_tokens)
    assert protocol.data == benchmark("gsm8k").protocol.data
    plain = as_the_recipe(benchmark("gsm8k"), load_recipe(TINY)).protocol
    assert (plain.template, plain.system, plain.read) == (load_recipe(TINY).task.template, "", STRICT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint", "7"], "keeps no checkpoint of that step; it has 10, 24"),
        (["--checkpoint", "last"], "expected a step's number, or all; "),
        (["--model", "tiny"], "--model: has no meaning with --run, which has its own model"),
        (["--base-url", "http://127.0.0.1:9"], "--base-url: has no meaning with --run"),
        (["--shots", "2"], "--shots: a run is not asked with examples"),
        (["--read", "somewhere"], "read: got ['somewhere'], expected some of tag, boxed"),
        (["--benchmark", "gsm9k"], "did you mean 'gsm8k'"),
        (["--system", "Be brief."], "system: only template: chat has a system prompt"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_a_server_starts(run_dir, arguments, said, tmp_path):
    result = zero("eval", "--run", run_dir, "--output", tmp_path / "out", *arguments)
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1), result.output
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_and_one_without_checkpoints(tmp_path, run_dir):
    assert "it has no recipe.yaml" in zero("eval", "--run", tmp_path / "none").stderr
    with pytest.raises(EvalError, match="it has no checkpoint yet; --checkpoint 0 is the model before"):
        eval_run._chosen(tmp_path, None)
    assert [step for step, _ in eval_run._chosen(run_dir, "all")] == [0, 10, 24]
    assert [step for step, _ in eval_run._chosen(run_dir, None)] == [24]
    assert "--checkpoint: of which run?" in zero("eval", "--checkpoint", "3").stderr


@pytest.mark.server
@pytest.mark.slow
def test_every_checkpoint_is_evaluated_on_the_problems_that_the_run_holds_out_and_drawn(run_dir, tmp_path):
    output = tmp_path / "out"
    result = zero("eval", "--run", run_dir, "--checkpoint", "all", "--output", output, "--limit", 4)
    assert result.exit_code == 0, result.output
    points = json.loads((output / "checkpoints.json").read_text())["arithmetic"]
    assert [point["step"] for point in points] == [0, 10, 24]
    # The same weights, greedily: the same accuracy.
    assert len({point["accuracy"]["value"] for point in points}) == 1
    assert (output / "checkpoints.png").stat().st_size > 10_000
    (protocol,) = (
        entry["protocol"] for entry in json.loads((output / "step-000024/results.json").read_text()).values()
    )
    assert protocol["template"] == load_recipe(TINY).task.template
    generations = read_generations(output / "step-000010")
    assert len(generations) == 4
    assert all(one.completion.startswith("<think>") for one in generations)
    again = zero("eval", "--run", run_dir, "--checkpoint", "all", "--output", output, "--limit", 4, "--resume")
    assert again.exit_code == 0
    assert "starting vLLM" not in again.output
