"""`zero run --dry-run`: what it shows, that it leaves nothing, and the mistakes that it finds with one message each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recipes.command.main import main
from recipes.gold import advice
from recipes.schema.chain import is_chain, load_chain
from recipes.schema.load import builtin_recipes

OWN = """
def short(completions, **columns):
    return [1.0]
def limited(completions, limit, **columns):
    return [0.0 for _ in completions]
def needs(completions, difficulty):
    return [0.0 for _ in completions]
def divides(completions, **columns):
    return [1 / len(text) for text in completions]
def text(completions, **columns):
    return ["good" for _ in completions]
def silence(completions, **columns):
    return [1 / (1 + len(text)) for text in completions]
def one(groups):
    return [0.0 for group in groups]
def mean(inputs):
    return (inputs.logprobs_T * inputs.advantage_T).mean()
def scaled(inputs, scale):
    return -scale * inputs.logprobs_T * inputs.advantage_T
def root(inputs):
    return (inputs.logprobs_T - inputs.logprobs_T.detach()).abs().sqrt()
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe that runs; written to recipe.yaml by `dry`, beside a file with functions of the user's own."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    return {
        "model": {"path": str(tiny_model), "dtype": "float32"},
        "task": {"name": "arithmetic", "config": {"levels": [1]}, "template": "{question}="},
        "rewards": ["accuracy"],
        "rollout": {"engine": "transformers", "group_size": 3, "prompts_per_step": 2, "max_tokens": 8},
        "train": {"steps": 2},
        "eval": {"problems": 4},
    }


def dry(recipe: dict[str, Any], *arguments: str) -> Any:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(main, ["run", "recipe.yaml", "--dry-run", *arguments])
    assert "Traceback" not in result.output
    assert [path for path in sorted(Path().rglob("*")) if "__pycache__" not in str(path)] == before
    return result


def rows(file: str, *lines: dict[str, Any]) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines))


def of_file(recipe: dict[str, Any], file: str) -> dict[str, Any]:
    """The recipe with its own data, whose columns are q and a."""
    return recipe | {"task": {"dataset": file, "columns": {"question": "q", "answer": "a"}, "template": "{question}"}}


@pytest.mark.slow
def test_it_shows_the_plan_the_prompts_the_gold_answers_what_is_paid_and_how_long_it_takes(recipe):
    result = dry(recipe | {"rewards": ["accuracy", {"name": "own.py:silence", "weight": 0.1}]})
    assert result.exit_code == 0, result.output
    for expected in (
        "2 prompts x 3 = 6 completions",
        "4096 problems to train on, 4 held out",
        "as the model sees it:",
        "disk",
        "tokens/s trained",
        "nothing will be refused",
    ):
        assert expected in result.output
    table = [line.split() for line in result.output.splitlines()]
    assert ["accuracy", "silence", "sum"] in table
    # Silence earns 0.1 / (1 + 0), the gold answer 1 and less than that.
    assert [line[-3:] for line in table if line[-4:-3] == ["nothing"]] == [["0", "1", "0.1"]] * 2
    assert all(line[-3] == "1" and float(line[-1]) >= 1 for line in table if line[1:4] == ["the", "gold", "answer"])


