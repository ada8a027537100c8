"""CSV files, names alone, recipes shown, shell completion, the hub out of reach, and what a resumed run may change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.problems.csv_file import CSVError, read_csv
from recipes import hub
from recipes.command import loading
from recipes.command.complete import recipe_names
from recipes.command.loading import working
from recipes.command.main import main
from recipes.jobs.resumed import changed_otherwise
from recipes.schema.load import builtin_recipes, load_recipe
from recipes.schema.recipe import TaskSettings
from recipes.tasks import load_task

HEAVY = ("torch", "pyarrow", "datasets", "aiohttp", "numpy")
TINY = "tiny_arithmetic_cpu"
ROOT = Path(__file__).parents[3]


def zero(*arguments: object):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("q,a\n1+1,2\n", [{"q": "1+1", "a": "2"}]),
        ("\ufeffq;a\r\n1,5;3.10\r\n\r\n", [{"q": "1,5", "a": "3.10"}]),
        ('q\ta\n"two\nlines"\t007', [{"q": "two\nlines", "a": "007"}]),
        ('q, a\n"a ""b"" c",', [{"q": 'a "b" c', "a": ""}]),
    ],
)
def test_a_csv_file_is_read_as_the_text_that_it_holds(text, rows, tmp_path):
    (tmp_path / "f.csv").write_text(text, newline="")
    assert read_csv(tmp_path / "f.csv") == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no rows"),
        (b"q,a\n", "holds no rows"),
        (b"q,q\n1,2\n", "f.csv:1: the column 'q' is there twice"),
        (b"q,a\n1,2\n3\n", "f.csv:3: got 1 values, expected 2"),
        (b'q,a\n"1,2\n', "not valid CSV"),
        (b"q,a\n\xff,2\n", "no text file in UTF-8"),
    ],
)
def test_a_csv_file_that_is_no_table_is_refused_by_line(content, said, tmp_path):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(CSVError, match=said):
        read_csv(tmp_path / "f.csv")


def test_csv_problems_are_a_task_and_csv_completions_are_scored_and_checked(tmp_path):
    (tmp_path / "sums.csv").write_text("q,a\n" + "".join(f"{i}+1,{i + 1}\n" for i in range(20)))
    columns = {"question": "q", "answer": "a"}
    settings = TaskSettings.model_validate({"dataset": str(tmp_path / "sums.csv"), "columns": columns})
    task = load_task(settings, 4, 0)
    assert len(task.train) + len(task.held_out) == 20
    assert all(row.answer == str(int(row.question.partition("+")[0]) + 1) for row in task.train)
    (tmp_path / "done.csv").write_text("completion,answer,label\n<answer>4</answer>,4,1\n<answer>5</answer>,4,no\n")
    assert "mean 0.5000 of 2" in zero("score", "--reward", "accuracy", "--data", tmp_path / "done.csv").output
    refused = zero("rewards", "check", "accuracy", "--data", tmp_path / "done.csv")
    assert "row 2: label: got 'no', expected true or false" in refused.stderr


def test_a_name_alone_is_a_reward(tmp_path):
    (tmp_path / "own.py").write_text("def f(completions, **columns): return [0.0] * len(completions)")
    (tmp_path / "r.yaml").write_text("model: {path: tiny}\ntask: {name: arithmetic}\nrewards: [accuracy, own.py:f]\n")
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    assert [one.name for one in recipe.rewards] == ["accuracy", f"{tmp_path}/own.py:f"]
    assert recipe.rewards[0] == load_recipe(str(tmp_path / "r.yaml"), ["rewards=[{name: accuracy}]"]).rewards[0]


def test_a_recipe_is_shown_as_it_stands_or_with_every_setting(tmp_path):
    assert zero("recipes", "show", TINY).output == builtin_recipes()[TINY][0].read_text()
    (tmp_path / "all.yaml").write_text(zero("recipes", "show", TINY, "--set", "train.steps=7").output)
    assert load_recipe(str(tmp_path / "all.yaml")) == load_recipe(TINY, ["train.steps=7"])
    assert "(did you mean 'tiny_arithmetic_cpu'?)" in zero("recipes", "show", "tiny_arithmetic").stderr
    assert TINY in zero("recipes").output


@pytest.mark.slow
def test_the_shell_completes_commands_options_and_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidy.yaml").touch()
    (tmp_path / "tidy.txt").touch()
    assert recipe_names("ti") == [*(name for name in builtin_recipes() if name.startswith("ti")), "tidy.yaml"]
    for words, expected in (("zero re", "report"), ("zero run ti", TINY), ("zero run x --dr", "--dry-run")):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "PYTHONPATH": str(ROOT)}
        env = os.environ | {"_ZERO_COMPLETE": "complete_bash", **asked}
        code = "from recipes.command.main import main; main(prog_name='zero')"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert expected in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("name", "asked"),
    [("owner/name", True), ("folder/here", False), ("./a/b", False), ("/a", False), ("tiny", False), ("a/b/c", False)],
)
def test_which_names_are_the_hubs(name, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "here").mkdir(parents=True)
    assert hub.is_hub_id(name) is asked


def test_a_hub_that_does_not_answer_is_asked_once_and_then_given_up(monkeypatch):
    for module in ("huggingface_hub.constants", "datasets.config"):
        if module in sys.modules:
            monkeypatch.setattr(sys.modules[module], hub.OFFLINE, False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(hub.OFFLINE, "")
    assert hub.give_up_unless_reachable(["tiny", None]) == ""
    assert "http://127.0.0.1:9 does not answer: owner/name can come" in hub.give_up_unless_reachable(["owner/name"])
    assert hub.offline()
    assert hub.give_up_unless_reachable(["owner/name"]) == ""


def test_a_run_to_be_evaluated_is_a_folder_and_never_asked_of_the_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused = zero("eval", "--run", "runs/none")
    assert refused.exit_code == 2
    assert refused.stderr.endswith("error: --run runs/none: it has no recipe.yaml; expected the directory of a run\n")


@pytest.mark.parametrize(
    ("key", "engine", "may"),
    [
        ("train.checkpoint_every", "vllm", True),
        ("train.keep_checkpoints", "transformers", True),
        ("train.eval_every", "vllm", True),
        ("train.trackers.0", "vllm", True),
        ("rollout.server.kv_cache_gib", "vllm", True),
        ("rollout.max_sequences", "vllm", True),
        ("rollout.max_sequences", "transformers", False),
        ("train.seed", "vllm", False),
        ("train.checkpoint_every_other", "vllm", False),
        ("train.steps", "vllm", False),
    ],
)
def test_what_does_not_change_what_is_computed_may_change_on_resume(key, engine, may):
    assert (changed_otherwise({key: (1, 2)}, [], engine) == {}) is may
    assert changed_otherwise({"train.steps": (1, 2)}, ["train.steps=2"], engine) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", TINY, "--output", "out"],
        ["run", TINY, "--dry-run"],
        ["eval", "--model", "tiny", "--benchmark", "arithmetic"],
        ["eval", "--generations", "theirs.jsonl"],
        ["filter", TINY, "--output", "kept.jsonl"],
    ],
)
def test_a_command_says_that_it_loads_before_it_imports_anything_heavy(arguments, tmp_path):
    """What takes seconds comes after the first line: at that moment none of it has been imported."""
    code = (
        "import builtins, sys\n"
        "said = builtins.print\n"
        "def first(*text, **options):\n"
        f"    said(*text, [name for name in {HEAVY} if name in sys.modules])\n"
        "    sys.exit(0)\n"
        "builtins.print = first\n"
        f"from recipes.command.main import main; main({arguments!r})"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "loading PyTorch, transformers and datasets []\n", done.stderr


def test_what_lasts_longer_than_a_moment_is_said_on_stderr_and_what_does_not_is_not(monkeypatch, capsys):
    with working("a moment"):
        pass
    monkeypatch.setattr(loading, "LATE", 0.001)
    said = ""
    with working("checking mine.py:f"):
        while not said:  # for ever, if it is not said
            said = capsys.readouterr().err
    assert said == "checking mine.py:f\n"
    assert capsys.readouterr() == ("", "")