@pytest.mark.slow
def test_of_many_puzzles_it_makes_the_first_ones(recipe, monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setattr("recipes.jobs.dry_run.PUZZLES", 20)
    task = {"name": "reasoning_gym", "config": {"dataset": "chain_sum"}, "problems": 20_000, "template": "{question}="}
    result = dry(recipe | {"task": task, "rewards": ["reasoning_gym"]})
    assert "of task.problems, 20,000, the first 20 are made here" in result.output
    assert "20 problems to train on, 4 held out" in result.output


@pytest.mark.slow
def test_the_system_prompt_that_a_chat_adds_is_shown(recipe, tiny_model, tmp_path):
    shutil.copytree(tiny_model, "chatty")
    (Path("chatty") / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    )
    recipe["model"]["path"], recipe["task"]["template"] = "chatty", "chat"
    recipe["rollout"]["max_prompt_tokens"] = 512
    result = dry(recipe)
    assert result.exit_code == 0, result.output
    assert "system prompt that template: chat adds (task.system is not set; '' is none): Think before" in result.output
    assert "  | [system]Think before you answer." in result.output


def _own_model(recipe: dict[str, Any]) -> None:
    recipe["model"]["path"] = "no/such/folder"


def _edit(section: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(recipe: dict[str, Any]) -> None:
        recipe[section] = changes["whole"] if "whole" in changes else recipe[section] | changes

    return edit


def _data(*lines: dict[str, Any], file: str = "data/mine.jsonl") -> Callable[[dict[str, Any]], None]:
    def edit(recipe: dict[str, Any]) -> None:
        if lines:
            rows(file, *lines)
        recipe.update(of_file(recipe, file))

    return edit


def _csv(text: str) -> Callable[[dict[str, Any]], None]:
    def edit(recipe: dict[str, Any]) -> None:
        Path("mine.csv").write_text(text)
        recipe.update(of_file(recipe, "mine.csv"))

    return edit


def _used(recipe: dict[str, Any]) -> None:
    Path("recipe-out").mkdir()
    (Path("recipe-out") / "notes.txt").write_text("mine")


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a reward of another length": (_edit("rewards", whole=["own.py:short"]), "got 1 values, expected 4"),
    "a reward without its column": (
        _edit("rewards", whole=["own.py:needs"]),
        "needs the column 'difficulty'; the data has",
    ),
    "a reward without its argument": (_edit("rewards", whole=["own.py:limited"]), "needs the column 'limit'"),
    "a reward that raises": (_edit("rewards", whole=["own.py:divides"]), "raised ZeroDivisionError: division by zero"),
    "a reward that returns texts": (_edit("rewards", whole=["own.py:text"]), "gave 'good', which is of type str"),
    "an argument that a reward has not": (
        _edit("rewards", whole=[{"name": "accuracy", "args": {"strict": True}}]),
        "no argument strict",
    ),
    "a misspelt reward": (_edit("rewards", whole=["acuracy"]), "(did you mean 'accuracy'?)"),
    "a misspelt function": (_edit("rewards", whole=["own.py:shrot"]), "no function 'shrot' (did you mean 'short'?)"),
    "a misspelt loss": (_edit("train", loss="gropo"), "(did you mean 'grpo'?)"),
    "a misspelt advantage": (_edit("train", advantage="group_sdt"), "(did you mean 'group_std'?)"),
    "a loss of another shape": (_edit("train", loss="own.py:mean"), "returned shape (), expected (3,)"),
    "a loss without its argument": (_edit("train", loss="own.py:scaled"), "missing 1 required positional argument"),
    "a loss with another argument": (
        _edit("train", loss="own.py:scaled", loss_args={"scale": 1.0, "clip": 2}),
        "got an unexpected keyword argument 'clip'",
    ),
    "a loss without a finite gradient": (_edit("train", loss="own.py:root"), "its gradient is [nan"),
    "an advantage of another shape": (_edit("train", advantage="own.py:one"), "expected a list of 3 numbers"),
    "an argument that AdamW has not": (
        _edit("train", optimizer={"momentum": 0.9}),
        "unexpected keyword argument 'momentum'",
    ),
    "a tracker that is not there": (_edit("train", trackers=["wandb"]), "pip install 'zero-rl[wandb]'"),
    "a model that is not there": (_own_model, "no/such/folder is not a folder"),
    "a file that is not there": (_data(), "data/mine.jsonl does not exist"),
    "a column that is not there": (_data({"q": "1+1", "ans": "2"}), "no column 'a'"),
    "gold answers that are no answers": (
        _data(*[{"q": f"{i}+1", "a": ""} for i in range(9)]),
        "no answer in column 'a'",
    ),
    "a line of a CSV file with a comma too many": (_csv("q,a\n1+1,2\n2,000+1,2001\n"), "mine.csv:3: got 3 values"),
    "no room for a prompt": (_edit("rollout", max_tokens=2000), "leaves no room for a prompt"),
    "prompts that are all too long": (_edit("rollout", max_prompt_tokens=1), "is longer than 1 tokens"),
    "a chat with a model that has none": (
        lambda recipe: recipe["task"].update(template="chat"),
        "this model's tokenizer has no chat template",
    ),
    "weights that need a GPU": (
        lambda recipe: recipe["rollout"].update(engine="vllm", server={"weight_transfer": "nccl"}),
        "nccl needs CUDA GPUs",
    ),
    "a server that does not answer": (
        lambda recipe: recipe["rollout"].update(engine="vllm", server={"urls": ["http://127.0.0.1:9"]}),
        "http://127.0.0.1:9",
    ),
    "a folder that is somebody's": (_used, "recipe-out is not empty"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_with_one_clear_message(mistake, recipe):
    edit, said = MISTAKES[mistake]
    edit(recipe)
    result = dry(recipe, "--output", "recipe-out")
    assert result.exit_code == 2, result.output
    (message,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert message.startswith("error: ")
    assert said in message


def test_too_little_memory_is_found(recipe, monkeypatch):
    monkeypatch.setenv("ZERO_MEMORY_LIMIT_GIB", "0.01")
    result = dry(recipe)
    assert result.exit_code == 2
    assert "too little memory" in result.stderr
    assert "as the model sees it" in result.output


def test_several_mistakes_are_said_at_once_and_the_rest_is_shown(recipe):
    recipe["train"]["optimizer"], recipe["model"]["path"] = {"momentum": 1}, "/none"
    result = dry(recipe)
    assert result.exit_code == 2
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["error", "train.optimizer"]
    assert "4096 problems to train on" in result.output


@pytest.mark.slow
def test_gold_answers_that_are_sentences_are_said_with_the_setting_that_reads_them(recipe):
    rows("gsm.jsonl", *[{"q": f"{i} + 1?", "a": f"We add one to it.\nThat is it.\n#### {i + 1}"} for i in range(20)])
    result = dry(of_file(recipe, "gsm.jsonl"))
    assert "18 of 18 gold answers are sentences" in result.output
    assert r"set task.answer_pattern: '####\s*(.+)', which reads" in result.output
    settled = of_file(recipe, "gsm.jsonl")
    settled["task"]["answer_pattern"] = r"####\s*(.+)"
    assert "are sentences" not in dry(settled).output


@pytest.mark.parametrize(
    ("answers", "pattern"),
    [
        (["5 apples", "12", "3/4", "two dozen eggs"], None),
        ([r"\frac{\sqrt{3}}{2} \text{ and } \infty", "x = 3"], None),
        (["A robe takes 2 bolts.\n#### 3", "He buys it.\n#### 7"], r"####\s*(.+)"),
        ([r"So we get that the sum is $\boxed{\frac{1}{2}}$.", r"It is then clear: \boxed{7}"], "boxed"),
        (["First we add them up. The answer is 12.", "Halve it and the answer is: 4"], r"(?i)answer is"),
        (["In the end she has 3 of them left", "Tom then pays back 12 whole dollars"], r"(-?\d"),
        (["Paris is the capital of France", "Nobody knows what it was"], "no pattern"),
    ],
)
def test_which_gold_answers_are_sentences_and_what_reads_them(answers, pattern):
    found = advice(answers)
    if pattern is None:
        assert found is None
    elif pattern == "no pattern":
        assert found is not None
        assert found.pattern is None
        assert "task.columns.answer" in str(found)
    else:
        assert found is not None
        assert found.pattern is not None
        assert found.pattern.startswith(pattern)


@pytest.mark.slow
@pytest.mark.parametrize("name", builtin_recipes())
def test_every_built_in_recipe_has_a_dry_run_that_shows_what_it_pays(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fewer = ["--set", "task.problems=1000"] if name == "puzzles_1.7b_1gpu" else []  # of 20,000, that are minutes
    result = CliRunner().invoke(main, ["run", name, "--dry-run", *fewer])
    assert "Traceback" not in result.output
    assert result.exit_code in (0, 2)
    if is_chain(name):
        for stage in load_chain(name).stages:
            assert f"\n{stage.name}: {stage.kind} from " in result.output or f"stage {stage.name}: " in result.output
        return
    assert "prompts x" in result.output
    unread = "Without a connection to the hub" in result.output  # then there is no row to show
    assert unread or "the gold answer" in result.output
